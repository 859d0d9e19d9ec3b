"""`GET /pool`: the state of the pool, what it has counted, and the jobs that run now."""

from itertools import islice

import msgspec
import trio
from quart import Quart, Response

from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.current_access import current_access
from trio_jobs.api.drain_state import DrainState
from trio_jobs.api.health import ready_state
from trio_jobs.api.serialization import MEDIA_TYPE, progress_json, time_json
from trio_jobs.handlers.handler import Run
from trio_jobs.handlers.running_job import RunningJob
from trio_jobs.pool.pool import Pool

# As many running jobs as an answer names: there can be 100,000 workers.
MAX_SLOTS = 200


class _Slot(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A worker that has a job.

    Attributes:
        id: The job.
        type: Its type.
        running_seconds: For how long the worker has had it.
        begun: Whether its handler has begun.
        run: Where its handler runs; None until the executor has looked the handler up.
        cancel: Whether a client has asked for its cancel.
        attempt: The number of the attempt.
        progress: What its handler has reported; absent if nothing.
    """

    id: str
    type: str
    running_seconds: float
    begun: bool
    run: Run | None
    cancel: bool
    attempt: int
    progress: dict[str, object] | msgspec.UnsetType


def add_pool_route(app: Quart, context: ApiContext) -> None:
    """Add ``GET /pool``."""

    @app.get("/pool")
    async def pool() -> Response:
        withheld = context.withholds_from(current_access())
        state = pool_state(context.pool, withheld=withheld, drain=context.drain)
        return Response(msgspec.json.encode(state), content_type=MEDIA_TYPE)


def pool_state(
    pool: Pool, *, whole: bool = True, withheld: bool = False, drain: DrainState | None = None
) -> dict[str, object]:
    """The state of the pool now, for JSON; `JobStatistics` only if the pool counts its jobs.

    Args:
        pool: The pool.
        whole: Whether ``types`` and ``ended_per_second`` are in it: they are most of it.
        withheld: Whether the progress of jobs has no message.
        drain: What a stop still finishes; None if this is not known.
    """
    now = trio.current_time()
    # In the order of their claims: those that have run longest are the first.
    running = islice(pool.executor.running.values(), MAX_SLOTS)
    counted: dict[str, object] = {}
    if pool.observation is not None:
        counted = msgspec.to_builtins(pool.observation.statistics(types=whole))
        if not whole:
            del counted["types"], counted["ended_per_second"]
    return {
        "now": time_json(pool.now()),
        "boot": pool.boot,
        "started_at": time_json(pool.started_at),
        **ready_state(pool),
        **({} if drain is None else drain.members(pool)),
        **counted,
        "slots": [_slot(pool, each, now, withheld=withheld) for each in running],
    }


def _slot(pool: Pool, running: RunningJob, now: float, *, withheld: bool) -> _Slot:
    job, progress = pool.store.find_nowait(running.job.id), running.progress
    return _Slot(
        id=job.id,
        type=job.type,
        running_seconds=round(now - running.started, 3),
        begun=running.begun,
        run=None if running.handler is None else running.handler.run,
        cancel=job.cancel_requested,
        attempt=job.attempts,
        progress=msgspec.UNSET if progress is None else progress_json(progress, withheld=withheld),
    )
