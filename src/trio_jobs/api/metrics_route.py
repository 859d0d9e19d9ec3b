"""`GET /metrics`: the numbers of the pool and its server, for Prometheus."""

from quart import Quart, Response, request

from trio_jobs.api.api_context import ApiContext


def add_metrics_route(app: Quart, context: ApiContext) -> None:
    """Add ``GET /metrics`` to a server with metrics."""
    if (metrics := context.metrics) is None:
        return

    @app.get("/metrics")
    async def show_metrics() -> Response:
        media_type, text = await metrics.write(request.headers.get("Accept", ""))
        return Response(text, content_type=media_type)
