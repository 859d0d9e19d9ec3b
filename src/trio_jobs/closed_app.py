"""`ClosedApp`: the ASGI application in the place of a pool that does not run."""

from collections.abc import Awaitable, Callable
from typing import Any

from trio_jobs.problem_details import Problem

Send = Callable[[Any], Awaitable[None]]


class ClosedApp:
    """Answers 503 to each request, and refuses each websocket.

    Args:
        retry_after: The ``Retry-After``, in whole seconds.
    """

    def __init__(self, *, retry_after: int) -> None:
        self._retry_after = retry_after

    async def __call__(self, scope: Any, _receive: object, send: Send) -> None:  # noqa: ANN401
        """Answer one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        is_look_up = scope["method"] in ("GET", "HEAD")
        problem = Problem(
            503,
            "the queue is closed" if is_look_up else "the queue is closed; nothing was kept",
            headers={"Retry-After": str(self._retry_after)},
            retry_after=self._retry_after,
        )
        headers, body = problem.render()
        await send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
