"""Small helpers of the suite: a job to test with, a clock that stands still, a running pool."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import trio

from trio_jobs.admission import Submissions
from trio_jobs.handlers import Handler, Handlers, Processes, Processor
from trio_jobs.ids import Uuid7
from trio_jobs.job import Ending, Job, Outcome
from trio_jobs.places import Places
from trio_jobs.store import JobStore
from trio_jobs.waiting import Completions
from trio_jobs.worker import run_worker

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)

SUCCEEDED = Ending(outcome=Outcome.SUCCEEDED, result=b"null")


def noon() -> datetime:
    """A wall clock that stands still."""
    return NOON


def make_job(job_id: str, *, type: str = "test", payload: bytes = b"null") -> Job:  # noqa: A002
    """A pending job."""
    return Job(id=job_id, type=type, payload=payload, created_at=NOON)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts that `main` wires, without HTTP."""

    send: trio.MemorySendChannel[str]
    receive: trio.MemoryReceiveChannel[str]
    store: JobStore
    submissions: Submissions
    completions: Completions


def make_parts(
    *,
    buffer_size: int = 100,
    keep_completed: int = 10_000,
    keep_completed_bytes: int = 1_000_000,
    max_waiters: int = 1000,
    now: Callable[[], datetime] = noon,
) -> Parts:
    """A channel, a store, and the admission between them."""
    send, receive = trio.open_memory_channel[str](buffer_size)
    places = Places()
    completions = Completions(max_waiters=max_waiters)

    def completed(job: Job) -> None:
        completions.note(job)
        places.note_completion()

    store = JobStore(
        now=now,
        keep_completed=keep_completed,
        keep_completed_bytes=keep_completed_bytes,
        claimed=places.note_claim,
        completed=completed,
    )
    submissions = Submissions(send, store, places=places, new_id=Uuid7(), now=now)
    return Parts(
        send=send,
        receive=receive,
        store=store,
        submissions=submissions,
        completions=completions,
    )


class At(trio.abc.Instrument):
    """Calls something just before the n-th step of any task, counted from where it is entered."""

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self._step = step
        self._action = action
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        if self.steps == self._step:
            self._action()

    def __enter__(self) -> Self:
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *_: object) -> None:
        trio.lowlevel.remove_instrument(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A running pool and its parts."""

    parts: Parts
    handlers: Handlers
    processor: Processor
    scope: trio.CancelScope


@asynccontextmanager
async def running_pool(
    functions: Mapping[str, Callable[..., object] | Callable[..., Awaitable[object]] | Handler],
    *,
    workers: int = 2,
    buffer_size: int = 100,
    max_result_bytes: int = 1_000_000,
    processes: Processes | None = None,
) -> AsyncIterator[Pool]:
    """A pool over these handlers; leaving the block drains it."""
    parts = make_parts(buffer_size=buffer_size)
    handlers = Handlers(
        {
            name: function if isinstance(function, Handler) else Handler.of(function)
            for name, function in functions.items()
        }
    )
    processor = Processor(
        handlers, workers=workers, max_result_bytes=max_result_bytes, processes=processes
    )
    async with trio.open_nursery() as nursery:
        for n in range(workers):
            nursery.start_soon(
                run_worker, parts.receive.clone(), parts.store, processor, name=f"worker-{n}"
            )
        parts.receive.close()
        yield Pool(parts=parts, handlers=handlers, processor=processor, scope=nursery.cancel_scope)
        parts.submissions.close()
