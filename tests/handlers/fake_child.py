"""A child process whose part a test plays, step by step; and a pool that starts such children."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import msgspec
import pytest
import trio

from tests.handlers import tasks
from tests.support import ChildHandle, ProcessPool, make_job
from trio_jobs import Handler, Job
from trio_jobs.error_text import Failure
from trio_jobs.handlers.call_marks import CallMarks, make_memory
from trio_jobs.handlers.frames import HEADER, TIMES, Call, Kind, frame
from trio_jobs.handlers.process_group import ProcessGroup
from trio_jobs.handlers.running_job import RunningJob

HANDLER = Handler.of(tasks.pid, run="process")

# The time of an end: a job took a tenth of a millisecond.
END = frame(Kind.ENDED, TIMES.pack(0.0, 0.0001))


def end(seconds: float = 0.0001) -> bytes:
    """The frame of a function that ends now, and has taken so long."""
    return frame(Kind.ENDED, TIMES.pack(trio.current_time(), seconds))


class FakeGroup(ProcessGroup):
    """The process of a fake child.

    Attributes:
        before_kill: What the child does before its kill.
    """

    def __init__(self) -> None:
        super().__init__()
        self.before_kill: Callable[[], object] | None = None

    def kill_group(self) -> None:
        """Do the last step."""
        step, self.before_kill = self.before_kill, None
        if step is not None:
            step()


class FakeChild(ChildHandle):
    """The server's end of a child, and the child's end for a test.

    Attributes:
        group: Its process, which does one more step before its kill if a test says so.
        theirs: Where the child reads.
        answers: Where the child writes.
        begun: The ids of the jobs that have begun.
        is_dead: Whether the child has exited.
    """

    def __init__(self) -> None:
        super().__init__()
        self.group: FakeGroup = FakeGroup()
        self.theirs, self._requests = os.pipe()
        self._answers, self.answers = os.pipe()
        for number in (self.theirs, self._requests, self._answers):
            os.set_blocking(number, False)
        memory = make_memory()
        self.calls.marks = CallMarks(memory)
        self._their_marks = CallMarks(memory)
        os.close(memory)
        self.calls.max_bytes = 28_672
        self._unread = b""
        self._number = 0
        self._runs = False
        self.begun: list[str] = []
        self.is_dead = False

    def has_ended(self) -> bool:
        return self.is_dead

    def close(self) -> None:
        if self._requests >= 0:
            self._their_marks.close()
            os.close(self.theirs)
            os.close(self.answers)
        super().close()

    # What the child does.

    def begin(self) -> str | None:
        """Begin the next job, or skip it; its id if it begins."""
        call = self._next_call()
        self._number += 1
        if not self._their_marks.begin(self._number):
            os.write(self.answers, frame(Kind.SKIPPED, b""))
            return None
        self.begun.append(call.job_id)
        self._runs = True
        return call.job_id

    def answer(self, result: bytes = b"1", *, seconds: float = 0.0001) -> None:
        """End the job that runs."""
        self._runs = False
        os.write(self.answers, end(seconds) + frame(Kind.RESULT, result))

    def fail(self) -> None:
        """End the job that runs with an exception."""
        self._runs = False
        failure = Failure(type="ValueError", message="no", traceback="")
        os.write(self.answers, end() + frame(Kind.FAILURE, msgspec.json.encode(failure)))

    @property
    def runs(self) -> str | None:
        """The id of the job that runs."""
        return self.begun[-1] if self.begun and self._runs else None

    def do_one_step(self) -> bool:
        """End the job that runs, or begin the next one; False if there is nothing to do."""
        if self._runs:
            self.answer()
            return True
        if not self.is_sent_more():
            return False
        self.begin()
        return True

    def run_all(self) -> None:
        """Do all jobs that have been sent."""
        while self.is_sent_more():
            if self.begin() is not None:
                self.answer()

    def is_sent_more(self) -> bool:
        """Whether a job has been sent that is not taken yet."""
        try:
            while data := os.read(self.theirs, 1 << 20):
                self._unread += data
        except BlockingIOError:
            pass
        return bool(self._unread)

    def die(self) -> None:
        """Exit."""
        self.is_dead = True
        os.write(self.answers, b"")
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.answers)  # the pipe's last write end closes
        os.close(null)

    def _next_call(self) -> Call:
        assert self.is_sent_more()
        end = HEADER.size + HEADER.unpack_from(self._unread)[1]
        body, self._unread = self._unread[HEADER.size : end], self._unread[end:]
        return msgspec.json.decode(body, type=Call)


class FakePool(ProcessPool):
    """A pool of fake children.

    Attributes:
        children: Those that were started, in order.
        answers: What the jobs have ended with, by their ids.
    """

    def __init__(self, count: int = 1) -> None:
        super().__init__(count)
        self.closing_time = 0.0  # they do not exit by themselves
        self.children: list[FakeChild] = []
        self.answers: dict[str, bytes | Failure] = {}
        self.running: dict[str, RunningJob] = {}

    async def _start(self) -> FakeChild:
        await trio.lowlevel.checkpoint()
        child = FakeChild()
        self.children.append(child)
        self._children.add(child)
        return child

    async def submit(self, job: Job | str, handler: Handler = HANDLER) -> None:
        """Run a job, as its worker does."""
        job = make_job(job) if isinstance(job, str) else job
        running = self.running[job.id] = RunningJob(job, trio.current_time())
        with trio.CancelScope() as running.scope:
            self.answers[job.id] = await self.run(handler, running, max_result_bytes=100)


@asynccontextmanager
async def fake_pool(count: int = 1) -> AsyncIterator[tuple[FakePool, trio.Nursery]]:
    """A pool of fake children, and a nursery for its jobs, which end with the block.

    The children tell the ends of functions by Trio's clock, which may be a test's: a machine that
    stands still between a job's end and the look at it would make the next job a long one.
    """
    clock = SimpleNamespace(perf_counter=trio.current_time)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trio_jobs.handlers.sent_calls.time", clock)
        async with FakePool(count) as pool, trio.open_nursery() as nursery:
            yield pool, nursery
            nursery.cancel_scope.cancel()
