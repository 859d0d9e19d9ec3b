"""Raising in the program itself: in a step of one of its tasks, in a call that it makes."""

import enum
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import outcome
import trio

from tests.support import JobExecutor, Later, MemoryStore
from trio_jobs import Ending, Job

# What the program does with a store. Each may fail on the way in, and on the way out.
STORE_CALLS = (
    "add",
    "claim",
    "complete",
    "delete_nowait",
    "find_key_nowait",
    "find_nowait",
    "page_nowait",
    "postpone",
    "release",
    "request_cancel_nowait",
    "unfinished",
)
# Those that a worker makes, with the job it has.
WORKER_CALLS = frozenset({"claim", "complete", "postpone", "process", "release"})
# Where Trio hands something to a task that waits for it.
HANDED_OVER = frozenset({"_LockImpl.acquire", "CapacityLimiter.acquire_on_behalf_of"})


class FaultError(Exception):
    """What a test raises."""


class FaultExit(SystemExit):
    """What it raises else."""


class Part(enum.Enum):
    """Where in the program something was raised.

    Attributes:
        REQUEST: In the task of a request, or one that this has started.
        HANDLER: In a worker's task, inside of a user's function.
        WORKER: In a worker's task, in our own code.
        REST: In the task of `main`, of the HTTP server, of the watch for signals.
        BESIDE: In a new task, beside those of one of these nurseries.
    """

    REQUEST = enum.auto()
    HANDLER = enum.auto()
    WORKER = enum.auto()
    REST = enum.auto()
    BESIDE = enum.auto()


@dataclass(slots=True)
class Harm:
    """What a test has raised, and what cannot be as it would be otherwise.

    Attributes:
        kind: What it raises.
        part: Where that was; None before.
        call: The call that has failed, if it was one.
        job_id: The job whose handler it came out of.
        lost: An id that a worker was about to get: its job stays pending.
        without_record: An id that was in the channel when its record was refused.
        unrecorded: A job that a worker could not record something about.
    """

    kind: type[FaultError | FaultExit] = FaultError
    part: Part | None = None
    call: str | None = None
    job_id: str | None = None
    lost: list[str] = field(default_factory=list)
    without_record: set[str] = field(default_factory=set)
    unrecorded: set[str] = field(default_factory=set)

    def error(self, part: Part) -> FaultError | FaultExit:
        """What to raise there."""
        self.part = part
        return self.kind(part.name)


def only_faults(error: BaseException) -> bool:
    """Whether it is what the test has raised, in however many groups, and nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return all(only_faults(each) for each in error.exceptions)
    return isinstance(error, (FaultError, FaultExit))


def raise_in(task: trio.lowlevel.Task, error: BaseException) -> None:
    """Have a task that is about to make a step raise instead; to be called by an instrument.

    What it was waiting for raises that, in its place: the error goes the same way as one that a
    call in the task raises. Trio has no public way to this. A task that is to run has been told
    already what it gets, and ``_next_send`` is where that is kept; and the end of a nursery takes
    an error only by ``_add_exc``, as it takes a KeyboardInterrupt.
    """
    for frame, _ in task.iter_await_frames():
        if frame.f_code.co_qualname == "Nursery._nested_child_finished":
            frame.f_locals["self"]._add_exc(error, reason=None)
            return
    assert task._next_send_fn == task.coro.send
    task._next_send = outcome.Error(error)


def can_raise(task: trio.lowlevel.Task) -> bool:
    """Whether what it does could raise at its next step.

    Nothing can in one that has not begun; nor where Trio hands a lock or a token to it, which would
    be held then for ever.
    """
    begun = inspect.getcoroutinestate(task.coro) != inspect.CORO_CREATED
    return begun and HANDED_OVER.isdisjoint(awaited_in(task))


def awaited_in(task: trio.lowlevel.Task) -> list[str]:
    """The functions that a task is in while it waits, the innermost last."""
    return [frame.f_code.co_qualname for frame, _ in task.iter_await_frames()]


def lineage(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    """The task, the one that has opened the nursery that it is in, and so on."""
    yield task
    while (nursery := task.parent_nursery) is not None:
        task = nursery.parent_task
        yield task


class Calls:
    """Stands where the program makes its store and what processes jobs; one call of them fails.

    Args:
        failing: Which call, from 1; one that never comes counts only.
        afterwards: Whether it fails when it has done what it does, or instead.

    Attributes:
        failing: Which call fails.
        harm: What has come of it.
        made: The names of the calls so far.
    """

    def __init__(self, failing: int = 0, *, afterwards: bool = False) -> None:
        self.failing = failing
        self._afterwards = afterwards
        self.harm = Harm()
        self._over = False
        self._inside = False
        self.made: list[str] = []

    def store(self, *args: Any, **settings: Any) -> MemoryStore:  # noqa: ANN401 - as a store
        """A `MemoryStore`."""
        store = MemoryStore(*args, **settings)
        for name in STORE_CALLS:
            setattr(store, name, partial(self._call, name, getattr(store, name)))
        return store

    def executor(self, *args: Any, **settings: Any) -> JobExecutor:  # noqa: ANN401
        """A `JobExecutor`."""
        return FailingProcessor(self, *args, **settings)

    def stop(self) -> None:
        """Count no more calls, and let none fail: those that follow are the test's."""
        self._over = True

    @contextmanager
    def one(self, name: str, subject: object) -> Iterator[None]:
        """Around each call.

        Raises:
            FaultError: It is the one.
        """
        if self._over:
            yield
            return
        self.made.append(name)
        fails = len(self.made) == self.failing
        if fails and not self._afterwards:
            raise self._error(name, subject)
        yield
        if fails:
            raise self._error(name, subject)

    def _call(self, name: str, call: Callable[..., object], *args: Any, **more: Any) -> object:  # noqa: ANN401
        if self._inside:  # the store's own call of itself
            return call(*args, **more)
        self._inside = True
        try:
            with self.one(name, args[0] if args else None):
                return call(*args, **more)
        finally:
            self._inside = False

    def _error(self, name: str, subject: object) -> FaultError | FaultExit:
        self.harm.call = name
        job_id = subject.id if isinstance(subject, Job) else str(subject)
        if name == "add" and not self._afterwards:
            self.harm.without_record.add(job_id)
        elif name == "claim" and not self._afterwards:
            self.harm.lost.append(job_id)
        elif name in WORKER_CALLS:
            if name == "postpone" and self._afterwards:
                self.harm.lost.append(job_id)  # it waits, and is not in the schedule
            self.harm.unrecorded.add(job_id)
        # A worker looks a job up that it has released.
        if name in WORKER_CALLS or trio.lowlevel.current_task().name.startswith("worker-"):
            return self.harm.error(Part.WORKER)
        return self.harm.error(Part.REST if name == "unfinished" else Part.REQUEST)


class FailingProcessor(JobExecutor):
    """What processes jobs, one call of which fails."""

    def __init__(self, calls: Calls, *args: Any, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **settings)
        self._calls = calls

    @contextmanager
    def for_worker(self) -> Iterator[Callable[[Job], Awaitable[Ending | Later]]]:
        """A worker's block, in whose function a call may fail."""
        with super().for_worker() as process:

            async def process_or_fail(job: Job) -> Ending | Later:
                with self._calls.one("process", job):
                    return await process(job)

            yield process_or_fail
