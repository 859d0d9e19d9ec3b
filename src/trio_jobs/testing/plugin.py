"""The pytest plugin: fixtures and markers for tests of handlers.

Pytest loads the plugin wherever trio-jobs is installed. So importing the plugin loads nothing that
pytest has not loaded already, and a test that uses no marker and no fixture of the plugin runs as
if the plugin did not exist.
"""

import functools
import inspect
import os
import shlex
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from trio_jobs.embedded_jobs import Jobs
    from trio_jobs.testing.asgi_client import Client

_SEED = "scheduler_seed"
# A test's function, and whether the test has a mock clock if no fixture gives it one.
_TEST = pytest.StashKey[tuple[Callable[..., Any], bool]]()


_Pool = tuple[Mapping[str, object], float, dict[str, Any]]  # handlers, grace period, options


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
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


# The innermost wrapper, so that it runs before the wrappers of plugins that look for async
# functions, such as pytest-asyncio in its mode `auto`.
@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pycollect_makeitem() -> Generator[None, object, object]:
    """Show an async test with the marker ``trio_jobs`` as a plain function to other plugins."""
    made = yield
    for item in made if isinstance(made, list) else [made]:
        if not isinstance(item, pytest.Function) or not _is_async(item):
            continue
        marker = item.get_closest_marker("trio_jobs")
        if marker is not None:
            item.stash[_TEST] = item.obj, bool(marker.kwargs.get("mock_clock", True))
            item.obj = _plain_function
    return made


def pytest_itemcollected(item: pytest.Item) -> None:
    """Make an async test with the marker ``trio_jobs`` a Trio test, in virtual time."""
    if not isinstance(item, pytest.Function) or _TEST not in item.stash:
        return
    item.obj, mock_clock = item.stash[_TEST]
    runs = (each.kwargs["run"] for each in item.iter_markers("trio") if "run" in each.kwargs)
    run = _in_virtual_time(next(runs, None), mock_clock=mock_clock)
    item.add_marker(pytest.mark.trio(run=run), append=False)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat a test with the marker ``interleavings(n)`` under n seeds."""
    marker = metafunc.definition.get_closest_marker("interleavings")
    if marker is None:
        return
    try:
        seeds = _seeds(*marker.args, **marker.kwargs)
    except TypeError:
        _fail(
            f"{metafunc.definition.nodeid}: the marker interleavings takes one number, of at"
            f" least 1, got {_given(marker)}"
        )
    if _SEED not in metafunc.fixturenames:
        metafunc.fixturenames.append(_SEED)
    metafunc.parametrize(_SEED, seeds, indirect=True, ids=[f"seed{seed}" for seed in seeds])


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Run a test with the marker ``interleavings(n)`` under its seed."""
    seed = _seed_of(pyfuncitem)
    if seed is None:
        return (yield)
    from trio_jobs.testing.schedules import seeded_schedule

    hypothesis = getattr(pyfuncitem.obj, "hypothesis", None)
    if hypothesis is None:
        with seeded_schedule(seed):
            return (yield)
    # Hypothesis seeds Trio's scheduler before each example: seed it again within each example.
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Name the seed under which a test failed, and the command that repeats it."""
    report = yield
    seed = _seed_of(item)
    if report.failed and seed is not None:
        again = f"scheduler seed {seed}; the same again: pytest {shlex.quote(_argument_of(item))}"
        report.sections.append(("trio_jobs", again))
    return report


@pytest.fixture
def scheduler_seed(request: pytest.FixtureRequest) -> int | None:
    """The seed of this run of a test marked ``interleavings(n)``; None in any other test."""
    seed: int | None = getattr(request, "param", None)
    return seed


@pytest.fixture
def _jobs_marker(request: pytest.FixtureRequest) -> _Pool:
    """The arguments of the test's marker.

    This is a fixture of its own, and sync: so a bad marker fails the test before Trio starts.
    """
    marker = request.node.get_closest_marker("trio_jobs")
    if marker is None or not (marker.args or "handlers" in marker.kwargs):
        _fail(
            "the fixture `jobs` needs to know the handlers:"
            ' mark the test with @pytest.mark.trio_jobs({"email": send_email})'
        )
    if not _is_async(request.node):
        _fail("the fixture `jobs` is for tests that are async functions")
    try:
        return _read_marker(*marker.args, **marker.kwargs)
    except TypeError:
        _fail(
            "the marker trio_jobs takes one table of functions by job type, and its options by"
            f" name, got {_given(marker)}"
        )
    except ValueError as error:
        _fail(f"the marker trio_jobs: {error}")


def _read_marker(
    handlers: object,
    *,
    mock_clock: bool = True,  # noqa: ARG001  (see `pytest_pycollect_makeitem`)
    **options: object,
) -> _Pool:
    from trio_jobs.setting_type import build
    from trio_jobs.settings import PoolSettings

    if not isinstance(handlers, Mapping):
        raise TypeError(handlers)
    if options.get("path") is not None:
        # Nobody could tell a mock clock how long the disk takes, and tests would share the file.
        raise ValueError("the fixture `jobs` has its jobs in memory, so path must be None")
    grace_period = options.pop("grace_period", PoolSettings().grace_period)
    return handlers, build(PoolSettings, grace_period=grace_period).grace_period, options


def _fail(text: str) -> NoReturn:
    pytest.fail(text, pytrace=False)


def jobs(_jobs_marker: _Pool) -> AsyncIterator["Jobs"]:
    """A running pool over the handlers of the marker ``trio_jobs``; see `trio_jobs.Jobs`.

    After the test, also a failed one, the pool drains for at most the grace
    period; then the remaining jobs are cancelled.
    """
    # Not an async generator function: pytest-asyncio takes each of these, in its mode `auto`.
    return _open_jobs(*_jobs_marker)


async def _open_jobs(
    handlers: Mapping[str, object], grace_period: float, options: dict[str, Any]
) -> AsyncIterator["Jobs"]:
    import trio.testing

    from trio_jobs.embed import open_jobs

    with trio.CancelScope() as scope, _options_in_virtual_time(handlers, options) as options:
        async with open_jobs(handlers, **options) as running:
            # The test finds every worker waiting for a job.
            await trio.testing.wait_all_tasks_blocked()
            yield running  # noqa: ASYNC119 - pytest-trio closes its fixtures
            scope.deadline = trio.current_time() + grace_period


# `pytest_trio.trio_fixture` does the same, but importing it imports Trio.
jobs._force_trio_fixture = True  # type: ignore[attr-defined]
jobs = pytest.fixture(jobs)


@pytest.fixture
def jobs_client(jobs: "Jobs") -> "Client":
    """A client of the HTTP API over `jobs`, without sockets; see `trio_jobs.testing.Client`."""
    from trio_jobs.testing.asgi_client import Client

    return Client(jobs.asgi())


def _seeds(n: object) -> range:
    if type(n) is not int or n < 1:
        raise TypeError(n)
    return range(n)


def _seed_of(item: pytest.Item) -> int | None:
    params: dict[str, int] = getattr(getattr(item, "callspec", None), "params", {})
    return params.get(_SEED)


def _argument_of(item: pytest.Item) -> str:
    """The test as an argument of pytest in the folder in which this run was started."""
    # The path in a test's id is relative to the root; no path contains a double colon.
    path, colons, names = item.nodeid.partition("::")
    path = os.path.relpath(item.config.rootpath / path, item.config.invocation_params.dir)
    return f"{path}{colons}{names}"


def _is_async(item: pytest.Item) -> bool:
    """Whether a test, or the property inside a Hypothesis test, is a coroutine function."""
    function: Any = getattr(item, "obj", None)
    hypothesis = getattr(function, "hypothesis", None)
    return inspect.iscoroutinefunction(hypothesis.inner_test if hypothesis else function)


def _given(marker: pytest.Mark) -> str:
    """A marker's arguments as source text."""
    named = (f"{name}={value!r}" for name, value in marker.kwargs.items())
    return f"({', '.join([*map(repr, marker.args), *named])})"


def _plain_function() -> NoReturn:
    raise AssertionError("this stands for a test only until it is collected")


@contextmanager
def _options_in_virtual_time(
    handlers: Mapping[str, object], options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """A block for `open_jobs`; gives its options. Refuses what does not follow a mock clock."""
    from trio_jobs.handlers.handler import Run
    from trio_jobs.handlers.registry import HandlerRegistry
    from trio_jobs.testing.virtual_time import current_virtual_time

    virtual_time = current_virtual_time()
    if virtual_time is None:
        yield options
        return
    table = HandlerRegistry.of(handlers, async_handlers=options.get("async_handlers", "trio")).table
    for name, handler in table.items():
        if handler.run is Run.PROCESS and virtual_time.jumps:
            _fail(
                f"the handler of {name!r} runs in a process, and a clock that jumps ahead does not"
                " wait for it: mark the test with trio_jobs(..., mock_clock=False), and give it no"
                " autojump_clock"
            )
    if options.get("asyncio_loop", "asyncio") != "asyncio":
        _fail(
            f"asyncio_loop={options['asyncio_loop']!r} follows no mock clock: mark the test with"
            " trio_jobs(..., mock_clock=False), and give it no clock of a fixture"
        )
    if not any(handler.run is Run.ASYNCIO for handler in table.values()):
        yield options
        return
    with virtual_time.loop_to_come() as make_loop:
        yield {**options, "asyncio_loop": make_loop}


def _in_virtual_time(run: Callable[..., Any] | None, *, mock_clock: bool) -> Callable[..., Any]:
    """A function that runs a test as `trio.run` does, in virtual time.

    Args:
        run: Replaces `trio.run`.
        mock_clock: Whether a test that has no fixture for the clock has a mock clock. If not, only
            a test with such a fixture runs in virtual time.
    """

    def run_in_virtual_time(
        *args: Any,  # noqa: ANN401
        clock: Any = None,  # noqa: ANN401
        instruments: Sequence[Any] = (),
        **options: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        import trio.testing

        from trio_jobs.testing.virtual_time import VirtualTime

        if clock is None and mock_clock:
            clock = trio.testing.MockClock(autojump_threshold=0)
        run_test = functools.partial(run or trio.run, *args, clock=clock, **options)
        if not isinstance(clock, trio.testing.MockClock):
            return run_test(instruments=instruments)
        virtual_time = VirtualTime(clock)
        with virtual_time.patched():
            return run_test(instruments=[*instruments, virtual_time])

    return run_in_virtual_time
