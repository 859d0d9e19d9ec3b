"""A client of the real command for load: raw HTTP over one connection, cheap and honest."""

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import trio

from tests.proof.accounts import Told
from tests.server.serving import Answer, Client

# Seconds: the server closes a connection that has been idle for longer than ten, and a submission
# over it at that moment may find it closed.
FRESH = 5.0

LEFT = (OSError, EOFError, trio.BrokenResourceError, trio.ClosedResourceError)


class Talker:
    """One connection to the server, opened when it is needed and again when it has been closed."""

    def __init__(
        self, url: str, told: Told, *, tls: ssl.SSLContext | None = None, fresh: float = FRESH
    ) -> None:
        """``told`` takes down what this client is told about its submissions."""
        self._url = httpx.URL(url)
        self._told = told
        self._tls = tls
        self._fresh = fresh
        self._client: Client | None = None
        self._used = 0.0

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer | None:
        """The answer to a request; None if the server has closed the connection instead."""
        data = body_bytes(body)
        return await self.exchange(request_bytes(method, path, data, headers))

    async def exchange(self, data: bytes) -> Answer | None:
        """The answer to these bytes; None if the server has closed the connection instead."""
        if trio.current_time() > self._used + self._fresh:
            self.close()
        try:
            if self._client is None:
                self._client = await connect(self._url, self._tls)
            answer = await self._client.request(data)
        except LEFT:
            self.close()
            return None
        except BaseException:
            self.close()  # cancelled in the middle of an answer
            raise
        self._used = trio.current_time()
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    async def submit(
        self, job_type: str, token: str, seconds: float, headers: Mapping[str, str] | None = None
    ) -> Answer | None:
        """Submit a job of `tests.proof.work`, and take down what comes of it."""
        self._told.unanswered.add(token)
        answer = await self.ask("POST", "/jobs", task(job_type, token, seconds), headers)
        if answer is not None:
            take_down(self._told, token, answer)
        return answer

    async def submit_batch(self, job_type: str, tokens: list[str], seconds: float) -> int:
        """Submit several jobs at once, and take down what comes of them; the status, or 0."""
        self._told.unanswered.update(tokens)
        tasks = [task(job_type, token, seconds) for token in tokens]
        answer = await self.ask("POST", "/jobs/batch", tasks)
        if answer is None:
            return 0
        self._told.unanswered.difference_update(tokens)
        self._told.statuses[answer.status] += 1
        if answer.status == 201:
            ids = [job["id"] for job in answer.json()]
            self._told.accepted.update(zip(tokens, ids, strict=True))
        else:
            self._told.refused.update(tokens)
        return answer.status

    async def hang_up_on(self, job_type: str, token: str, seconds: float, part: float) -> None:
        """Send this part of a submission (1.0 is all of it), and leave."""
        self._told.unanswered.add(token)
        body = json.dumps(task(job_type, token, seconds)).encode()
        data = request_bytes("POST", "/jobs", body)
        try:
            stream = await trio.open_tcp_stream(self._url.host, self._url.port or 0)
            async with stream:
                await stream.send_all(data[: int(len(data) * part)])
        except LEFT:
            pass

    def close(self) -> None:
        """Close the connection, if it is open."""
        if self._client is not None:
            self._client.close()
            self._client = None


@asynccontextmanager
async def talking(
    url: str, told: Told, *, tls: ssl.SSLContext | None = None, fresh: float = FRESH
) -> AsyncIterator[Talker]:
    """A client whose connection is closed at the end of the block."""
    talker = Talker(url, told, tls=tls, fresh=fresh)
    try:
        yield talker
    finally:
        talker.close()


async def connect(url: httpx.URL, tls: ssl.SSLContext | None = None) -> Client:
    """A connection, encrypted if ``tls`` is given; the caller closes it.

    Raises:
        OSError: Nobody listens there.
        trio.BrokenResourceError: It came to no handshake.
    """
    stream = await trio.open_tcp_stream(url.host, url.port or 0)
    if tls is None:
        return Client(stream)
    client = Client(trio.SSLStream(stream, tls, server_hostname="localhost", https_compatible=True))
    try:
        await client.stream.do_handshake()
    except BaseException:
        client.close()
        raise
    return client


def take_down(told: Told, token: str, answer: Answer) -> None:
    """What the answer to a submission says of its job."""
    told.unanswered.discard(token)
    told.statuses[answer.status] += 1
    if answer.status == 201:
        told.accepted[token] = answer.json()["id"]
    else:
        told.refused.add(token)


def body_bytes(body: object) -> bytes:
    """A body: bytes as they are, None for none, anything else as JSON."""
    if isinstance(body, bytes):
        return body
    return b"" if body is None else json.dumps(body).encode()


def task(job_type: str, token: str, seconds: float) -> dict[str, Any]:
    """The submission of a job of `tests.proof.work`."""
    return {"type": job_type, "payload": {"token": token, "seconds": seconds}}


def request_bytes(
    method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> bytes:
    """A whole request."""
    lines = [f"{name}: {value}\r\n" for name, value in (headers or {}).items()]
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{''.join(lines)}\r\n".encode() + body
