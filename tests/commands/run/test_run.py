"""`Run`: lines for answers, failures, refusals; errors of files; signals. Over a runner of ours."""

import errno
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from trio_jobs.commands.run.chunks import make_chunk
from trio_jobs.commands.run.done_lines import DoneLines
from trio_jobs.commands.run.input_file import InputFile
from trio_jobs.commands.run.line_files import LineFile
from trio_jobs.commands.run.reader import Reader
from trio_jobs.commands.run.records import Record, Submission
from trio_jobs.commands.run.run import Run
from trio_jobs.commands.run.run_progress import RunProgress
from trio_jobs.commands.run.runner import Deliver, JobEnd, RunnerError
from trio_jobs.commands.run.screen import Screen
from trio_jobs.commands.run.side_file import InputMark, RunOptions, SideFile
from trio_jobs.commands.run.stop_signals import StopSignals

SUCCESS = b'"id":"01","outcome":"succeeded","result":1}'
FAILURE = b'"id":"01","outcome":"failed","error":{"type":"E","message":"m"}}'
CANCELLED = b'"id":"01","outcome":"cancelled"}'


class Jobs:
    """A runner whose jobs end as the test says, when it says so."""

    failing_since = None

    def __init__(self) -> None:
        self.in_flight = 0
        self.asked: list[str] = []
        self.error: Exception | None = None
        self._ends, self.end = trio.open_memory_channel[JobEnd](1_000)

    async def run(self, _: Reader, deliver: Deliver) -> None:
        async for answer in self._ends_of_jobs():
            await deliver([answer])
            self.in_flight -= 1
        if self.error is not None:
            raise self.error

    async def _ends_of_jobs(self) -> AsyncIterator[JobEnd]:
        async for answer in self.end:
            yield answer

    def answer(self, members: bytes, *numbers: int) -> None:
        records = [Record(number, "t", b"[%d]" % number) for number in numbers]
        each = records[0]
        submission = Submission((each,), each.type, each.payload, "k")
        if len(records) > 1:
            submission = make_chunk(records, "k")
        outcome = json.loads(b"{" + members)["outcome"]
        self.in_flight += 1
        self._ends.send_nowait(JobEnd(submission, members, outcome))

    def over(self) -> None:
        self._ends.close()

    def stop(self) -> None:
        self.asked.append("stop")

    def cancel(self) -> None:
        self.asked.append("cancel")


class Parts:
    """A run and its parts, in a folder."""

    def __init__(self, folder: Path) -> None:
        (folder / "records").write_bytes(b"1\n2\n3\n")
        self.now = 0.0
        self.left: list[int] = []
        self.jobs = Jobs()
        self.done = DoneLines()
        self.out = folder / "out"
        self.failed = folder / "failed"
        self.results = LineFile.create(self.out)
        self.failures = LineFile.create(self.failed)
        self.side = SideFile.create(folder / "out.run", InputMark(1, ""), RunOptions())
        self.signals = StopSignals(leave=self.left.append, clock=self.clock)
        self.run = Run(
            self.jobs,
            self.done,
            self.results,
            self.failures,
            self.side,
            signals=self.signals,
            screen=Screen(quiet=True, fd=os.open(folder / "screen", os.O_RDWR | os.O_CREAT)),
            progress=RunProgress(self.done, lambda: 0.0),
        )
        self.reader = Reader(
            InputFile(str(folder / "records")),
            "r",
            self.done,
            job_type="t",
            chunk=None,
            refuse=self.run.refuse,
        )

    def clock(self) -> float:
        self.now += 1
        return self.now

    async def to_end(self) -> None:
        self.jobs.over()
        await self.run.run(self.reader)

    def lines(self, path: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    before = {each: signal.getsignal(each) for each in (2, 15, 1)}
    made = Parts(tmp_path)
    made.signals.take()
    yield made
    for signum, handler in before.items():
        signal.signal(signum, handler)


async def test_answers_are_lines_and_failures_have_their_record(parts: Parts) -> None:
    parts.jobs.answer(FAILURE, 7)
    parts.jobs.answer(SUCCESS, 3)
    await parts.to_end()

    failure = {"line": 7, "id": "01", "outcome": "failed", "error": {"type": "E", "message": "m"}}
    success = {"line": 3, "id": "01", "outcome": "succeeded", "result": 1}
    assert parts.lines(parts.out) == [failure, success]
    assert parts.lines(parts.failed) == [failure | {"type": "t", "payload": [7]}]
    assert (parts.done.succeeded, parts.done.failed) == (1, 1)
    assert parts.run.is_whole


async def test_refused_line_is_a_failure_without_a_record(parts: Parts) -> None:
    parts.run.refuse(2, "no JSON")
    await parts.to_end()

    error = {"type": "Refused", "message": "no JSON"}
    assert parts.lines(parts.out) == [{"line": 2, "outcome": "refused", "error": error}]
    assert parts.lines(parts.failed) == parts.lines(parts.out)


async def test_only_records_without_results_take_those_of_their_chunk(parts: Parts) -> None:
    parts.done.mark(1, failed=False)
    parts.jobs.answer(b'"outcome":"succeeded","result":[10,20,30]}', 1, 2, 3)
    await parts.to_end()

    assert [(each["line"], each["result"]) for each in parts.lines(parts.out)] == [(2, 20), (3, 30)]
    assert parts.done.number == 3


async def test_lines_are_written_within_a_second(parts: Parts, autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.run.run, parts.reader)
        await trio.sleep(3.1)
        parts.jobs.answer(SUCCESS, 1)
        await trio.sleep(0.9)
        seen = parts.lines(parts.out)
        parts.jobs.over()

    assert len(seen) == 1


@pytest.mark.parametrize("which", ["results", "failures"])
async def test_full_disk_stops_the_run_and_leaves_whole_lines(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    write, fds = os.write, {"results": parts.results._fd, "failures": parts.failures._fd}

    def write_or_fail(fd: int, data: bytes) -> int:
        if fd == fds[which]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    monkeypatch.setattr(os, "write", write_or_fail)
    parts.jobs.answer(FAILURE, 1)
    await parts.to_end()
    assert isinstance(parts.run.error, OSError)
    monkeypatch.setattr(os, "write", write)

    assert parts.jobs.asked == ["stop"]
    # A failure may be in its file without being in the results, not the other way round.
    assert parts.lines(parts.out) == []
    assert len(parts.lines(parts.failed)) == (which == "results")


async def test_answers_after_an_error_of_a_file_are_dropped(parts: Parts) -> None:
    parts.run.error = OSError(errno.EIO, "no")
    parts.jobs.answer(SUCCESS, 1)
    await parts.to_end()

    assert (parts.lines(parts.out), parts.done.number, parts.run.is_whole) == ([], 0, False)


async def test_error_of_the_runner_ends_the_run_with_what_there_is(parts: Parts) -> None:
    parts.jobs.answer(SUCCESS, 1)
    parts.jobs.error = RunnerError("gone")
    await parts.to_end()

    assert parts.run.error is parts.jobs.error
    assert [each["line"] for each in parts.lines(parts.out)] == [1]
    assert not parts.run.is_whole


async def test_first_signal_waits_for_what_is_under_way(parts: Parts) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.run.run, parts.reader)
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)
        await trio.testing.wait_all_tasks_blocked()
        assert parts.jobs.asked == ["stop"]
        parts.jobs.answer(SUCCESS, 1)
        parts.jobs.over()

    assert [each["line"] for each in parts.lines(parts.out)] == [1]
    assert (parts.run.is_whole, parts.signals.status) == (False, 130)
    assert await parts.reader.next() == []


async def test_second_ctrl_c_cancels_and_the_cancelled_lines_want_new_jobs(
    parts: Parts, autojump_clock: object
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.run.run, parts.reader)
        await trio.testing.wait_all_tasks_blocked()
        parts.jobs.answer(CANCELLED, 9)  # by somebody else, before
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        await trio.testing.wait_all_tasks_blocked()
        assert parts.jobs.asked == ["stop", "cancel"]
        parts.jobs.answer(CANCELLED, 1)
        parts.jobs.answer(SUCCESS, 2)
        parts.jobs.answer(CANCELLED, 3, 4)
        parts.jobs.over()

    assert [each["line"] for each in parts.lines(parts.out)] == [9, 2]
    assert [n for group in parts.side.state.repeated for n in group] == [1, 3, 4]
    assert parts.left == []


async def test_cancelled_jobs_that_do_not_end_are_left_after_two_seconds(
    parts: Parts, autojump_clock: object
) -> None:
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.run.run, parts.reader)
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    assert trio.current_time() - begun == 2
    assert parts.side.state.repeated == ()  # nobody knows how they end
    signal.raise_signal(signal.SIGINT)
    assert parts.left == [130]
