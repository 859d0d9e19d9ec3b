"""For every test: a guard against hanging, and a schedule that can be replayed."""

import functools
import inspect
from collections.abc import Generator, Iterator

import pytest
import trio
from hypothesis import settings

from trio_jobs.testing.schedule import seeded_schedule

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


@pytest.fixture(autouse=True)
def schedule_can_be_replayed() -> Iterator[None]:
    """Seed the scheduler for every test; those marked ``interleavings`` go over it."""
    with seeded_schedule(0):
        yield
