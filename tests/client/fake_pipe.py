"""A server with a pipe that answers from memory, and can break an answer off at any byte."""

import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
from anyio.streams.memory import MemoryObjectSendStream

from tests.client.support import URL
from trio_jobs.client import AsyncClient

# Seconds without an answer after which the server sends a blank line.
HEARTBEAT = 15

Handle = Callable[[Any], Awaitable[object]]


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What becomes of one request.

    Attributes:
        reply: The answer, or the error, instead of the pipe's.
        cut: After how many bytes of the answer the connection breaks.
        stop: After how many answers the server shuts down: other lines have no outcome.
    """

    reply: httpx.Response | Exception | None = None
    cut: int | None = None
    stop: int | None = None


@dataclass(kw_only=True)
class FakeJob:
    """A job of the fake server."""

    id: str
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)
    answer: dict[str, object] = field(default_factory=dict)


class FakePipe(httpx.AsyncBaseTransport):
    """A transport of httpx that is a server with ``POST /jobs/pipe``.

    Args:
        start_soon: Starts a task for a job, whatever becomes of its connection.
        handle: Processes the payload of each job.
        fates: Of the requests, in their order; the others are answered well.

    Attributes:
        requests: The lines of each request so far.
        bodies: The same, as they were sent.
        windows: The window that each request asks for.
        runs: How often a job with each key has begun.
        open: How many requests are open.
        most_open: The most that were open at a time.
    """

    def __init__(
        self, start_soon: Callable[..., object], handle: Handle, fates: Iterable[Fate] = ()
    ) -> None:
        self.start_soon = start_soon
        self._handle = handle
        self._fates = iter(fates)
        self._jobs: dict[str, FakeJob] = {}
        self.requests: list[list[dict[str, Any]]] = []
        self.bodies: list[bytes] = []
        self.windows: list[int | None] = []
        self.runs: Counter[str] = Counter()
        self.open = 0
        self.most_open = 0

    def forget(self) -> None:
        """Forget all jobs, as a restart in memory does."""
        self._jobs.clear()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert request.method == "POST"
        assert request.url.path == "/jobs/pipe"
        assert request.headers["content-type"] == "application/x-ndjson"
        body = await request.aread()
        assert int(request.headers["content-length"]) == len(body)
        await anyio.lowlevel.checkpoint()
        self.bodies.append(body)
        window = request.url.params.get("window")
        self.windows.append(None if window is None else int(window))
        self.requests.append([json.loads(line) for line in body.splitlines()])
        fate = next(self._fates, Fate())
        if isinstance(fate.reply, Exception):
            raise fate.reply
        if fate.reply is not None:
            return fate.reply
        return httpx.Response(200, stream=_PipeStream(self, self.requests[-1], fate))

    def admit(self, line: dict[str, Any]) -> tuple[FakeJob, bool]:
        """The job of a line, and whether it was there before."""
        key = line["key"]
        if key in self._jobs:
            return self._jobs[key], True
        job = self._jobs[key] = FakeJob(id=f"job-{len(self._jobs) + 1}")
        self.runs[key] += 1
        self.start_soon(self._run, job, line["payload"])
        return job, False

    async def _run(self, job: FakeJob, payload: object) -> None:
        job.answer = {"outcome": "cancelled"}
        with job.scope:
            try:
                job.answer = {"outcome": "succeeded", "result": await self._handle(payload)}
            except ValueError as error:
                job.answer = {
                    "outcome": "failed",
                    "error": {"type": "ValueError", "message": str(error)},
                }
        job.ended.set()


class _PipeStream(httpx.AsyncByteStream):
    def __init__(self, server: FakePipe, lines: list[dict[str, Any]], fate: Fate) -> None:
        self._server = server
        self._lines = lines
        self._fate = fate
        server.open += 1
        server.most_open = max(server.most_open, server.open)

    async def aclose(self) -> None:
        self._server.open -= 1

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        left = self._fate.cut
        async with aclosing(self._texts()) as texts:
            async for text in texts:
                if left is not None:
                    if len(text) >= left:
                        yield text[:left]
                        raise httpx.ReadError("the connection broke")
                    left -= len(text)
                yield text

    async def _texts(self) -> AsyncGenerator[bytes, None]:
        yield b"\n"
        send, receive = anyio.create_memory_object_stream[dict[str, object]](1000)
        outstanding: dict[int, dict[str, object]] = {}
        jobs: list[FakeJob] = []
        with receive:
            with send:
                for number, line in enumerate(self._lines, 1):
                    if line.get("cancel"):
                        for job in jobs:
                            job.scope.cancel()
                        continue
                    job, known = self._server.admit(line)
                    jobs.append(job)
                    head: dict[str, object] = {"line": number, "key": line["key"], "id": job.id}
                    outstanding[number] = head
                    more = {"replayed": True} if known else {}
                    self._server.start_soon(_answer, job, head | more, send.clone())
            answers = 0
            while self._fate.stop is None or answers < self._fate.stop:
                try:
                    answer = None
                    with anyio.move_on_after(HEARTBEAT):
                        answer = await receive.receive()
                    if answer is None:
                        yield b"\n"
                        continue
                except anyio.EndOfStream:
                    yield _text({"end": "input", "lines": len(self._lines)})
                    return
                answers += 1
                del outstanding[answer["line"]]  # type: ignore[arg-type]
                yield _text(answer)
            for head in outstanding.values():
                yield _text(head)
            yield _text({"end": "shutting down", "retry_after": 1.0})


async def _answer(
    job: FakeJob,
    head: dict[str, object],
    send: MemoryObjectSendStream[dict[str, object]],
) -> None:
    with send:
        await job.ended.wait()
        with suppress(anyio.BrokenResourceError):
            await send.send(head | job.answer)


def _text(line: dict[str, object]) -> bytes:
    return json.dumps(line).encode() + b"\n"


async def double(payload: object) -> object:
    """Twice the payload, a number; -1 fails."""
    assert isinstance(payload, int)
    if payload == -1:
        raise ValueError("no")
    return 2 * payload


@asynccontextmanager
async def fake_pipe(
    handle: Handle = double, *, fates: Iterable[Fate] = (), retry_for: float = 60.0
) -> AsyncIterator[tuple[AsyncClient, FakePipe]]:
    """A client, and its fake server."""
    async with anyio.create_task_group() as tasks:
        server = FakePipe(tasks.start_soon, handle, fates)
        async with httpx.AsyncClient(transport=server) as http:
            yield AsyncClient(URL, retry_for=retry_for, http=http), server
        tasks.cancel_scope.cancel()
