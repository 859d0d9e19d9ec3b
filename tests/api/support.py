"""An API to test: the application over parts whose pool runs only if a test starts it."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import msgspec
import trio

from tests.asgi import Answer, Client
from tests.support import HandlerRegistry, HttpSettings, Parts, make_parts
from trio_jobs import Handler
from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.app import create_app

MAX_BODY_BYTES = 10_000

SUBMISSION = b'{"type":"email","payload":{"to":"user@example.com"}}'


async def accept(payload: object) -> object:
    """A handler that returns its payload."""
    return payload


def handlers_of(functions: Mapping[str, Callable[[Any], Any]]) -> HandlerRegistry:
    """Handlers for these functions."""
    return HandlerRegistry({name: Handler.of(function) for name, function in functions.items()})


class Api:
    """The application, the parts behind it, and a client.

    Args:
        functions: The handlers; by default those of the parts, or one for every type.
        parts: The parts, if not those of the usual sizes.
        max_body_bytes: The longest body.
        max_wait_seconds: The longest wait.
    """

    def __init__(
        self,
        functions: Mapping[str, Callable[[Any], Any]] | None = None,
        *,
        parts: Parts | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_wait_seconds: float = 60,
    ) -> None:
        self.parts = parts or make_parts()
        pool = self.parts.pool
        if functions or not pool.handlers.table:
            pool = replace(pool, handlers=handlers_of(functions or {"default": accept}))
        context = ApiContext(
            pool=pool,
            http=HttpSettings(max_body_bytes=max_body_bytes, max_wait_seconds=max_wait_seconds),
            shutdown_retry_after=7,
        )
        self.app = create_app(context)
        self.client = Client(self.app)


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
