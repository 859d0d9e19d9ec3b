"""`GET /health`: the event loop runs. `GET /health/ready`: the pool takes jobs."""

import msgspec
from quart import Blueprint, Response

from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.serialization import MEDIA_TYPE

# What a pool without a file does not have.
OF_A_FILE = ("unwritten", "store_failing_seconds")


def add_health_routes(routes: Blueprint, context: ApiContext) -> None:
    """Add ``GET /health`` and ``GET /health/ready``."""

    @routes.get("/health")
    async def health() -> Response:
        return Response(b'{"status":"ok"}', content_type=MEDIA_TYPE)

    @routes.get("/health/ready")
    async def ready() -> Response:
        pool = context.pool
        status = 503 if pool.admission.closed else 200
        state = msgspec.to_builtins(pool.statistics())
        if pool.store.disk is None:
            for name in OF_A_FILE:
                del state[name]
        return Response(msgspec.json.encode(state), status, content_type=MEDIA_TYPE)
