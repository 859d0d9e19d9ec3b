"""For every test: a guard against hanging, and a schedule that can be replayed."""

import functools
import inspect
import itertools
import math
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import settings

from tests.proof.share import share_of
from trio_jobs.testing.schedule import seeded_schedule

# The same examples in every run, on every machine: a failure is there to stay.
settings.register_profile("suite", derandomize=True, database=None, deadline=None)
settings.load_profile("suite")

# Seconds by the test's own clock. Under a mock clock nothing takes time, so a
# test that stands still jumps here at once.
_REAL_LIMIT = 60.0
_MOCK_LIMIT = 1e9
_SOAK_LIMIT = 7200.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the checks that take minutes; see ``docs/reliability.md``."""
    group = parser.getgroup("soak")
    group.addoption("--report", type=Path, help="a folder for what the soak tests have measured")


def pytest_configure(config: pytest.Config) -> None:
    """Make the suite's marker known."""
    config.addinivalue_line(
        "markers", "soak: takes minutes; runs only where it is asked for with -m soak"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes, unless ``-m`` says something about it."""
    wanted = share_of(1) if "soak" in config.option.markexpr else 0
    kept, left_out = [], []
    for _, same in itertools.groupby(items, lambda item: item.nodeid.partition("[")[0]):
        group = list(same)
        count = math.ceil(wanted * len(group)) if takes_minutes(group[0]) else len(group)
        kept += group[:count]
        left_out += group[count:]
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


def takes_minutes(item: pytest.Item) -> bool:
    """Whether a test is marked ``soak``."""
    return item.get_closest_marker("soak") is not None


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Wrap each async test into a time limit: a deadlock fails at once, by name."""
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        test = item.obj
        limit = _MOCK_LIMIT if "autojump_clock" in item.fixturenames else _REAL_LIMIT
        if takes_minutes(item):
            limit = _SOAK_LIMIT

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


@pytest.fixture
def report(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder for what was measured."""
    folder: Path | None = request.config.option.report
    return tmp_path if folder is None else folder
