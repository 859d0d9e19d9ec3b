"""An API to test: the application over parts whose pool runs only if a test starts it."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from quart_trio import QuartTrio

from tests.asgi import Answer, Client
from tests.support import Parts, make_parts
from trio_jobs.api.app import create_app
from trio_jobs.handlers.handler import Handler
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.pool.pool import PoolStatistics

MAX_BODY_BYTES = 10_000

SUBMISSION = b'{"type":"email","payload":{"to":"user@example.com"}}'


async def accept(payload: object) -> object:
    """A handler that returns its payload."""
    return payload


def ignore(job_id: str) -> None:
    """Cancel nothing."""


def handlers_of(functions: Mapping[str, Callable[[Any], Any]]) -> HandlerRegistry:
    """Handlers for these functions."""
    return HandlerRegistry({name: Handler.of(function) for name, function in functions.items()})


class Api:
    """The application, the parts behind it, and a client.

    Args:
        functions: The handlers.
        parts: The parts, if not those of the usual sizes.
        max_body_bytes: The longest body.
        max_wait_seconds: The longest wait.
        cancel: Cancels a running job.
    """

    def __init__(
        self,
        functions: Mapping[str, Callable[[Any], Any]] | None = None,
        *,
        parts: Parts | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_wait_seconds: float = 60,
        cancel: Callable[[str], object] = ignore,
    ) -> None:
        self.parts = parts or make_parts()
        self.app = create_app(
            self.parts.admission,
            self.parts.store,
            handlers_of(functions or {"email": accept, "default": accept}),
            self.parts.waiters,
            cancel=cancel,
            pool_statistics=self._pool_statistics,
            max_body_bytes=max_body_bytes,
            max_wait_seconds=max_wait_seconds,
            stream_idle_timeout=30,
            shutdown_retry_after=7,
        )
        self.client = Client(self.app)

    def serve(self, app: QuartTrio) -> None:
        """Talk to this application instead."""
        self.app = app
        self.client = Client(app)

    def _pool_statistics(self) -> PoolStatistics:
        return PoolStatistics(
            status="shutting down" if self.parts.admission.closed else "ready",
            workers=2,
            busy=0,
            buffered=self.parts.receive.statistics().current_buffer_used,
            buffer_size=100,
            oldest_running_seconds=None,
            blocked=None,
            dropped=self.parts.store.statistics().dropped,
        )


def assert_problem(answer: Answer, status: int) -> dict[str, Any]:
    """Check that the answer is an error in the one form there is, and return its members."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    members = msgspec.json.decode(answer.body, type=dict[str, Any])
    assert members["status"] == status
    assert members["type"] == "about:blank"
    assert members["title"]
    assert members["detail"] == members["error"] != ""
    assert "Traceback" not in answer.body.decode()
    return members
