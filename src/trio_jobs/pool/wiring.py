"""`make_pool`: makes the parts of one pool, and connects them."""

import secrets
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import trio

from trio_jobs.handlers.executor import JobExecutor
from trio_jobs.handlers.handler import Run
from trio_jobs.handlers.places import Places
from trio_jobs.handlers.registry import DEFAULT, HandlerRegistry
from trio_jobs.handlers.start_shortage import StartShortage
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.disk_timer import DiskTimer
from trio_jobs.pool.ids import Uuid7
from trio_jobs.pool.limited_admission import LimitedAdmission
from trio_jobs.pool.paused_types import Layer, PausedTypes
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.schedule import Schedule
from trio_jobs.pool.shared_port import SharedStorePort
from trio_jobs.pool.store import AdmissionStore, DurableStorePort, Store, StoreMoves
from trio_jobs.pool.type_limits import TypeLimits
from trio_jobs.pool.waiters import CompletionWaiters
from trio_jobs.pool.wall_clock import utc_now
from trio_jobs.pool.worker import Delays, ProcessBlock, Workers
from trio_jobs.pool.worker_tasks import WorkerTasks
from trio_jobs.settings import HttpSettings, MetricsSettings, PoolSettings, StoreSettings

if TYPE_CHECKING:  # a program whose handlers need no asyncio does not import it
    from trio_jobs.handlers.asyncio_runner import LoopChoice

_NO_METRICS = MetricsSettings(enabled=False)


class Lease(Protocol):
    """This server's lease in a shared database; see `stores.postgres.membership`."""

    def around(
        self,
        for_worker: ProcessBlock,
        *,
        is_here: Callable[[str], bool],
        cut: Callable[[str], object],
    ) -> ProcessBlock:
        """The same block of a worker, whose jobs are cut when the lease runs out.

        Args:
            for_worker: The block.
            is_here: Whether a claimed job is still this server's.
            cut: Called with the id of a job that was cut.
        """


class RunTracing(Protocol):
    """Traces the attempts of jobs."""

    def around(self, for_worker: ProcessBlock) -> ProcessBlock:
        """The same block of a worker, with a span around each job."""


def make_pool(
    handlers: HandlerRegistry,
    send: trio.MemorySendChannel[str],
    store: Store,
    settings: PoolSettings,
    bounds: StoreSettings,
    http: HttpSettings,
    metrics: MetricsSettings = _NO_METRICS,
    tracing: RunTracing | None = None,
    *,
    states: Mapping[Run, object] | None = None,
    asyncio_loop: "LoopChoice | None" = None,
    folder: int | None = None,
    last_id: str = "",
    lease: Lease | None = None,
    nanoseconds: Callable[[], int] = time.time_ns,
    now: Callable[[], datetime] = utc_now,
) -> Pool:
    """Make the parts and connect them; nothing runs yet.

    Args:
        handlers: The users' functions.
        send: The job channel's one send end; ``admission`` owns it from now on. The channel holds
            ``buffer_size`` items and one for each worker that may ever be asked for, so that it has
            room for all slots.
        store: Where the jobs are kept. A store with a disk is a `DurableStorePort`; one that other
            servers share is a `SharedStorePort`.
        settings: The sizes of the pool.
        bounds: The bound of a result.
        http: The bound of the tasks that wait for jobs at the same time, and whether there is a
            page: then what the page shows of the jobs is counted.
        metrics: Whether there are metrics: then the jobs are counted, too. And how many types are
            counted apart.
        tracing: Traces the attempts of the jobs; None if nobody does.
        states: See `Places`.
        asyncio_loop: See `Places`; None for that of the settings.
        folder: See `ProcessPool`.
        last_id: The greatest id in the store.
        lease: What lets this server run jobs of a shared store; None for another store.
        nanoseconds: The wall clock, in nanoseconds since 1970.
        now: The same, as an aware UTC time.

    Raises:
        LoopStartError: The loop is uvloop, which is not installed.
    """
    shared_store = store if isinstance(store, SharedStorePort) else None
    if shared_store is not None:
        from trio_jobs.pool.fetching import FetchCapacity

        capacity: Capacity = FetchCapacity(settings.buffer_size, shared_store.wake)
    else:
        capacity = Capacity(settings.buffer_size)
    shortage = StartShortage()
    places = Places(
        handlers,
        workers=settings.workers,
        processes=settings.processes,
        asyncio_loop=asyncio_loop or settings.asyncio_loop,
        states=states,
        shortage=shortage,
        folder=folder,
    )
    executor = JobExecutor(
        handlers, max_result_bytes=bounds.max_result_bytes, places=places, shortage=shortage
    )
    observation = None
    new_jobs: AdmissionStore = store
    if http.ui or metrics.enabled:  # the one place that decides whether jobs are counted
        # Imported here: a pool that counts nothing needs none of it.
        from trio_jobs.pool.counted_moves import CountedJobs, CountedMoves
        from trio_jobs.pool.observation import Observation

        types = [each for each in handlers.table if each != DEFAULT]
        observation = Observation(store, types, max_types=metrics.max_types, now=now)
        new_jobs = CountedJobs(store, observation)
    ended = None if observation is None else observation.end
    waiters = CompletionWaiters(
        max_waiters=http.max_waiters,
        ended=ended,
        watch=None if shared_store is None else shared_store.watch,
    )
    schedule = Schedule(settings.max_waiting, now=now)
    # To call the object costs a look-up of this method.
    new_id = Uuid7(nanoseconds, after=last_id).__call__
    limited = (send, capacity, schedule, handlers.max_running)
    moves: StoreMoves
    show = (
        waiters.notify
        if observation is None
        else observation.ended.beside(waiters.notify, waiters.completions, waiters.calls)
    )
    disk_timer = None
    delays: Delays = schedule
    notes: list[Callable[[str], object]] = []
    shared = None
    admission: LimitedAdmission
    limits: TypeLimits | None
    if shared_store is not None:
        from trio_jobs.pool.fetched_moves import NoDelays
        from trio_jobs.pool.shared_wiring import SharedParts

        shared = SharedParts(
            send,
            shared_store,
            capacity,
            schedule,
            executor,
            handlers,
            bounds.max_open,
            waiters,
            show,
            observation,
            new_id=new_id,
            now=now,
        )
        moves = limits = shared.limits
        admission, disk_timer, delays = shared.admission, shared.timer, NoDelays()
        notes.append(shared.give_back)
    elif isinstance(store, DurableStorePort):
        # Imported here: a pool in memory needs none of it.
        from trio_jobs.pool.durable_admission import DurableAdmission
        from trio_jobs.pool.suspects import Suspects

        suspects = Suspects(store, schedule, executor.has_begun, executor.released, show)
        moves = limits = TypeLimits(store, suspects, *limited, default=DEFAULT)
        notes.append(suspects.pass_turn)
        admission = DurableAdmission(
            send,
            store,
            capacity,
            schedule,
            limits,
            suspects,
            disk_timer := DiskTimer(store.timeout),
            keeps_pending=settings.drain != "all",
            new_id=new_id,
            now=now,
            admitted=None if observation is None else observation.admitting(),
        )
    else:
        limits = (
            TypeLimits(store, store, *limited, default=DEFAULT) if handlers.max_running else None
        )
        moves = limits or store
        admission = LimitedAdmission(
            send, new_jobs, capacity, schedule, limits, new_id=new_id, now=now
        )
    layer: Layer | None = limits
    if observation is not None:
        moves = counted = CountedMoves(moves, store, observation)
        layer = limits or counted
        notes.append(observation.note_passed_over)
    for_worker = executor.for_worker if tracing is None else tracing.around(executor.for_worker)
    if shared is not None:
        moves = shared.around(moves)
    if shared_store is not None and lease is not None:
        is_here, cut = shared_store.is_here, executor.forget_released
        for_worker = lease.around(for_worker, is_here=is_here, cut=cut)
    workers = Workers(moves, for_worker, capacity, waiters, delays, show)
    paused = PausedTypes(
        store,
        layer or workers,
        admission,
        schedule,
        handlers,
        notes,
        changed=None if shared is None else shared.note_paused,
    )
    return Pool(
        workers=workers,
        worker_tasks=WorkerTasks(settings.workers, workers.run, capacity, places.limit_threads),
        handlers=handlers,
        store=store,
        capacity=capacity,
        admission=admission,
        paused=paused,
        waiters=waiters,
        schedule=schedule,
        places=places,
        executor=executor,
        shortage=shortage,
        now=now,
        boot=secrets.token_hex(4),
        started_at=now(),
        max_kept=0 if shared is not None else _max_kept(bounds),
        disk_timer=disk_timer,
        observation=observation,
        sharing=shared,
    )


def _max_kept(bounds: StoreSettings) -> int:
    spare = 0 if bounds.path is None else bounds.spare
    return bounds.keep_completed + spare + bounds.keep_failed
