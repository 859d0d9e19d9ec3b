"""`GET /health`: the event loop runs. `GET /health/ready`: the pool takes jobs."""

import msgspec
from quart import Blueprint, Response

from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.serialization import MEDIA_TYPE


def add_health_routes(routes: Blueprint, context: ApiContext) -> None:
    """Add ``GET /health`` and ``GET /health/ready``."""

    @routes.get("/health")
    async def health() -> Response:
        return Response(b'{"status":"ok"}', content_type=MEDIA_TYPE)

    @routes.get("/health/ready")
    async def ready() -> Response:
        status = 503 if context.pool.admission.closed else 200
        return Response(
            msgspec.json.encode(context.pool.statistics()), status, content_type=MEDIA_TYPE
        )
