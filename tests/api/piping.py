"""Helpers for tests of `POST /jobs/pipe`."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from tests.api.support import Api, accept, handlers_of
from tests.asgi import Answer, OpenRequest
from tests.support import make_parts, start_pool
from trio_jobs import Handler

PIPE = "/jobs/pipe"

Line = dict[str, Any]


def line(payload: object, type: str = "email", **members: object) -> bytes:  # noqa: A002
    """A line for a client to send."""
    return msgspec.json.encode({"type": type, "payload": payload, **members}) + b"\n"


def decoded(body: bytes) -> list[Line]:
    """The answers in a body, and its end, without blank lines."""
    return [msgspec.json.decode(text) for text in body.splitlines() if text]


def lines_of(answer: Answer) -> list[Line]:
    """The answers and the end of a whole pipe, whose head is right."""
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.body.startswith(b"\n")
    lines = decoded(answer.body)
    assert ["end" in each for each in lines] == [False] * (len(lines) - 1) + [True]
    return lines


def outcomes(lines: list[Line]) -> dict[int, str | None]:
    """How each line was answered, by its number; each of them once."""
    answers = [each for each in lines if "end" not in each]
    found = {each["line"]: each.get("outcome") for each in answers}
    assert len(found) == len(answers)
    return found


async def next_line(exchange: OpenRequest) -> Line:
    """The next answer, which comes in a piece of its own, or the end."""
    async for piece in exchange.pieces():
        if piece.strip():
            return msgspec.json.decode(piece, type=dict[str, Any])
    raise AssertionError("the answer has ended")


async def rest(exchange: OpenRequest) -> list[Line]:
    """All further answers, and the end."""
    return decoded(b"".join([piece async for piece in exchange.pieces()]))


def assert_nothing_is_left(api: Api) -> None:
    """No pipe waits for a job any more."""
    assert api.parts.waiters.calls == {}


@asynccontextmanager
async def running(
    functions: Mapping[str, Callable[..., Any] | Handler] | None = None,
    *,
    workers: int = 2,
    buffer_size: int = 100,
    keep_completed: int = 10_000,
    max_waiting: int = 10_000,
) -> AsyncIterator[Api]:
    """An API whose pool runs these handlers; at the end it is drained."""
    handlers = handlers_of(functions or {"default": accept})
    parts = make_parts(
        handlers,
        workers=workers,
        buffer_size=buffer_size,
        keep_completed=keep_completed,
        max_waiting=max_waiting,
    )
    api = Api(parts=parts)
    async with parts.pool.places.open(), trio.open_nursery() as nursery:
        start_pool(parts, nursery)
        yield api
        parts.admission.close()
    assert_nothing_is_left(api)
