"""For every test: a guard against hanging, and a schedule that can be replayed."""

import functools
import gc
import inspect
import itertools
import logging
import math
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest
import trio
from hypothesis import is_hypothesis_test, settings
from trio.testing import MockClock

from tests.made_once import make_once
from tests.postgres.cluster import roomy_memory
from tests.proof.share import ALL_EXAMPLES, is_in_part, is_taken, share_of, swept
from trio_jobs.handlers.asyncio_task import AsyncioTask
from trio_jobs.testing.schedules import seeded_schedule

# The fixtures of a database, for every folder.
pytest_plugins = ["tests.postgres.fixtures"]

# The same examples in every run, on every machine: a failure is there to stay. A run
# of the unmarked tests has a quarter of them; all are proof.
settings.register_profile(
    "all", derandomize=True, database=None, deadline=None, max_examples=ALL_EXAMPLES
)
settings.register_profile("some", settings.get_profile("all"), max_examples=ALL_EXAMPLES // 4)

# Seconds by the test's own clock. Under a mock clock nothing takes time, so a
# test that stands still jumps here at once.
_REAL_LIMIT = 600.0
_MOCK_LIMIT = 1e9
_SOAK_LIMIT = 7200.0
_DEPLOY_LIMIT = 300.0
_MANY_SECONDS = 60.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the checks that take minutes; see ``docs/reliability.md``."""
    group = parser.getgroup("soak")
    group.addoption("--report", type=Path, help="a folder for what the soak tests have measured")


# Folders whose tests get a marker of the folder's name, and why they have one.
FOLDERS = {
    "system": "starts the real command, child processes or another pytest",
    "proof": "sweeps over every step, and models with many examples",
    "docs": "follows the pages of the documentation",
    "deploy": "boots a machine, or builds an image; needs to be root on Linux",
    "browser": "looks at the page in Chromium",
}
MARKERS = {**FOLDERS, "soak": "takes minutes"}
HERE = Path(__file__).parent

# Folders that no other run imports: importing them costs each run seconds.
ALONE = FOLDERS.keys() - {"system"}

# Markers that tests of any folder may have, and what gives them: files without it are left out.
NAMED = {
    "soak": (b"soak",),
    "proof": (b"proof", b"interleavings", b"@given"),
    "system": (b"pytest.mark.system",),
}

# Of a test marked ``interleavings``, how many seeds run without ``-m``; the rest are proof.
FEW_SEEDS = 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: some tests wait for a clock, a thread or a process."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else 4


def pytest_configure(config: pytest.Config) -> None:
    """Register the suite's markers; restore the signals that servers inherit."""
    # A shell's background and nohup ignore them, and a server would go on ignoring them.
    for signum, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, handler)
    named = named_by(config)
    settings.load_profile("all" if config.option.markexpr or named & FOLDERS.keys() else "some")
    if not config.option.markexpr and not named & ALONE:
        keep_folders_in_memory()
    for name, reason in MARKERS.items():
        config.addinivalue_line(
            "markers", f"{name}: {reason}; runs with -m {name}, or where its folder is named"
        )
    config.addinivalue_line("markers", "smoke: runs without -m, whatever its folder")


def keep_folders_in_memory() -> None:
    """Let the folders of tests be in memory if there is room: no test waits for a disk then."""
    memory = roomy_memory()
    if memory is not None:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out folders and files whose tests would be left out one by one."""
    return True if is_left_out(collection_path, config) else None


def is_left_out(path: Path, config: pytest.Config) -> bool:
    """Whether nothing in a folder or file would run."""
    if config.option.markexpr:
        return lacks(path, config.option.markexpr)
    is_file = path.name.startswith("test_")
    return (top_of(path) in ALONE and top_of(path) not in named_by(config)) or (
        is_file and not is_in_part(str(path.relative_to(HERE)))
    )


def lacks(path: Path, marker: str) -> bool:
    """Whether a run with ``-m`` leaves out a folder or file, for no test there has the marker."""
    if marker in NAMED:
        return path.suffix == ".py" and not may_have(path, marker)
    return marker in FOLDERS and top_of(path) not in ("", marker)


def top_of(path: Path) -> str:
    """The folder in `tests` of a folder or file, or the file there; nothing for other paths."""
    return (*path.relative_to(HERE).parts, "")[0] if path.is_relative_to(HERE) else ""


@functools.cache
def may_have(path: Path, marker: str) -> bool:
    """Whether a test file, or a `conftest.py` of its folders, names a marker."""
    folders = [folder for folder in path.parents if HERE in folder.parents]
    files = [path, *(folder / "conftest.py" for folder in folders)]
    return any(
        word in file.read_bytes() for file in files if file.exists() for word in NAMED[marker]
    ) or (HERE / marker in folders)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Keep the garbage collector from what is imported and collected: all of it stays.

    While modules are compiled it would take more time than all the rest. Afterwards it waits for
    more objects than usual: a test makes thousands, and few are in a circle.
    """
    gc.disable()
    try:
        import_in_turn(session.config)
        result = yield
        gc.collect()
        gc.freeze()
    finally:
        gc.enable()
    gc.set_threshold(5000)
    return result


def import_in_turn(config: pytest.Config) -> None:
    """Let each process of pytest-xdist import other modules first.

    So most modules, in a fresh clone, are compiled by one process, and found by the others.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if not worker or config.args != config.getini("testpaths"):
        return
    files = [
        path.relative_to(HERE.parent)
        for path in sorted(HERE.rglob("test_*.py"))
        if not is_left_out(path, config)
    ]
    first = int(worker) * len(files) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    for path in files[first:] + files[:first]:
        with suppress(Exception, pytest.skip.Exception):  # the collection meets it again
            import_module(".".join(path.with_suffix("").parts))


def named_by(config: pytest.Config) -> set[str]:
    """The folders of `tests` that the command line names, also by a file in them."""
    paths = [config.invocation_params.dir / each for each in config.args]
    return {path.relative_to(HERE).parts[0] for path in paths if HERE in path.parents}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test by its folder; without ``-m``, leave out the marked ones.

    A folder or file that the command line names runs without ``-m`` too, except for the soak.
    """
    named = named_by(config)
    left_out = soak_beyond_the_share(items)
    for item in items:
        folder = item.path.relative_to(HERE).parts[0]
        if "smoke" in marks(item) and folder in ALONE:
            raise pytest.UsageError(f"{item.nodeid}: no run without -m collects {folder}")
        if folder in FOLDERS and not marks(item) & {"smoke", "soak"}:
            item.add_marker(folder)
        if (seed := seed_of(item)) >= FEW_SEEDS:
            item.add_marker("proof")
            if seed not in swept(item.nodeid.partition("[")[0], seed):
                left_out.append(item)
        # No share of a share: both go on with each commit, so some would never be taken.
        elif (has_all := has_all_examples(item, config)) or is_second_way(item):
            if has_all:
                item.add_marker("proof")
            if not is_taken(item.nodeid):
                left_out.append(item)
        for marker in marks(item) & MARKERS.keys():
            if lacks(item.path, marker):
                raise pytest.UsageError(f"{item.nodeid}: -m {marker} does not collect its file")
        if not config.option.markexpr and marks(item) & MARKERS.keys() - named:
            left_out.append(item)
    gone = set(left_out)
    config.hook.pytest_deselected(items=list(gone))
    items[:] = [item for item in items if item not in gone]


def soak_beyond_the_share(items: list[pytest.Item]) -> list[pytest.Item]:
    """The cases of each soak test that ``SOAK_SHARE`` leaves out."""
    left_out: list[pytest.Item] = []
    soak = [item for item in items if "soak" in marks(item)]
    for _, cases in itertools.groupby(soak, lambda item: item.nodeid.partition("[")[0]):
        test = list(cases)
        left_out += test[math.ceil(share_of(1) * len(test)) :]
    return left_out


def seed_of(item: pytest.Item) -> int:
    """The seed of a run of a test marked ``interleavings``; 0 of another test."""
    seed = item.callspec.params.get("scheduler_seed", 0) if hasattr(item, "callspec") else 0
    assert isinstance(seed, int)
    return seed


def has_all_examples(item: pytest.Item, config: pytest.Config) -> bool:
    """Whether a property of another folder runs again as proof."""
    is_property = isinstance(item, pytest.Function) and is_hypothesis_test(item.obj)
    return is_property and config.option.markexpr == "proof" and not marks(item) & FOLDERS.keys()


def is_second_way(item: pytest.Item) -> bool:
    """Whether a test of the API or of the HTTP server runs in the way that is part of the proof."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return params.get("fast_path") is False or params.get("ways") is True


def marks(item: pytest.Item) -> set[str]:
    """The names of a test's markers."""
    return {mark.name for mark in item.iter_markers()}


def pytest_sessionstart() -> None:
    """Make once what most tests need: each has an application of its own, many have clients."""
    make_once()


def under_mock_clock(item: pytest.Function) -> bool:
    """Whether a test's clock jumps ahead."""
    marker = item.get_closest_marker("trio_jobs")
    if marker is not None and marker.kwargs.get("mock_clock", True):
        return True
    return not {"autojump_clock", "mock_clock"}.isdisjoint(item.fixturenames)


def reason_of(skipped: BaseException) -> BaseException:
    """What an async test, or a fixture of it, was skipped with: pytest-trio leaves out why."""
    reason = skipped.__context__
    while isinstance(reason, BaseExceptionGroup):
        [reason] = reason.exceptions
    return reason if isinstance(reason, pytest.skip.Exception) else skipped


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Wrap each async test into a time limit: a deadlock fails at once, by name.

    A test that is cancelled instead of coming to its end would pass, unseen.
    """
    came_to_its_end = True
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        test = item.obj
        came_to_its_end = False
        mocked = under_mock_clock(item)
        limit = _MOCK_LIMIT if mocked else _REAL_LIMIT
        if "soak" in marks(item):
            limit = _SOAK_LIMIT
        if "deploy" in marks(item):
            limit = _DEPLOY_LIMIT

        @functools.wraps(test)
        async def guarded(*args: object, **kwargs: object) -> None:
            nonlocal came_to_its_end
            # pytest-trio finds the clock of a fixture among the test's arguments alone.
            assert not mocked or isinstance(trio.lowlevel.current_clock(), MockClock)
            with trio.fail_after(limit):
                await test(*args, **kwargs)
            came_to_its_end = True

        item.obj = guarded
    try:
        result = yield
    except pytest.skip.Exception as skipped:
        raise reason_of(skipped) from None
    if not came_to_its_end:
        pytest.fail("the test was cancelled before it came to its end", pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape lone surrogates in captured text: pytest-xdist fails to send them."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True)
def schedule_can_be_replayed() -> Iterator[None]:
    """Seed the scheduler for every test; those marked ``interleavings`` go over it."""
    with seeded_schedule(0):
        yield


@pytest.fixture(autouse=True)
def end_of_a_pool_has_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let asyncio's tasks, lifespans and child processes end, however busy the machine is.

    They have tenths of a second.

    Under a mock clock, time does not pass by itself.
    """
    if under_mock_clock(request.node):
        return
    monkeypatch.setattr(AsyncioTask.unwind, "__kwdefaults__", {"seconds": _MANY_SECONDS})
    monkeypatch.setattr("trio_jobs.handlers.loop_thread._CLOSING_TIME", _MANY_SECONDS)
    monkeypatch.setattr("trio_jobs.handlers.places._LEAST_CLOSING_TIME", _MANY_SECONDS)
    monkeypatch.setattr("trio_jobs.handlers.process_pool._CLOSING_TIME", _MANY_SECONDS)


@pytest.fixture
def report(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder for what was measured."""
    folder: Path | None = request.config.option.report
    return tmp_path if folder is None else folder


@pytest.fixture
def pythons_own_ctrl_c() -> Iterator[None]:
    """SIGINT is Python's, also where it is ignored, as in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Turn logging off: else each run's tracebacks would be kept for a report."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
