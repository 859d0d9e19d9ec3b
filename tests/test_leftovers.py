"""What a stop had to cut off is in a file, and one upload takes it up again: each job once."""

import itertools
import json
import os
import resource
import stat
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from tests.support import HandlerRegistry, make_job
from trio_jobs import Job
from trio_jobs.api.ndjson import Lines
from trio_jobs.api.submission_json import parse_submission
from trio_jobs.leftovers import Leftovers, LeftoversError
from trio_jobs.pool.store import UnfinishedJobs
from trio_jobs.pool.unfinished import Line
from trio_jobs.pool.wall_clock import utc_now
from trio_jobs.unfinished_report import UnfinishedReport

TOO_LONG = 60.0


async def anything(_payload: object) -> None:
    """A handler."""


ONE_JOB = UnfinishedJobs(begun=[], not_begun=[make_job("a")])


def started(path: Path) -> Leftovers:
    leftovers = Leftovers(path)
    leftovers.start()
    return leftovers


def write(
    path: Path, *, begun: Sequence[Job] = (), not_begun: Sequence[Job] = (), seconds: float = 5
) -> tuple[str, dict[str, object]]:
    """Write these jobs; what the log is told."""
    leftovers = started(path)
    leftovers.begin(UnfinishedJobs(begun=begun, not_begun=not_begun), seconds=seconds)
    assert leftovers.wait(TOO_LONG)
    event, fields = leftovers.line()
    return event, dict(fields)


def submissions(path: Path) -> list[tuple[str, bytes]]:
    """What `POST /jobs/stream` makes of a file."""
    lines = Lines()
    texts = [*lines.feed(path.read_bytes()), lines.last()]
    handlers = HandlerRegistry.of({"default": anything})
    parsed = [parse_submission(text, handlers, utc_now) for text in texts if text.strip()]
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


def test_interrupted_jobs_are_in_a_file_of_their_own_and_both_are_private(tmp_path: Path) -> None:
    path, other = tmp_path / "leftovers.jsonl", tmp_path / "leftovers.interrupted.jsonl"
    before = os.umask(0)

    told = write(path, begun=[make_job("a", payload=b"1")], not_begun=[make_job("b", payload=b"2")])

    os.umask(before)
    assert submissions(path) == [("test", b"2")]
    assert submissions(other) == [("test", b"1")]
    assert {stat.S_IMODE(each.stat().st_mode) for each in (path, other)} == {0o600}
    assert told == (
        "leftovers_written",
        {"interrupted": 1, "not_started": 1, "path": str(path), "interrupted_path": str(other)},
    )


def test_waiting_jobs_are_among_those_that_have_not_begun_in_order(tmp_path: Path) -> None:
    leftovers = started(tmp_path / "left.jsonl")
    new, waiting = (
        make_job("b", type="new"),
        [make_job("a", type="old"), make_job("c", type="last")],
    )
    jobs = UnfinishedJobs(begun=[], not_begun=[new], waiting=waiting)

    leftovers.begin(jobs, seconds=5)
    assert leftovers.wait(TOO_LONG)

    assert leftovers.line()[1]["not_started"] == 3
    types = [type_ for type_, _ in submissions(tmp_path / "left.jsonl")]
    assert types == ["old", "new", "last"]


def test_job_that_a_client_has_asked_to_cancel_is_not_taken_up_again(tmp_path: Path) -> None:
    cancelled = [replace(make_job(job_id), cancel_requested=True) for job_id in "ab"]

    told = write(tmp_path / "left", begun=cancelled[:1], not_begun=cancelled[1:])

    assert told == ("leftovers_written", {"interrupted": 0, "not_started": 0, "cancelled": 2})
    assert list(tmp_path.iterdir()) == []


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


def test_folder_is_that_of_the_start_and_jobs_are_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    leftovers = started(Path("left"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")

    for _ in range(2):
        leftovers.begin(ONE_JOB, seconds=5)

    assert leftovers.wait(TOO_LONG)
    assert submissions(tmp_path / "left") == [("test", b"null")]
    assert {path.name for path in tmp_path.iterdir()} == {"left", "elsewhere"}


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
    assert fields["reason"] == f"{path}: File too large"
    assert fields["not_started"] == len(submissions(path)) == 48


def test_descriptors_that_are_used_up_leave_one_for_the_file(tmp_path: Path) -> None:
    leftovers = started(tmp_path / "left")
    taken: list[int] = []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            taken.extend(map(os.dup, itertools.repeat(2)))
        leftovers.begin(ONE_JOB, seconds=5)
        ended = leftovers.wait(TOO_LONG)
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert ended
    assert submissions(tmp_path / "left") == [("test", b"null")]


def test_disk_that_hangs_costs_neither_time_nor_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave = threading.Event()

    def hang(*_args: object) -> int:
        leave.wait(TOO_LONG)
        raise OSError(5, "Input/output error")

    leftovers = started(tmp_path / "left")
    jobs = UnfinishedJobs(begun=[make_job("a")], not_begun=[make_job("b")])
    report = UnfinishedReport(lambda: jobs, leftovers)
    monkeypatch.setattr("trio_jobs.leftovers.os.write", hang)
    log = FinalLines()

    report.write(jobs, log, seconds=0.2)  # type: ignore[arg-type]  # what it needs of a log

    leave.set()
    assert leftovers.wait(TOO_LONG)
    assert [event for event, _ in log.lines] == [
        "jobs_interrupted",
        "jobs_not_started",
        "leftovers_not_written",
    ]
    assert log.lines[-1][1]["reason"] == "not written in time"
    assert "left.interrupted: Input/output error; " in str(leftovers.line()[1]["reason"])


class FinalLines:
    """A log that keeps its last lines."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def write_final(
        self,
        _logger: str,
        _level: int,
        events: Iterable[Line],
        *,
        seconds: float,
        last: Callable[[], Iterable[Line]],
    ) -> None:
        assert 0 < seconds <= 0.2
        self.lines += events
        self.lines += last()


def test_nothing_is_written_after_the_deadline(tmp_path: Path) -> None:
    event, fields = write(tmp_path / "left", not_begun=[make_job("a")], seconds=-1)

    assert (event, fields["not_started"]) == ("leftovers_not_written", 0)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [make_folder, make_link, os.mkfifo])
@pytest.mark.parametrize("name", ["left", "left.interrupted"])
def test_path_of_something_else_is_refused(
    tmp_path: Path, make: Callable[[Path], None], name: str
) -> None:
    make(tmp_path / name)

    with pytest.raises(LeftoversError, match=f"{name}' is there, and is no regular file"):
        Leftovers(tmp_path / "left")


def test_names_that_come_too_late_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = UnfinishedJobs(begun=[], not_begun=[make_job(str(n)) for n in range(200)])
    clock = iter([0.0, 0.1, 0.2, 100.0])
    monkeypatch.setattr(
        "trio_jobs.unfinished_report.time", SimpleNamespace(monotonic=lambda: next(clock))
    )

    report = UnfinishedReport(lambda: jobs, None)
    lines = list(report.lines())

    assert [event for event, _ in lines] == [
        "jobs_not_started",
        "jobs_not_started",
    ]
    assert [*report.unnamed()] == [("unfinished_jobs_not_all_named", {"count": 100})]


def test_report_that_has_not_begun_counts_all_jobs() -> None:
    jobs = UnfinishedJobs(begun=[make_job("a")], not_begun=[make_job("b")])

    [line] = UnfinishedReport(lambda: jobs, None).unnamed()

    assert line == ("unfinished_jobs_not_all_named", {"count": 2})


def test_report_that_has_named_all_jobs_counts_none() -> None:
    report = UnfinishedReport(lambda: ONE_JOB, None)

    assert len([*report.lines()]) == 1

    assert [*report.unnamed()] == []


def test_folder_in_which_no_file_can_be_made_is_refused() -> None:
    with pytest.raises(LeftoversError, match="'/proc' cannot be written to: "):
        Leftovers(Path("/proc/x"))


def test_check_of_the_folder_leaves_nothing(tmp_path: Path) -> None:
    Leftovers(tmp_path / "left")

    assert list(tmp_path.iterdir()) == []
