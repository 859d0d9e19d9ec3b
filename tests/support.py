"""The suite's way to the internals, and small helpers: a job, a clock that stands still, a pool.

Tests of a module import it. What other tests need of it, they get here, or from `trio_jobs`.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import trio

from trio_jobs import Access as Access
from trio_jobs import Ending, Handler, Job, JobStatus, Outcome
from trio_jobs import Role as Role
from trio_jobs import TokenTable as TokenTable
from trio_jobs.access import ANYONE as ANYONE
from trio_jobs.current_job import current_job_id as current_job_id
from trio_jobs.handlers.child_handle import ChildHandle as ChildHandle
from trio_jobs.handlers.executor import JobExecutor as JobExecutor
from trio_jobs.handlers.handler import Run
from trio_jobs.handlers.importing import load_function as load_function
from trio_jobs.handlers.process_pool import ProcessPool as ProcessPool
from trio_jobs.handlers.registry import HandlerRegistry as HandlerRegistry
from trio_jobs.handlers.thread_runner import ThreadRunner
from trio_jobs.job import Later as Later
from trio_jobs.logs.installation import Logs as Logs
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.limited_admission import LimitedAdmission
from trio_jobs.pool.paused_types import PausedTypes
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.store import StoreError as StoreError
from trio_jobs.pool.store import StoreStatistics as StoreStatistics
from trio_jobs.pool.waiters import CompletionWaiters
from trio_jobs.pool.wiring import RunTracing, make_pool
from trio_jobs.pool.worker import Workers
from trio_jobs.problem_details import Problem as Problem
from trio_jobs.server.access_control import AccessControl as AccessControl
from trio_jobs.server.tls import load_certificate as load_certificate
from trio_jobs.sessions import Sessions as Sessions
from trio_jobs.setting_type import ConfigError as ConfigError
from trio_jobs.settings import MAX_WORKERS as MAX_WORKERS
from trio_jobs.settings import SETTINGS as SETTINGS
from trio_jobs.settings import Config as Config
from trio_jobs.settings import HandlerSettings as HandlerSettings
from trio_jobs.settings import HttpSettings as HttpSettings
from trio_jobs.settings import MetricsSettings as MetricsSettings
from trio_jobs.settings import PoolSettings as PoolSettings
from trio_jobs.settings import RetrySettings as RetrySettings
from trio_jobs.settings import StoreSettings as StoreSettings
from trio_jobs.shutdown.stop import Stop as Stop
from trio_jobs.stores.memory import MemoryStore as MemoryStore
from trio_jobs.testing.steps import At as At

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)

SUCCEEDED = Ending(outcome=Outcome.SUCCEEDED, result=b"null")

NONE_DROPPED = dict.fromkeys(Outcome, 0)


def noon() -> datetime:
    """A wall clock that stands still."""
    return NOON


def make_job(job_id: str, *, type: str = "test", payload: bytes = b"null") -> Job:  # noqa: A002
    """A pending job."""
    return Job(id=job_id, type=type, payload=payload, created_at=NOON)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A pool, its store, and both ends of its channel."""

    send: trio.MemorySendChannel[str]
    receive: trio.MemoryReceiveChannel[str]
    store: MemoryStore
    pool: Pool

    @property
    def admission(self) -> LimitedAdmission:
        return self.pool.admission

    @property
    def capacity(self) -> Capacity:
        return self.pool.capacity

    @property
    def waiters(self) -> CompletionWaiters:
        return self.pool.waiters

    @property
    def workers(self) -> Workers:
        return self.pool.workers


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def cancelled_after(steps: int, call: Callable[[], Awaitable[object]]) -> None:
    """Make a call, and cancel it after so many checkpoints of another task."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def cancel() -> None:
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            await call()


def make_parts(
    handlers: HandlerRegistry | None = None,
    *,
    workers: int = 2,
    processes: int = 1,
    buffer_size: int = 100,
    max_waiting: int = 10_000,
    keep_completed: int = 10_000,
    keep_failed: int = 10_000,
    keep_completed_bytes: int = 1_000_000,
    max_waiters: int = 1000,
    ui: bool = True,
    max_types: int | None = None,
    tracing: RunTracing | None = None,
    now: Callable[[], datetime] = noon,
    store_class: Callable[..., MemoryStore] = MemoryStore,
) -> Parts:
    """The parts that `main` wires, without HTTP; nothing runs.

    There are metrics if ``max_types`` is given.
    """
    send, receive = trio.open_memory_channel[str](buffer_size + MAX_WORKERS)
    bounds = StoreSettings(
        keep_completed=keep_completed,
        keep_failed=keep_failed,
        keep_completed_bytes=keep_completed_bytes,
    )
    store = store_class(bounds, now=now)
    pool = make_pool(
        handlers or HandlerRegistry({}),
        send,
        store,
        PoolSettings(
            workers=workers,
            processes=processes,
            buffer_size=buffer_size,
            max_waiting=max_waiting,
        ),
        StoreSettings(max_result_bytes=1_000_000),
        HttpSettings(max_waiters=max_waiters, ui=ui),
        MetricsSettings(enabled=max_types is not None, max_types=max_types or 100),
        tracing,
        now=now,
    )
    return Parts(send=send, receive=receive, store=store, pool=pool)


def take(parts: Parts) -> Job:
    """Claim and complete the next job, as a worker would."""
    job_id = parts.receive.receive_nowait()
    parts.workers.claim(job_id)
    return parts.workers.complete(job_id, SUCCEEDED)


def start_workers(
    parts: Parts,
    nursery: trio.Nursery,
    process: Callable[[Job], Awaitable[Ending | Later]] | None = None,
    *,
    number: int | None = None,
) -> list[str]:
    """Start the pool's workers with this process, or with one that never ends.

    Returns:
        The ids of the jobs that this one has begun, also later.
    """
    begun: list[str] = []

    async def never_ends(job: Job) -> Ending:
        begun.append(job.id)
        await trio.sleep_forever()
        raise AssertionError

    workers = Workers(
        parts.pool.workers.moves,
        lambda: nullcontext(process or never_ends),
        capacity=parts.capacity,
        waiters=parts.waiters,
        schedule=parts.pool.schedule,
        show=parts.pool.workers._show,
    )
    for n in range(number or parts.pool.worker_tasks.number):
        nursery.start_soon(workers.run, parts.receive.clone(), name=f"worker-{n}")
    parts.receive.close()
    nursery.start_soon(parts.pool.run_schedule, name="schedule")
    return begun


def start_pool(parts: Parts, nursery: trio.Nursery) -> None:
    """Start the pool's workers, with its handlers, and its schedule."""
    parts.pool.worker_tasks.open(nursery)
    for _ in range(parts.pool.worker_tasks.number):
        parts.pool.worker_tasks.start(parts.receive.clone())
    parts.receive.close()
    nursery.start_soon(parts.pool.run_schedule, name="schedule")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningPool:
    """A running pool and its parts."""

    parts: Parts
    handlers: HandlerRegistry
    executor: JobExecutor
    scope: trio.CancelScope

    @property
    def blocked(self) -> str | None:
        """Why jobs cannot begin."""
        return self.parts.pool.statistics().blocked

    @property
    def workers(self) -> int:
        """How many workers are asked for."""
        return self.parts.pool.worker_tasks.number

    @property
    def leaving(self) -> int:
        """How many workers leave."""
        return self.parts.pool.worker_tasks.leaving

    @property
    def paused(self) -> PausedTypes:
        """The paused types."""
        return self.parts.pool.paused

    @property
    def thread_limiter(self) -> trio.CapacityLimiter:
        """What bounds the threads."""
        threads = self.parts.pool.places.runners[Run.THREAD]
        assert isinstance(threads, ThreadRunner)
        return threads._limiter

    async def set_workers(self, number: int) -> None:
        """Ask for so many workers."""
        await self.parts.pool.worker_tasks.set_number(number)

    def submit(self, type: str, payload: bytes = b"null") -> Job:  # noqa: A002
        """Submit a job, which the buffer has room for."""
        return self.parts.admission.submit(type, payload)

    def status(self, job: Job) -> JobStatus:
        """The job's status now."""
        return self.parts.store.find_nowait(job.id).status

    def ending(self, job: Job) -> Ending | None:
        """The job's ending; None before."""
        return self.parts.store.find_nowait(job.id).ending

    def outcome(self, job: Job) -> Outcome | None:
        """The job's outcome; None before its end."""
        return self.parts.store.find_nowait(job.id).outcome


@asynccontextmanager
async def running_pool(
    functions: Mapping[str, Callable[..., object] | Callable[..., Awaitable[object]] | Handler],
    *,
    workers: int = 2,
    processes: int = 1,
    buffer_size: int = 100,
    max_waiting: int = 10_000,
) -> AsyncIterator[RunningPool]:
    """A pool over these handlers; leaving the block drains it."""
    handlers = HandlerRegistry(
        {
            name: function if isinstance(function, Handler) else Handler.of(function)
            for name, function in functions.items()
        }
    )
    parts = make_parts(
        handlers,
        workers=workers,
        processes=processes,
        buffer_size=buffer_size,
        max_waiting=max_waiting,
    )
    executor = parts.pool.executor
    async with parts.pool.places.open(), trio.open_nursery() as nursery:
        start_pool(parts, nursery)
        yield RunningPool(
            parts=parts, handlers=handlers, executor=executor, scope=nursery.cancel_scope
        )
        parts.admission.close()


@asynccontextmanager
async def counting_turns() -> AsyncIterator[list[None]]:
    """The turns that another task gets during the block."""
    turns: list[None] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def count() -> None:
            while True:
                await trio.lowlevel.checkpoint()
                turns.append(None)

        yield turns
        nursery.cancel_scope.cancel()


@contextmanager
def as_nobody() -> Iterator[None]:
    """As a user without rights; root may do everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def closed(folder: Path) -> Iterator[None]:
    """As a user who may not search this folder."""
    folder.chmod(0)
    try:
        with as_nobody():
            yield
    finally:
        folder.chmod(0o700)
