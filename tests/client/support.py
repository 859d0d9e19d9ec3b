"""Tests of the client: on Trio and on asyncio, in virtual time, against answers of a script."""

import asyncio
import functools
import gc
import inspect
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import httpx
import msgspec
import pytest
import trio
import trio.testing

from tests.command import PATIENCE
from tests.on_asyncio import as_plain
from trio_jobs.client import AsyncClient

URL = "http://server.test"


class _JumpingSelector(selectors.DefaultSelector):
    """Lets no time pass: a wait is over at once, and its seconds are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        assert timeout is not None, "every task waits, and for no time"
        self.seconds += timeout
        return []


class JumpingLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose clock jumps to the next deadline."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._jumping.seconds


# Seconds of virtual time: a program in which all tasks wait for nothing fails at once.
_VIRTUAL_LIMIT = 1e9


def run_on(loop: str, program: Callable[[], Awaitable[None]], *, really: bool = False) -> None:
    """Run a program on a loop, in virtual time that begins at 0, or really."""
    limit = PATIENCE if really else _VIRTUAL_LIMIT

    async def bounded() -> None:
        with anyio.fail_after(limit):
            await program()

    if loop == "trio":
        clock = None if really else trio.testing.MockClock(autojump_threshold=0)
        trio.run(bounded, clock=clock)
    else:
        with asyncio.Runner(loop_factory=None if really else JumpingLoop) as runner:
            runner.run(bounded())


def on_both_loops(
    test: Callable[..., Awaitable[None]], *, really: bool = False
) -> Callable[..., None]:
    """Make of an async test two plain ones, on Trio and on asyncio.

    Args:
        test: The test.
        really: Whether time is real, for tests with sockets.
    """

    def run_test(*args: object, loop: str, **kwargs: object) -> None:
        run_on(loop, functools.partial(test, *args, **kwargs), really=really)

    plain = as_plain(test, run_test)
    own = inspect.signature(plain)
    parameters = [each for each in own.parameters.values() if each.kind.name[:3] != "VAR"]
    added = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
    plain.__signature__ = own.replace(parameters=[*parameters, added])  # type: ignore[attr-defined]
    decorated: Callable[..., None] = pytest.mark.parametrize("loop", ["trio", "asyncio"])(plain)
    return decorated


Reply = httpx.Response | Exception | Callable[[httpx.Request], Awaitable[httpx.Response]]


class Script(httpx.AsyncBaseTransport):
    """Answers each request with the next reply: an answer, an error, or what a function makes.

    Attributes:
        requests: The requests so far.
    """

    def __init__(self, *replies: Reply) -> None:
        self.requests: list[httpx.Request] = []
        self._replies = list(replies)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        if isinstance(reply, Exception):
            raise reply
        if callable(reply):
            return await reply(request)
        # A response can be read once.
        return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)

    @property
    def lines(self) -> list[str]:
        """Method and path of the requests so far."""
        return [f"{request.method} {request.url.raw_path.decode()}" for request in self.requests]


def scripted(*replies: Reply, retry_for: float = 60.0) -> tuple[AsyncClient, Script]:
    """A client whose requests get these replies, the last one again and again."""
    script = Script(*replies)
    http = httpx.AsyncClient(transport=script, timeout=10.0)
    return AsyncClient(URL, retry_for=retry_for, http=http), script


def job_answer(
    code: int = 200, headers: dict[str, str] | None = None, /, **members: object
) -> httpx.Response:
    """An answer with a pending job that has these members."""
    job = {
        "id": "a1",
        "type": "email",
        "status": "pending",
        "created_at": "2026-11-25T08:00:00.000001Z",
        **members,
    }
    return httpx.Response(code, headers=headers, content=msgspec.json.encode(job))


def completed(outcome: str = "succeeded", **members: object) -> httpx.Response:
    """An answer with a job that has ended."""
    return job_answer(200, status="completed", outcome=outcome, **members)


def problem(status: int, detail: str = "no", **headers: str) -> httpx.Response:
    """An answer that is an error."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=names, json={"detail": detail})


def at_each_step_on_trio(count: Callable[[int], Awaitable[int]], *, more_than: int) -> None:
    """Run a program once for each of its steps, in virtual time.

    Args:
        count: Runs it, and cancels it at a step; none is the 0th. Returns how many steps it took.
        more_than: It takes more steps than that.
    """

    def run(step: int) -> int:
        return trio.run(count, step, clock=trio.testing.MockClock(autojump_threshold=0))

    steps = run(0)
    assert steps > more_than
    for step in range(1, steps + 1):
        run(step)
    gc.collect()  # what is left open would warn


def at_each_step_on_asyncio(count: Callable[[int], Coroutine[Any, Any, int | None]]) -> None:
    """The same on asyncio; ``count`` returns None as long as it has cancelled the program."""
    for step in range(1000):
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            if runner.run(count(step)) is not None:
                break
    assert 2 < step < 999
    gc.collect()
