"""An API to test: the application over parts whose pool runs only if a test starts it."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import msgspec
import pytest

from tests.asgi import Answer, Client
from tests.support import ANYONE, Access, HandlerRegistry, HttpSettings, Parts, make_parts
from trio_jobs import Handler
from trio_jobs.api.api_context import ApiContext, Metrics, Tracing
from trio_jobs.api.drain_state import DrainState
from trio_jobs.api.fast_path import FastPath
from trio_jobs.testing.asgi_client import Data

MAX_BODY_BYTES = 10_000

SUBMISSION = b'{"type":"email","payload":{"to":"user@example.com"}}'


async def accept(payload: object) -> object:
    """A handler that returns its payload."""
    return payload


def handlers_of(functions: Mapping[str, Callable[..., Any] | Handler]) -> HandlerRegistry:
    """Handlers for these functions; one may be a handler already."""
    return HandlerRegistry(
        {
            name: function if isinstance(function, Handler) else Handler.of(function)
            for name, function in functions.items()
        }
    )


class FakeMetrics:
    """Counts refusals, and writes nothing."""

    def __init__(self) -> None:
        self.refusals: Counter[str] = Counter()

    async def write(self, accept: str) -> tuple[str, bytes]:
        return "text/plain", accept.encode()


class FastPathClient(Client):
    """Asks the application for an immediate answer, as the server does, and then by ASGI.

    A body in pieces, and the pieces of a request that a test opens, go by ASGI.
    """

    def __init__(self, app: FastPath, *, max_body_bytes: int) -> None:
        super().__init__(app)
        self._fast_path = app
        self._max_body_bytes = max_body_bytes

    async def request(
        self,
        method: str,
        target: str,
        *,
        body: Data | Iterable[Data] = b"",
        json: object = msgspec.UNSET,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        whole = body if json is msgspec.UNSET else msgspec.json.encode(json)
        if isinstance(whole, bytes) and len(whole) <= self._max_body_bytes:
            answer = answer_now(self._fast_path, method, target, headers or {}, whole)
            if answer is not None:
                return answer
        return await super().request(method, target, body=body, json=json, headers=headers)


def answer_now(
    app: FastPath,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    access: Access = ANYONE,
) -> Answer | None:
    """The application's immediate answer, if it has one and the server asks for it."""
    if len({name.lower() for name in headers}) < len(headers):
        return None  # a header is there twice
    sent = {n.lower().encode(): v.encode("latin-1") for n, v in {"host": "test", **headers}.items()}
    answer = app.answer_now(method, target.encode(), sent, body, access)
    if answer is None:
        return None
    if inspect.iscoroutine(answer):
        with pytest.raises(StopIteration) as end:
            answer.send(None)  # the jobs are in memory: there is no checkpoint
        answer = end.value.value
    assert isinstance(answer, tuple)
    status, pairs, content = answer
    all_headers = tuple((name.decode(), value.decode("latin-1")) for name, value in pairs)
    return Answer(status=status, headers=dict(all_headers), body=content, all_headers=all_headers)


class Api:
    """The application, the parts behind it, and a client.

    Attributes:
        fast_path: Whether clients take the fast path, as under the server of the command.

    Args:
        functions: The handlers; by default those of the parts, or one for every type.
        parts: The parts, if not those of the usual sizes.
        max_body_bytes: The longest body.
        max_wait_seconds: The longest wait.
        metrics: What writes ``/metrics``, if there is such a route.
        tracing: What makes spans, if there are any.
        ui: Whether there is the page.
        payloads: Which role sees payloads and results.
        drain: What a stop still finishes.
    """

    fast_path: ClassVar = True

    def __init__(
        self,
        functions: Mapping[str, Callable[[Any], Any] | Handler] | None = None,
        *,
        parts: Parts | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_wait_seconds: float = 60,
        metrics: Metrics | None = None,
        tracing: Tracing | None = None,
        ui: bool = True,
        payloads: Literal["read", "control"] = "read",
        drain: DrainState | None = None,
    ) -> None:
        self.parts = parts or make_parts()
        pool = self.parts.pool
        if functions or not pool.handlers.table:
            pool = replace(pool, handlers=handlers_of(functions or {"default": accept}))
        self.context = ApiContext(
            pool=pool,
            http=HttpSettings(
                max_body_bytes=max_body_bytes,
                max_wait_seconds=max_wait_seconds,
                ui=ui,
                payloads=payloads,
            ),
            shutdown_retry_after=7,
            metrics=metrics,
            tracing=tracing,
            drain=drain,
        )
        self.both_ways = FastPath(self.context, find=self.parts.store.find_nowait)
        self.app = self.both_ways.app
        self.client = (
            FastPathClient(self.both_ways, max_body_bytes=max_body_bytes)
            if self.fast_path
            else Client(self.app)
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
