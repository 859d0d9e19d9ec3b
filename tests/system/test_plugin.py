"""The pytest plugin, in projects that use it and in one that does not."""

import atexit
import os
import subprocess
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import trio_jobs
from tests.command import PATIENCE
from tests.ready_python import ReadyPython
from trio_jobs.testing import plugin

pytest_plugins = ["pytester"]

PLUGIN = ("-p", "trio_jobs.testing.plugin")
NO_ASYNCIO = ("-p", "no:asyncio")  # pytest-asyncio warns of its settings where there are none

# What a project has of its own: no trio_mode, and every warning is an error.
SETTINGS = """
[pytest]
filterwarnings = error
strict = true
"""

SLEEPER = """
import pytest, trio

async def sleep(seconds):
    await trio.sleep(seconds)
    return seconds
"""


# A project with a fixture of its own that has the name of ours.
OWN_FIXTURE = """
import pytest

@pytest.fixture
def jobs():
    return "our own"

def test_own_fixture(jobs):
    assert jobs == "our own"
"""


@pytest.fixture(autouse=True)
def this_code_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another version of it is installed."""
    monkeypatch.setenv("PYTHONPATH", str(Path(trio_jobs.__file__).parents[1].resolve()))


@cache
def ready_pytest() -> ReadyPython:
    """What forks the projects' runs of pytest."""
    ready = ReadyPython(os.environ, "pytest")
    atexit.register(ready.close)
    return ready


def run_pytest(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """`pytester.runpytest_subprocess` in a fork: it takes a fifth of a start."""
    assert ready_pytest().can_fork(os.environ)
    # What is imported already is not rewritten.
    temporary = ("--assert=plain", f"--basetemp={pytester.path / 'basetemp'}")
    output = pytester.path / "output"
    with output.open("w") as file:
        fork = ready_pytest().fork(
            [*temporary, *arguments],
            cwd=Path.cwd(),
            env=os.environ,
            stdout=file.fileno(),
            stderr=file.fileno(),
        )
    status = fork.wait(PATIENCE)
    text = output.read_text()
    sys.stdout.write(text)  # a test that fails shows it
    return pytest.RunResult(status, text.splitlines(), [], 0)


def run(pytester: pytest.Pytester, test: str, *arguments: str) -> pytest.RunResult:
    """Run one module of tests of a project."""
    make_project(pytester, test)
    return run_pytest(pytester, *PLUGIN, *NO_ASYNCIO, *arguments)


def make_project(pytester: pytest.Pytester, test: str) -> None:
    """One of one module."""
    pytester.makefile(".ini", pytest=SETTINGS)
    pytester.makepyfile(test)


def test_job_of_an_hour_is_tested_at_once(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        SLEEPER
        + """
@pytest.mark.trio_jobs({"sleep": sleep}, workers=1)
async def test_sleep(jobs):
    job = jobs.submit("sleep", 3600)
    assert await jobs.result(job.id) == 3600
    assert trio.current_time() == 3600
""",
        "--durations=1",
        "--durations-min=60",
    )

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*test_sleep*")  # among the slow ones


def test_marker_of_a_module_is_for_all_of_its_tests_that_are_async_and_a_closer_one_goes_over_it(
    pytester: pytest.Pytester,
) -> None:
    result = run(
        pytester,
        SLEEPER
        + """
from hypothesis import given, settings, strategies as st

pytestmark = pytest.mark.trio_jobs({"sleep": sleep}, workers=3)

async def test_far(jobs):
    assert jobs.statistics().workers == 3

@pytest.mark.trio_jobs({"sleep": sleep}, workers=2)
async def test_close(jobs):
    assert jobs.statistics().workers == 2

class TestInClass:
    @pytest.mark.parametrize("seconds", [1, 2])
    async def test_method(self, jobs, seconds):
        await jobs.result(jobs.submit("sleep", seconds).id)
        assert trio.current_time() == seconds

def test_plain():
    pass

@settings(deadline=None)
@given(st.integers())
def test_plain_property(number):
    pass

@settings(deadline=None)
@given(st.integers())
async def test_property(number):
    await trio.lowlevel.checkpoint()
""",
    )

    result.assert_outcomes(passed=7)


def test_pool_drains_after_the_test_for_as_long_as_the_grace_period(
    pytester: pytest.Pytester,
) -> None:
    result = run(
        pytester,
        SLEEPER
        + """
pytestmark = pytest.mark.trio_jobs({"sleep": sleep}, grace_period=10)
kept = []

@pytest.mark.parametrize("fails", [True, False])
async def test_leaves_jobs_behind(jobs, fails):
    kept.append((jobs, jobs.submit("sleep", 9), jobs.submit("sleep", 11)))
    assert not fails

def test_after():
    assert len(kept) == 2
    for jobs, short, long in kept:
        assert jobs.get(short.id).status == "completed"
        assert jobs.unfinished() == ([long.id], [])
""",
    )

    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(["*assert not fails*"])


def test_api_is_tested_without_sockets(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        SLEEPER
        + """
@pytest.mark.trio_jobs({"sleep": sleep}, buffer_size=5000)
async def test_more_than_ten_pieces(jobs, jobs_client):
    jobs.submit_all([("sleep", 1)] * 5000)
    await trio.sleep(25)
    async with jobs_client.open("GET", "/jobs") as exchange:
        assert await exchange.head() == 200
        assert len([piece async for piece in exchange.pieces()]) > 10

@pytest.mark.trio_jobs({"sleep": sleep}, buffer_size=5000)
async def test_leaving_early(jobs, jobs_client):
    jobs.submit_all([("sleep", 1)] * 5000)
    async with jobs_client.open("GET", "/jobs") as exchange:
        assert await exchange.head() == 200
    assert (await jobs_client.get("/health")).json() == {"status": "ok"}

@pytest.mark.trio_jobs({"sleep": sleep})
async def test_waiting(jobs_client):
    body = b'{"type": "sleep", "payload": 50}'
    answer = await jobs_client.post("/jobs", body, prefer="wait=60")
    assert answer.json()["result"] == 50
    assert trio.current_time() == 50
""",
    )

    result.assert_outcomes(passed=3)


def test_test_without_the_marker_is_told_of_it_and_the_next_one_is_fine(
    pytester: pytest.Pytester,
) -> None:
    result = run(
        pytester,
        SLEEPER
        + """
async def test_no_marker(jobs):
    pass

async def test_no_marker_but_a_client(jobs_client):
    pass

@pytest.mark.trio
async def test_other_marker(jobs):
    pass

@pytest.mark.trio_jobs
async def test_empty_marker(jobs):
    pass

@pytest.mark.skip
async def test_skipped(jobs):
    pass

@pytest.mark.trio_jobs({"sleep": sleep})
async def test_marker(jobs):
    assert await jobs.result(jobs.submit("sleep", 1).id) == 1
""",
    )

    result.assert_outcomes(errors=4, skipped=1, passed=1)
    said = [
        line for line in result.outlines if "mark the test with @pytest.mark.trio_jobs({" in line
    ]
    assert len(said) >= 4
    result.stdout.no_fnmatch_line("*Trio fixtures can only be used*")


def test_marker_with_wrong_arguments_says_what_it_was_given(pytester: pytest.Pytester) -> None:
    tables = ["{'a': print}, {'b': print}", "{}, handlers={}", "[print]", "handlers=None"]
    periods = ["None", "-1", "True", "'10'"]
    for n, given in enumerate([*tables, *(f"{{}}, grace_period={each}" for each in periods)]):
        test = f"import pytest\n@pytest.mark.trio_jobs({given})\nasync def test_pool(jobs): pass"
        pytester.makepyfile(**{f"test_{n}": test})

    result = run(pytester, "import pytest\n@pytest.mark.trio_jobs({})\ndef test_plain(jobs): pass")

    result.assert_outcomes(errors=len(tables) + len(periods) + 1)
    for given in tables:
        shown = given.replace("print", repr(print))
        assert (
            "the marker trio_jobs takes one table of functions by job type, and its options by"
            f" name, got ({shown})"
        ) in result.outlines
    for given in periods:
        assert (
            "the marker trio_jobs: grace_period must be a number of seconds from 0 to 604800,"
            f" got {given}"
        ) in result.outlines
    assert "the fixture `jobs` is for tests that are async functions" in result.outlines


def test_jobs_of_the_fixture_are_in_memory(pytester: pytest.Pytester) -> None:
    marker = "@pytest.mark.trio_jobs({'a': print}, path='jobs.db')"

    result = run(pytester, f"import pytest\n{marker}\nasync def test_pool(jobs): pass")

    result.assert_outcomes(errors=1)
    assert (
        "the marker trio_jobs: the fixture `jobs` has its jobs in memory, so path must be None"
    ) in result.outlines
    assert not (pytester.path / "jobs.db").exists()


def test_process_that_knows_nothing_of_a_mock_clock_is_refused(
    pytester: pytest.Pytester,
) -> None:
    result = run(
        pytester,
        """
import pytest, trio, trio.testing
from trio_jobs import Handler

def double(number):
    return number * 2

async def takes_anything(first, second, **more):
    pass

handlers = {"double": Handler.of(double, run="process")}

@pytest.mark.trio_jobs(handlers)
async def test_refused(jobs):
    pass

@pytest.mark.trio_jobs(handlers=handlers, mock_clock=False)
async def test_taken(jobs):
    with trio.fail_after(60):
        assert await jobs.result(jobs.submit("double", 21).id) == 42
    assert not isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)

@pytest.mark.trio_jobs(handlers, mock_clock=False)
async def test_refused_too(jobs, autojump_clock):
    pass

@pytest.mark.trio_jobs(handlers, mock_clock=False)
async def test_clock_that_stands_still(jobs, mock_clock):
    pass

@pytest.mark.trio_jobs({"double": handlers["double"], "bad": takes_anything})
async def test_no_handler(jobs):
    pass
""",
    )

    result.assert_outcomes(passed=2, failed=3)
    result.stdout.fnmatch_lines(
        [
            "*the handler of 'double' runs in a process*mock_clock=False*",
            "*HandlerError: the function for type 'bad' (*:takes_anything) *",
        ]
    )


def test_thread_follows_the_clock_of_its_test(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
import pytest, time, trio, trio.testing

real_sleep = time.sleep
kept = []

def sleep(seconds):
    time.sleep(seconds)
    return seconds

@pytest.mark.trio_jobs({"sleep": sleep})
async def test_mock_clock_of_the_marker(jobs):
    assert await jobs.result(jobs.submit("sleep", 3600).id) == 3600
    assert trio.current_time() == 3600

@pytest.mark.trio_jobs({"sleep": sleep})
async def test_clock_of_a_fixture(jobs, autojump_clock):
    assert await jobs.result(jobs.submit("sleep", 3600).id) == 3600
    assert autojump_clock.current_time() == 3600

@pytest.mark.trio_jobs({"sleep": sleep}, grace_period=10)
async def test_grace_period(jobs):
    kept.append((jobs, jobs.submit("sleep", 9), jobs.submit("sleep", 3600)))

@pytest.mark.trio_jobs({"sleep": sleep}, mock_clock=False)
async def test_real_clock(jobs):
    assert time.sleep is real_sleep
    assert await jobs.result(jobs.submit("sleep", 0.001).id) == 0.001

def test_after():
    [(jobs, short, long)] = kept
    assert jobs.get(short.id).status == "completed"
    assert jobs.unfinished() == ([long.id], [])
    assert time.sleep is real_sleep
""",
    )

    result.assert_outcomes(passed=5)


def test_asyncio_follows_the_clock_of_its_test(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
import asyncio, pytest, trio

async def sleep(seconds):
    await asyncio.sleep(seconds)
    return seconds

pytestmark = pytest.mark.trio_jobs({"sleep": sleep}, async_handlers="asyncio")
real_clock = pytest.mark.trio_jobs({"sleep": sleep}, async_handlers="asyncio", mock_clock=False)
not_virtual = pytest.mark.trio_jobs({}, asyncio_loop=asyncio.new_event_loop)

async def test_mock_clock_of_the_marker(jobs):
    assert await jobs.result(jobs.submit("sleep", 3600).id) == 3600
    assert trio.current_time() == 3600

@real_clock
async def test_clock_of_a_fixture(jobs, autojump_clock):
    assert await jobs.result(jobs.submit("sleep", 3600).id) == 3600
    assert trio.current_time() == 3600

@real_clock
async def test_real_clock(jobs):
    assert await jobs.result(jobs.submit("sleep", 0.001).id) == 0.001

@not_virtual
async def test_refused(jobs):
    pass

@not_virtual
async def test_without_a_pool():
    pass
""",
    )

    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*asyncio_loop=<*> follows no mock clock*mock_clock=False*"])


def test_marked_tests_run_under_trio_beside_tests_of_pytest_asyncio(
    pytester: pytest.Pytester,
) -> None:
    pytester.makefile(
        ".ini",
        pytest=f"{SETTINGS}asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n",
    )
    pytester.makepyfile(
        SLEEPER
        + """
import asyncio, time
from hypothesis import given, settings, strategies as st
from trio_jobs import Handler

def in_thread(seconds):
    time.sleep(seconds)
    return seconds

async def in_asyncio(seconds):
    await asyncio.sleep(seconds)
    return await asyncio.to_thread(in_thread, seconds)

handlers = {
    "sleep": sleep,
    "in_thread": in_thread,
    "in_asyncio": Handler.of(in_asyncio, run="asyncio"),
}

@pytest.mark.trio_jobs(handlers, workers=1)
async def test_ours(jobs, tmp_path):
    assert await jobs.result(jobs.submit("sleep", 60).id) == 60
    assert await jobs.result(jobs.submit("in_thread", 60).id) == 60
    assert await jobs.result(jobs.submit("in_asyncio", 60).id) == 60
    assert trio.current_time() == 240
    assert tmp_path.is_dir()

async def test_theirs():
    assert asyncio.get_running_loop() is asyncio.get_event_loop()
    await asyncio.sleep(0.001)

@pytest.fixture
async def engine():
    yield asyncio.get_running_loop()

async def test_their_fixture(engine):
    assert engine is asyncio.get_running_loop()

@pytest.mark.trio_jobs(handlers)
async def test_their_fixture_in_ours(jobs, engine):
    assert isinstance(engine, asyncio.AbstractEventLoop)
    assert await jobs.result(jobs.submit("sleep", 60).id) == 60

class TestClass:
    @pytest.fixture
    def a_minute(self, jobs):
        return jobs.submit("sleep", 60)

    @pytest.mark.parametrize("seconds", [30, 90])
    @pytest.mark.trio_jobs(handlers)
    async def test_ours(self, jobs, jobs_client, a_minute, seconds):
        await jobs.result(jobs.submit("sleep", seconds).id)
        assert (await jobs_client.get(f"/jobs/{a_minute.id}")).status == 200
        assert trio.current_time() == seconds

    async def test_theirs(self):
        assert asyncio.current_task() is not None

@pytest.mark.interleavings(3)
@pytest.mark.trio_jobs({})
async def test_ours_in_any_order(scheduler_seed):
    await trio.sleep(scheduler_seed)
    assert trio.current_time() == scheduler_seed

@pytest.mark.trio_jobs({})
@settings(deadline=None)
@given(st.integers(0, 3))
async def test_our_property(number):
    await trio.lowlevel.checkpoint()

@settings(deadline=None)
@given(st.integers(0, 3))
async def test_their_property(number):
    assert asyncio.current_task() is not None

def test_plain():
    pass
"""
    )

    result = run_pytest(pytester, *PLUGIN)

    result.assert_outcomes(passed=13)


def test_pytest_finds_the_plugin_by_itself() -> None:
    [found] = [
        each for each in entry_points(group="pytest11") if each.value == "trio_jobs.testing.plugin"
    ]

    assert found.load() is plugin


def test_failing_interleaving_is_named_and_can_be_repeated(pytester: pytest.Pytester) -> None:
    test = """
import pytest, trio

@pytest.mark.trio
@pytest.mark.interleavings(20)
async def test_race():
    order = []
    async def note(name):
        order.append(name)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(note, "a")
        nursery.start_soon(note, "b")
    assert order == ["a", "b"]
"""
    # As it is where hypothesis is not installed.
    pytester.makeconftest("import sys; sys.modules['hypothesis'] = None")
    without = ("-p", "no:hypothesispytest")

    result = run(pytester, test, *without)

    counts = result.parseoutcomes()
    assert counts["passed"] + counts["failed"] == 20
    assert counts["passed"] >= 2
    assert counts["failed"] >= 2
    said = [line for line in result.outlines if "the same again: pytest" in line]
    assert len(said) == counts["failed"]
    node = said[0].partition("pytest '")[2].removesuffix("'")
    assert said[0].startswith(f"scheduler seed {node.partition('[seed')[2].removesuffix(']')};")
    for _ in range(2):
        run(pytester, test, *without, node).assert_outcomes(failed=1)


@pytest.mark.parametrize("folder", [".", "tests/unit", "elsewhere"])
def test_command_for_the_same_again_runs_what_has_failed(
    folder: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makefile(".ini", pytest=SETTINGS)
    test = pytester.mkdir("tests") / "unit" / "test_it's $HOME.py"
    test.parent.mkdir()
    test.write_text("""
import pytest

@pytest.mark.interleavings(1)
@pytest.mark.parametrize("text", ["\u00e9", "a\\nb", "\\\\", "it's $HOME", "a::b", "", '"'])
def test_fails(text):
    assert text is None
""")
    (pytester.path / "elsewhere").mkdir()
    monkeypatch.chdir(pytester.path / folder)

    result = run_pytest(pytester, *PLUGIN, *NO_ASYNCIO, str(pytester.path / "tests"))

    result.assert_outcomes(failed=7)
    said = [line.partition("the same again: pytest ")[2] for line in result.outlines]
    # What a shell makes of them, all at once.
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\0' {' '.join(filter(None, said))}"],
        check=True,
        capture_output=True,
        text=True,
    )
    again = run_pytest(pytester, *PLUGIN, *NO_ASYNCIO, *words.stdout.split("\0")[:-1])
    again.assert_outcomes(failed=7)


def test_interleavings_of_a_property_differ_from_each_other(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
import os, pytest, trio
from hypothesis import given, settings, strategies as st

orders = {}

async def order_of(names):
    order = []
    async def note(name):
        order.append(name)
    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(note, name)
    orders.setdefault(os.environ["PYTEST_CURRENT_TEST"], []).append("".join(order))

@pytest.mark.trio
@pytest.mark.interleavings(20)
@settings(database=None, deadline=None, max_examples=5)
@given(number=st.integers())
async def test_async(number):
    await order_of("abcdef")

@pytest.mark.interleavings(20)
@settings(database=None, deadline=None, max_examples=5)
@given(number=st.integers())
def test_plain(number):
    trio.run(order_of, "abcdef")

def test_after():
    assert len(orders) == 40
    for kind in ("async", "plain"):
        of_kind = [found for test, found in orders.items() if kind in test]
        # The same for each example of one seed.
        assert all(len(found) == 5 and len(set(found)) == 1 for found in of_kind)
        assert len({found[0] for found in of_kind}) > 10
""",
    )

    result.assert_outcomes(passed=41)


def test_interleavings_are_a_number_and_who_says_otherwise_is_named(
    pytester: pytest.Pytester,
) -> None:
    arguments = ["", "0", "-1", "'3'", "True", "3.0", "3, 9", "m=3", "3, n=3", "n=3, m=3"]
    marks = ["interleavings", *(f"interleavings({each})" for each in arguments)]
    for n, mark in enumerate(marks):
        test = f"import pytest\n@pytest.mark.{mark}\ndef test_race(): pass"
        pytester.makepyfile(**{f"test_{n}": test})

    result = run(pytester, "")

    result.assert_outcomes(errors=len(marks))
    for n, mark in enumerate(marks):
        said = f"test_{n}.py::test_race: the marker interleavings takes one number, of at least 1,"
        given = mark.removeprefix("interleavings") or "()"
        assert f"{said} got {given}" in result.outlines


def test_seed_is_of_the_marked_test_alone(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
import pytest
from trio._core import _run

allowed, state = _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate()

@pytest.mark.trio
@pytest.mark.interleavings(n=2)
async def test_marked(scheduler_seed):
    assert scheduler_seed in (0, 1)
    assert _run._ALLOW_DETERMINISTIC_SCHEDULING
    assert _run._r.getstate() != state

def test_after():
    assert (_run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate()) == (allowed, state)
""",
    )

    result.assert_outcomes(passed=3)


def test_project_that_does_not_use_it_pays_nothing(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
import sys

def pytest_sessionfinish():
    heavy = {"trio", "msgspec", "quart", "hypercorn", "trio_jobs.embed", "hypothesis"}
    print("imported:", sorted(heavy & sys.modules.keys()))
"""
    )
    make_project(
        pytester,
        OWN_FIXTURE
        + """
def test_nothing(request):
    assert "scheduler_seed" not in request.fixturenames
""",
    )
    without = ("-p", "no:trio", "-p", "no:hypothesispytest", "-p", "no:anyio")

    result = pytester.runpytest_subprocess(*PLUGIN, *NO_ASYNCIO, *without, "-s", timeout=PATIENCE)

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*imported: []"])
