"""What a stop had to cut off is in a file, and one upload takes it up again: each job once."""

import itertools
import json
import os
import resource
import signal
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import trio
from msgspec.structs import replace

from tests.command import Command, Gate, configuration, ledger, run_command, running_command
from tests.support import make_job
from tests.test_stopping import FAULT_IN_THE_STORE, with_fault
from trio_jobs.api.ndjson import Lines
from trio_jobs.api.submission_json import parse_submission
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.job import Job
from trio_jobs.leftovers import Leftovers, LeftoversError, Line
from trio_jobs.pool.store import UnfinishedJobs
from trio_jobs.unfinished_report import UnfinishedReport

TOO_LONG = 20.0
APART = 0.3  # seconds between two signals, for both to count


async def anything(_payload: object) -> None:
    """A handler."""


def write(
    path: Path, *, begun: Sequence[Job] = (), not_begun: Sequence[Job] = (), seconds: float = 5
) -> tuple[str, dict[str, object]]:
    """Write these jobs; what the log is told."""
    leftovers = Leftovers(path)
    leftovers.start()
    leftovers.begin(UnfinishedJobs(begun=begun, not_begun=not_begun), seconds=seconds)
    assert leftovers.wait(TOO_LONG)
    event, fields = leftovers.line()
    return event, dict(fields)


def submissions(path: Path) -> list[tuple[str, bytes]]:
    """What `POST /jobs/stream` makes of a file."""
    lines = Lines()
    texts = [*lines.feed(path.read_bytes()), lines.last()]
    handlers = HandlerRegistry.of({"default": anything})
    parsed = [parse_submission(text, handlers) for text in texts if text.strip()]
    return [(each.type, each.payload) for each in parsed]


@pytest.mark.parametrize(
    ("job_type", "payload"),
    [
        ("email", b'{"to": "user@example.com"}'),
        ("email", b'{\n  "to":\r\n "a\\nb"\n}'),
        ("email", b"null"),
        ('"\\\n\u2028\U0001f4e7', '"\u2028\x7f"'.encode()),
        ("long", b'"' + b"x" * 1_000_000 + b'"'),
        ("x" * 1_000_000, b"[]"),
    ],
)
def test_each_line_is_a_submission_of_the_same_job(
    tmp_path: Path, job_type: str, payload: bytes
) -> None:
    path = tmp_path / "leftovers.jsonl"
    job = make_job("a", type=job_type, payload=payload)

    write(path, not_begun=[job, make_job("b")])

    [(found_type, found), last] = submissions(path)
    assert (found_type, json.loads(found)) == (job_type, json.loads(payload))
    assert last == ("test", b"null")
    # A submission that was as long as one may be is no longer here.
    shortest = {"type": job_type} | ({} if payload == b"null" else {"payload": None})
    size = len(json.dumps(shortest, separators=(",", ":"), ensure_ascii=False).encode())
    size += 0 if payload == b"null" else len(payload) - len(b"null")
    assert (
        len(path.read_bytes().splitlines(keepends=True)[0]) <= size + len("\n") or b"\n" in payload
    )


def test_interrupted_jobs_are_in_a_file_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "leftovers.jsonl"

    told = write(path, begun=[make_job("a", payload=b"1")], not_begun=[make_job("b", payload=b"2")])

    other = tmp_path / "leftovers.interrupted.jsonl"
    assert submissions(path) == [("test", b"2")]
    assert submissions(other) == [("test", b"1")]
    assert told == (
        "leftovers_written",
        {"interrupted": 1, "not_started": 1, "path": str(path), "interrupted_path": str(other)},
    )


def test_job_that_a_client_has_asked_to_cancel_is_not_taken_up_again(tmp_path: Path) -> None:
    cancelled = [replace(make_job(job_id), cancel_requested=True) for job_id in "ab"]

    told = write(tmp_path / "left", begun=cancelled[:1], not_begun=cancelled[1:])

    assert told == ("leftovers_written", {"interrupted": 0, "not_started": 0, "cancelled": 2})
    assert list(tmp_path.iterdir()) == []


def test_nobody_else_may_read_the_files(tmp_path: Path) -> None:
    before = os.umask(0)
    write(tmp_path / "left", begun=[make_job("a")], not_begun=[make_job("b")])
    os.umask(before)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"left": 0o600, "left.interrupted": 0o600}


def test_file_of_an_earlier_stop_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "leftovers.jsonl"
    for n in range(3):
        write(path, not_begun=[make_job("a", payload=b"%d" % n)])

    found = {each.name: submissions(each) for each in tmp_path.iterdir()}
    assert found == {
        "leftovers.jsonl": [("test", b"0")],
        "leftovers.1.jsonl": [("test", b"1")],
        "leftovers.2.jsonl": [("test", b"2")],
    }


def test_jobs_are_written_once_whoever_asks(tmp_path: Path) -> None:
    leftovers = Leftovers(tmp_path / "left")
    leftovers.start()

    for _ in range(2):
        leftovers.begin(UnfinishedJobs(begun=[], not_begun=[make_job("a")]), seconds=5)

    assert leftovers.wait(TOO_LONG)
    assert submissions(tmp_path / "left") == [("test", b"null")]
    assert [path.name for path in tmp_path.iterdir()] == ["left"]


def test_folder_is_that_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    leftovers = Leftovers(Path("left"))
    leftovers.start()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")

    leftovers.begin(UnfinishedJobs(begun=[], not_begun=[make_job("a")]), seconds=5)

    assert leftovers.wait(TOO_LONG)
    assert submissions(tmp_path / "left") == [("test", b"null")]


def test_full_disk_keeps_whole_lines_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "left"
    jobs = [make_job(f"{n}", payload=b'"%s"' % (b"x" * 1000)) for n in range(100)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        event, fields = write(path, not_begun=jobs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert event == "leftovers_not_written"
    assert fields["cause"] == f"{path}: File too large"
    assert fields["not_started"] == len(submissions(path)) == 48


def test_descriptors_that_are_used_up_leave_one_for_the_file(tmp_path: Path) -> None:
    leftovers = Leftovers(tmp_path / "left")
    leftovers.start()
    taken: list[int] = []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            taken.extend(map(os.dup, itertools.repeat(2)))
        leftovers.begin(UnfinishedJobs(begun=[], not_begun=[make_job("a")]), seconds=5)
        ended = leftovers.wait(TOO_LONG)
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert ended
    assert submissions(tmp_path / "left") == [("test", b"null")]


def test_disk_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, leave = threading.Event(), threading.Event()

    def hang(*_args: object) -> int:
        opened.set()
        leave.wait(TOO_LONG)
        raise OSError(5, "Input/output error")

    leftovers = Leftovers(tmp_path / "left")
    leftovers.start()
    monkeypatch.setattr("trio_jobs.leftovers.os.write", hang)
    leftovers.begin(UnfinishedJobs(begun=[], not_begun=[make_job("a")]), seconds=5)
    assert opened.wait(TOO_LONG)

    waited, told = leftovers.wait(0.01), leftovers.line()

    leave.set()
    assert leftovers.wait(TOO_LONG)
    assert not waited
    assert (told[0], told[1]["cause"]) == ("leftovers_not_written", "not written in time")
    assert leftovers.line()[1]["cause"] == f"{tmp_path / 'left'}: Input/output error"


def test_disk_that_hangs_costs_the_log_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave = threading.Event()

    def hang(*_args: object) -> int:
        leave.wait(TOO_LONG)
        raise OSError(5, "Input/output error")

    leftovers = Leftovers(tmp_path / "left")
    leftovers.start()
    jobs = UnfinishedJobs(begun=[make_job("a")], not_begun=[make_job("b")])
    report = UnfinishedReport(lambda: jobs, leftovers)
    monkeypatch.setattr("trio_jobs.leftovers._created", hang)
    log = FinalLines()

    report.write(jobs, log, seconds=0.2)  # type: ignore[arg-type]  # what it needs of a log

    leave.set()
    assert leftovers.wait(TOO_LONG)
    assert [event for event, _ in log.lines] == [
        "jobs_interrupted",
        "jobs_not_started",
        "leftovers_not_written",
    ]
    assert log.lines[-1][1]["cause"] == "not written in time"


class FinalLines:
    """A log that keeps its last lines."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def write_final(
        self, _logger: str, _level: int, events: Iterable[Line], *, seconds: float
    ) -> int:
        assert 0 < seconds <= 0.2
        before = len(self.lines)
        self.lines += events
        return len(self.lines) - before


def test_nothing_is_written_after_the_deadline(tmp_path: Path) -> None:
    event, fields = write(tmp_path / "left", not_begun=[make_job("a")], seconds=-1)

    assert (event, fields["not_started"]) == ("leftovers_not_written", 0)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [make_folder, make_pipe, make_link])
@pytest.mark.parametrize("name", ["left", "left.interrupted"])
def test_path_of_something_else_is_refused(
    tmp_path: Path, make: Callable[[Path], None], name: str
) -> None:
    make(tmp_path / name)

    with pytest.raises(LeftoversError, match=f"{name}' is there, and is no regular file"):
        Leftovers(tmp_path / "left")


# Over the command


def shop(workers: int = 1, *, grace_period: float = 60, work: str = "at_the_gate") -> str:
    config = configuration(work, "quick", workers=workers, grace_period=grace_period)
    return config.replace("[pool]", '[pool]\nleftovers = "left.jsonl"', 1)


async def take_up(server: Command, path: Path) -> dict[str, int]:
    """One `curl -T`, as the page about stopping has it."""
    process = await trio.run_process(
        ["curl", "-sS", "-T", str(path), "-X", "POST", f"{server.url}/jobs/stream"],
        capture_stdout=True,
    )
    answer: dict[str, int] = json.loads(process.stdout)
    return answer


async def test_one_upload_takes_up_what_was_left_and_each_job_runs_once(tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        async with running_command(tmp_path, config=shop(grace_period=0.3)) as server:
            for n in range(30):
                await server.submit("at_the_gate", n)
            await server.wait_for_line("work at_the_gate")
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 1
        [line] = server.lines_with("leftovers_written")
        assert f"interrupted=1 not_started=29 interrupted_path={tmp_path}/left.interr" in line
        assert server.log.index("leftovers_written") < server.log.index("jobs_interrupted")
        gate.open()
        async with running_command(tmp_path, config=shop()) as server:
            await server.wait_for_lines(2, "leftovers_found")
            assert await take_up(server, tmp_path / "left.jsonl") == {"accepted": 29}
            assert await take_up(server, tmp_path / "left.interrupted.jsonl") == {"accepted": 1}
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 0

    assert Counter(ledger(tmp_path)) == Counter(map(str, range(30)))


async def test_upload_that_is_cut_off_goes_on_behind_the_jobs_in_the_list(tmp_path: Path) -> None:
    # Long ones: a short body is not looked into before it is complete.
    lines = [f'{{"type":"quick","payload":{n}{" " * 100_000}}}\n' for n in range(10)]
    content = "".join(lines).encode()
    head = (
        f"POST /jobs/stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    async with running_command(tmp_path, config=shop()) as server:
        parts = httpx.URL(server.url)
        stream = await trio.open_tcp_stream(parts.host, parts.port or 0)
        await stream.send_all(head.encode() + content[: len("".join(lines[:3])) + 10])
        accepted: list[dict[str, str]] = []
        with trio.fail_after(TOO_LONG):
            while len(accepted) < 3:
                accepted = (await server.client.get("/jobs")).json()
        await stream.aclose()
        last = (await server.client.get(f"/jobs/{accepted[-1]['id']}")).json()
        rest = tmp_path / "rest"
        rest.write_text("".join(lines[last["payload"] + 1 :]))
        assert await take_up(server, rest) == {"accepted": 7}
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0

    assert Counter(ledger(tmp_path)) == Counter(map(str, range(10)))


async def test_second_signal_leaves_a_file(tmp_path: Path) -> None:
    with Gate(tmp_path):
        async with running_command(tmp_path, config=shop()) as server:
            for n in range(2):
                await server.submit("at_the_gate", n)
            await server.wait_for_line("work at_the_gate")
            server.send(signal.SIGTERM)
            await server.wait_for_line("draining")
            await trio.sleep(APART)
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 1

    assert submissions(tmp_path / "left.jsonl") == [("at_the_gate", b"1")]
    assert submissions(tmp_path / "left.interrupted.jsonl") == [("at_the_gate", b"0")]


async def test_third_signal_leaves_a_file(tmp_path: Path) -> None:
    config = shop(work="stubborn")
    async with running_command(tmp_path, config=config) as server:
        for n in range(2):
            await server.submit("stubborn", n)
        await server.wait_for_line("stubborn_began")
        for expected in ("draining", "cancellation_swallowed", "third signal"):
            await trio.sleep(APART)
            server.send(signal.SIGTERM)
            await server.wait_for_line(expected)
        assert await server.wait_exit() == 70

    assert server.lines_with(
        "CRITICAL trio_jobs.shutdown.stop leftovers_written interrupted=1 not_started=1"
    )
    assert submissions(tmp_path / "left.jsonl") == [("stubborn", b"1")]


async def test_sigquit_leaves_a_file(tmp_path: Path) -> None:
    with Gate(tmp_path):
        async with running_command(tmp_path, config=shop()) as server:
            for n in range(2):
                await server.submit("at_the_gate", n)
            await server.wait_for_line("work at_the_gate")
            server.send(signal.SIGQUIT)
            assert await server.wait_exit() == 70

    assert submissions(tmp_path / "left.jsonl") == [("at_the_gate", b"1")]
    assert submissions(tmp_path / "left.interrupted.jsonl") == [("at_the_gate", b"0")]


async def test_failure_of_the_pool_leaves_a_file(tmp_path: Path) -> None:
    command = with_fault(FAULT_IN_THE_STORE)
    with Gate(tmp_path):
        async with running_command(tmp_path, config=shop(), command=command) as server:
            content = '[{"type":"quick","payload":0},{"type":"at_the_gate","payload":1}]'
            with suppress(httpx.HTTPError):
                await server.client.post("/jobs/batch", content=content)
            assert await server.wait_exit() == 1

    assert server.lines_with("CRITICAL trio_jobs.main pool_failed")
    assert submissions(tmp_path / "left.jsonl") == [("at_the_gate", b"1")]
    assert submissions(tmp_path / "left.interrupted.jsonl") == [("quick", b"0")]


async def test_hard_limit_leaves_a_file(tmp_path: Path) -> None:
    config = shop(work="shielded", grace_period=0.1).replace("= 2.0", "= 0.1")
    async with running_command(tmp_path, config=config) as server:
        for n in range(2):
            await server.submit("shielded", n)
        await server.wait_for_line("shielded_began")
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 70

    assert server.lines_with(
        "CRITICAL trio_jobs.shutdown.stop leftovers_written interrupted=1 not_started=1"
    )
    assert submissions(tmp_path / "left.jsonl") == [("shielded", b"1")]


async def test_stop_that_leaves_nothing_leaves_no_file(tmp_path: Path) -> None:
    async with running_command(tmp_path, config=shop()) as server:
        await server.submit("quick")
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0

    assert not server.lines_with("leftovers")
    assert list(await trio.Path(tmp_path).glob("left*")) == []


async def test_folder_that_has_gone_is_told_and_the_jobs_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    config = shop(grace_period=0.1).replace("left.jsonl", "there/left.jsonl")
    with Gate(tmp_path):
        async with running_command(tmp_path, config=config) as server:
            job_id = await server.submit("at_the_gate", 0)
            await server.wait_for_line("work at_the_gate")
            folder.rmdir()
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 1

    [line] = server.lines_with("leftovers_not_written")
    cause = f'cause="{folder}/left.interrupted.jsonl: No such file or directory"'
    assert f"{cause} interrupted=0 not_started=0" in line
    assert server.lines_with("jobs_interrupted", job_id)


async def test_a_hundred_thousand_jobs_are_written_and_named_in_time(tmp_path: Path) -> None:
    config = shop(grace_period=0.3).replace("workers = 1", "workers = 1\nbuffer_size = 100000")
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text("".join(f'{{"type":"at_the_gate","payload":{n}}}\n' for n in range(100_000)))
    with Gate(tmp_path):
        async with running_command(tmp_path, config=config) as server:
            assert await take_up(server, jobs) == {"accepted": 100_000}
            await server.wait_for_line("work at_the_gate")
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 1

    assert server.lines_with("leftovers_written interrupted=1 not_started=99999")
    assert not server.lines_with("not_all_named")
    assert (tmp_path / "left.jsonl").read_text() == "".join(
        jobs.read_text().splitlines(keepends=True)[1:]
    )


@pytest.mark.parametrize("end", ["hard limit", "second signal", "SIGQUIT"])
async def test_a_hundred_thousand_jobs_of_as_many_types_are_accounted_for_in_time(
    tmp_path: Path, end: str
) -> None:
    grace_period = 60 if end == "second signal" else 0.3
    work = "shielded" if end == "hard limit" else "at_the_gate"
    config = shop(grace_period=grace_period, work=work)
    config = config.replace("workers = 1", "workers = 1\nbuffer_size = 100000")
    config = config.replace("[handlers]", f'[handlers]\ndefault = "work:{work}"').replace(
        "= 2.0", "= 0.5"
    )
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text("".join(f'{{"type":"type{n}","payload":{n}}}\n' for n in range(100_000)))
    with Gate(tmp_path):
        async with running_command(tmp_path, config=config) as server:
            assert await take_up(server, jobs) == {"accepted": 100_000}
            server.send(signal.SIGQUIT if end == "SIGQUIT" else signal.SIGTERM)
            if end == "second signal":
                await server.wait_for_line("draining")
                await trio.sleep(APART)
                server.send(signal.SIGTERM)
            # Neither faulthandler's clock, whose status is 1 as well, nor the kernel's.
            assert await server.wait_exit() == (1 if end == "second signal" else 70)

    assert not server.lines_with("Timeout (")
    assert bool(server.lines_with("hard limit reached")) == (end == "hard limit")
    named = [
        job_id
        for line in server.lines_with(" job_ids=")
        for job_id in line.partition(" job_ids=")[2].split(",")
    ]
    left_out = [
        int(line.partition("count=")[2])
        for line in server.lines_with("unfinished_jobs_not_all_named")
    ]
    assert len(set(named)) == len(named)
    assert len(named) + sum(left_out) == 100_000


def test_names_that_come_too_late_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = UnfinishedJobs(begun=[], not_begun=[make_job(str(n)) for n in range(200)])
    clock = iter([0.0, 0.1, 0.2, 100.0])
    monkeypatch.setattr(
        "trio_jobs.unfinished_report.time", SimpleNamespace(monotonic=lambda: next(clock))
    )

    lines = list(UnfinishedReport(lambda: jobs, None).lines())

    assert [event for event, _ in lines] == [
        "jobs_not_started",
        "jobs_not_started",
        "unfinished_jobs_not_all_named",
    ]
    assert lines[-1][1] == {"count": 100}


def test_folder_in_which_no_file_can_be_made_is_refused() -> None:
    with pytest.raises(LeftoversError, match="'/proc' cannot be written to: "):
        Leftovers(Path("/proc/x"))


def test_check_of_the_folder_leaves_nothing(tmp_path: Path) -> None:
    Leftovers(tmp_path / "left")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("check", [[], ["--check"]], ids=["start", "check"])
async def test_folder_that_is_not_there_is_a_mistake_in_the_configuration(
    tmp_path: Path, check: list[str]
) -> None:
    config = shop().replace("left.jsonl", "nowhere/left.jsonl")

    finished = await run_command(tmp_path, *check, config=config)

    folder = tmp_path / "nowhere"
    assert finished.status == 2
    assert finished.lines[-1] == (
        f"trio-jobs: pool.leftovers: the folder '{folder}' does not exist"
    )
