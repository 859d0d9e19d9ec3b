"""The pytest plugin: fixtures and markers for those who test their handlers.

It is loaded wherever trio-jobs is installed next to a pytest that is new
enough (see `trio_jobs.testing.plugin`). So it imports nothing that pytest has
not imported already, and does nothing to a test that does not ask for it.
"""

import functools
import inspect
import math
import os
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from trio_jobs.embed import Jobs
    from trio_jobs.testing.asgi_client import Client

_MARKER = "trio_jobs"
_SEED = "scheduler_seed"

# The server's default, in seconds of the test's clock.
_GRACE_PERIOD = 25.0


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known."""
    config.addinivalue_line(
        "markers",
        "trio_jobs(handlers, *, mock_clock=True, grace_period=25.0, **options): an async test runs"
        " under Trio, and its fixtures `jobs` and `jobs_client` are a pool over these handlers;"
        " the options are those of trio_jobs.open_jobs",
    )
    config.addinivalue_line(
        "markers",
        "interleavings(n): run the test under n schedules of Trio's, each of them seeded",
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Make an async test that is marked a test of Trio's, under a mock clock.

    Raises:
        pytest.UsageError: Nothing would run it.
    """
    marker = item.get_closest_marker(_MARKER)
    if marker is None or not _is_async(item):
        return
    pytest_trio = sys.modules.get("pytest_trio.plugin")
    if pytest_trio is None or not item.config.pluginmanager.is_registered(pytest_trio):
        raise pytest.UsageError(
            f"{item.nodeid}: the marker trio_jobs needs pytest-trio:"
            " install trio-jobs[testing], and do not disable the plugin"
        )
    if not marker.kwargs.get("mock_clock", True):
        item.add_marker(pytest.mark.trio)
        return
    runs = (each.kwargs["run"] for each in item.iter_markers("trio") if "run" in each.kwargs)
    item.add_marker(pytest.mark.trio(run=_under_mock_clock(next(runs, None))), append=False)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat a test marked ``interleavings(n)`` under n seeds."""
    marker = metafunc.definition.get_closest_marker("interleavings")
    if marker is None:
        return
    try:
        seeds = _seeds(*marker.args, **marker.kwargs)
    except TypeError:
        pytest.fail(
            f"{metafunc.definition.nodeid}: the marker interleavings takes one number, of at"
            f" least 1, got {_given(marker)}",
            pytrace=False,
        )
    if _SEED not in metafunc.fixturenames:
        metafunc.fixturenames.append(_SEED)
    metafunc.parametrize(_SEED, seeds, indirect=True, ids=[f"seed{seed}" for seed in seeds])


# Not among the first, where it would come before pytest's own look at marks like `skip`.
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tell a test that cannot have what it asks for why not, before any fixture is made."""
    both = item.get_closest_marker(_MARKER) and item.get_closest_marker("anyio")
    if both and _is_async(item):
        pytest.fail(
            "the test is marked trio_jobs, so pytest-trio runs it, and anyio, which would run it"
            " too: take one of the markers away",
            pytrace=False,
        )
    if not _uses_our_jobs(item):
        return
    _marker_of(item)
    if _hypothesis_of(item) is not None:
        pytest.fail(
            "the fixture `jobs` is made once, and Hypothesis runs this test once for each example:"
            " open a pool for each with trio_jobs.open_jobs",
            pytrace=False,
        )
    if not _is_async(item):
        pytest.fail("the fixture `jobs` is for tests that are async functions", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say which schedule a test has failed under."""
    report = yield
    seed = _seed_of(item)
    if report.failed and seed is not None:
        again = f"scheduler seed {seed}; the same again: pytest {shlex.quote(_argument_of(item))}"
        report.sections.append(("trio_jobs", again))
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Seed the scheduler of a test marked ``interleavings(n)``."""
    seed = _seed_of(item)
    if seed is None:
        return (yield)
    from trio_jobs.testing.schedules import seeded_schedule

    with seeded_schedule(seed):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Seed the scheduler once more for each of Hypothesis' examples, before which it seeds itself.

    By now what Hypothesis calls is a plain function: pytest-trio has seen to that.
    """
    seed, hypothesis = _seed_of(pyfuncitem), _hypothesis_of(pyfuncitem)
    if seed is None or hypothesis is None:
        return (yield)
    from trio_jobs.testing.schedules import seeded_schedule

    run_example = hypothesis.inner_test

    @functools.wraps(run_example)
    def run_seeded(*args: object, **kwargs: object) -> object:
        with seeded_schedule(seed):
            return run_example(*args, **kwargs)

    hypothesis.inner_test = run_seeded
    try:
        return (yield)
    finally:
        hypothesis.inner_test = run_example


def _seeds(n: object) -> range:
    if type(n) is not int or n < 1:
        raise TypeError(n)
    return range(n)


def _seed_of(item: pytest.Item) -> int | None:
    params: dict[str, int] = getattr(getattr(item, "callspec", None), "params", {})
    return params.get(_SEED)


def _argument_of(item: pytest.Item) -> str:
    """What runs this test if it is given to pytest, in the folder where it has been started."""
    # In a test's id the path is relative to the root, and nothing in a path is a double colon.
    path, colons, names = item.nodeid.partition("::")
    path = os.path.relpath(item.config.rootpath / path, item.config.invocation_params.dir)
    return f"{path}{colons}{names}"


def _hypothesis_of(item: pytest.Item) -> Any:  # noqa: ANN401
    """What Hypothesis has attached to a test that it runs; None if it is no such test."""
    function: Any = getattr(item, "obj", None)
    return function.hypothesis if getattr(function, "is_hypothesis_test", False) else None


def _is_async(item: pytest.Item) -> bool:
    """Whether a test is a coroutine function that pytest-trio can run."""
    if not isinstance(item, pytest.Function):
        return False
    unittest = sys.modules.get("unittest")
    if unittest is not None and item.cls is not None and issubclass(item.cls, unittest.TestCase):
        return False  # it has an event loop of its own
    hypothesis = _hypothesis_of(item)
    return inspect.iscoroutinefunction(item.obj if hypothesis is None else hypothesis.inner_test)


def _uses_our_jobs(item: pytest.Item) -> bool:
    """Whether a test has the fixture of this plugin, and not only one of the same name."""
    fixtures: Any = getattr(item, "_fixtureinfo", None)
    # The one that goes over the others comes last; it may be built on the one before it.
    for fixture in reversed(fixtures.name2fixturedefs.get("jobs", ()) if fixtures else ()):
        if getattr(fixture.func, "__module__", None) == __name__:
            return True
        if "jobs" not in fixture.argnames:
            return False
    return False


@pytest.fixture
def scheduler_seed(request: pytest.FixtureRequest) -> int | None:
    """The seed of this run of a test marked ``interleavings(n)``; None in one that is not."""
    seed: int | None = getattr(request, "param", None)
    return seed


async def jobs(request: pytest.FixtureRequest) -> AsyncIterator["Jobs"]:
    """A running pool over the handlers of the marker ``trio_jobs``; see `trio_jobs.Jobs`.

    When the test has ended, be it by an error, the pool drains, for at most as
    long as the grace period; jobs that are then unfinished are cut short.
    """
    import trio.testing

    from trio_jobs.embed import open_jobs

    marker = _marker_of(request.node)
    handlers = _handlers_in(marker)
    _check_clock(handlers)
    not_options = ("handlers", "mock_clock", "grace_period")
    options = {name: value for name, value in marker.kwargs.items() if name not in not_options}
    grace_period: float = marker.kwargs.get("grace_period", _GRACE_PERIOD)
    with trio.CancelScope() as scope:
        async with open_jobs(handlers, **options) as running:
            # So that a test finds each worker waiting for a job.
            await trio.testing.wait_all_tasks_blocked()
            yield running  # noqa: ASYNC119 - pytest-trio closes its fixtures
            scope.deadline = trio.current_time() + grace_period


# What `pytest_trio.trio_fixture` does, without importing it: else a test that
# is no Trio test would be handed the generator.
jobs._force_trio_fixture = True  # type: ignore[attr-defined]
jobs = pytest.fixture(jobs)


@pytest.fixture
def jobs_client(jobs: "Jobs") -> "Client":
    """The HTTP API over `jobs`, without sockets; see `trio_jobs.testing.Client`."""
    from trio_jobs.testing.asgi_client import Client

    return Client(jobs.asgi())


def _marker_of(item: pytest.Item) -> pytest.Mark:
    """The marker ``trio_jobs`` of a test that needs one, with what the fixture `jobs` needs."""
    marker = item.get_closest_marker(_MARKER)
    if marker is None or not (marker.args or "handlers" in marker.kwargs):
        pytest.fail(
            "the fixture `jobs` needs to know the handlers:"
            ' mark the test with @pytest.mark.trio_jobs({"email": send_email})',
            pytrace=False,
        )
    if len(marker.args) + ("handlers" in marker.kwargs) > 1 or not isinstance(
        _handlers_in(marker), Mapping
    ):
        pytest.fail(
            "the marker trio_jobs takes one table of functions by job type, and its options by"
            f" name, got {_given(marker)}",
            pytrace=False,
        )
    from trio_jobs.settings import PoolSettings, build

    try:
        build(PoolSettings, grace_period=marker.kwargs.get("grace_period", _GRACE_PERIOD))
    except ValueError as error:
        pytest.fail(f"the marker trio_jobs: {error}", pytrace=False)
    return marker


def _handlers_in(marker: pytest.Mark) -> Any:  # noqa: ANN401
    return marker.args[0] if marker.args else marker.kwargs["handlers"]


def _given(marker: pytest.Mark) -> str:
    """What a marker has been given, as it could have been written."""
    named = (f"{name}={value!r}" for name, value in marker.kwargs.items())
    return f"({', '.join([*map(repr, marker.args), *named])})"


def _check_clock(handlers: Mapping[str, object]) -> None:
    """Refuse handlers that a clock would not wait for."""
    import trio.testing

    from trio_jobs.handlers.handler import Run
    from trio_jobs.handlers.registry import HandlerRegistry

    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, trio.testing.MockClock) or clock.autojump_threshold == math.inf:
        return
    for name, handler in HandlerRegistry.of(handlers).table.items():
        if handler.run is not Run.ASYNC:
            pytest.fail(
                f"the handler of {name!r} runs in a {handler.run}, and a clock that jumps ahead"
                " does not wait for it: mark the test with trio_jobs(..., mock_clock=False), and"
                " give it no autojump_clock",
                pytrace=False,
            )


def _under_mock_clock(run: Callable[..., Any] | None) -> Callable[..., Any]:
    def run_under_mock_clock(*args: Any, clock: Any = None, **options: Any) -> Any:  # noqa: ANN401
        import trio.testing

        clock = clock or trio.testing.MockClock(autojump_threshold=0)
        return (run or trio.run)(*args, clock=clock, **options)

    return run_under_mock_clock
