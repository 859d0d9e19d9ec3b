"""For every test: a guard against hanging, and a schedule that can be replayed."""

import functools
import inspect
from collections.abc import Generator

import pytest
import trio
from hypothesis import settings
from trio._core import _run as trio_run

# The same examples in every run, on every machine: a failure is there to stay.
settings.register_profile("suite", derandomize=True, database=None, deadline=None)
settings.load_profile("suite")

# Seconds by the test's own clock. Under a mock clock nothing takes time, so a
# test that stands still jumps here at once.
_REAL_LIMIT = 60.0
_MOCK_LIMIT = 1e9


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Wrap each async test into a time limit: a deadlock fails at once, by name."""
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        test = item.obj
        limit = _MOCK_LIMIT if "autojump_clock" in item.fixturenames else _REAL_LIMIT

        @functools.wraps(test)
        async def guarded(*args: object, **kwargs: object) -> None:
            with trio.fail_after(limit):
                await test(*args, **kwargs)

        item.obj = guarded
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Make the suite's markers known."""
    config.addinivalue_line(
        "markers", "interleavings(n): run the test under n schedules of Trio's, each of them seeded"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat a test marked ``interleavings(n)`` under n seeds."""
    marker = metafunc.definition.get_closest_marker("interleavings")
    if marker is not None:
        metafunc.parametrize("scheduler_seed", range(*marker.args), indirect=True)


@pytest.fixture(autouse=True)
def scheduler_seed(request: pytest.FixtureRequest) -> int:
    """The seed of Trio's scheduler, which shuffles the tasks that are ready to run."""
    seed: int = getattr(request, "param", 0)
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r.seed(seed)
    return seed
