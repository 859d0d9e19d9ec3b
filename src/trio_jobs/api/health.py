"""`GET /health`: the event loop runs. `GET /health/ready`: the pool takes jobs."""

import msgspec
from quart import Quart, Response

from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.serialization import MEDIA_TYPE
from trio_jobs.pool.pool import Pool

# What a pool in memory does not have, and what one without a database does not have.
OF_A_DISK = ("unwritten", "store_failing_seconds")
OF_A_DATABASE = ("members", "open", "database")


def add_health_routes(app: Quart, context: ApiContext) -> None:
    """Add ``GET /health`` and ``GET /health/ready``."""

    @app.get("/health")
    async def health() -> Response:
        return Response(b'{"status":"ok"}', content_type=MEDIA_TYPE)

    @app.get("/health/ready")
    async def ready() -> Response:
        pool = context.pool
        away = pool.sharing is not None and pool.sharing.is_away
        status = 503 if pool.admission.closed or away else 200
        body = msgspec.json.encode(ready_state(pool))
        return Response(body, status, content_type=MEDIA_TYPE)


def ready_state(pool: Pool) -> dict[str, object]:
    """The statistics of the pool that it has, for JSON."""
    state: dict[str, object] = msgspec.to_builtins(pool.statistics())
    left_out = () if pool.sharing is not None else OF_A_DATABASE
    for name in (*left_out, *(OF_A_DISK if pool.store.disk is None else ())):
        del state[name]
    return state
