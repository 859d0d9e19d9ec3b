"""The client of the HTTP rows: keep-alive connections, each with one request on its way."""

import http.client
import re
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Self

CONNECTIONS = 16

# Longer than any measurement here takes.
_SECONDS = 60.0

# More than any answer here. Room for much more would cost the client more than the answer.
_MAX_RECV = 65_536

_HEAD_END = b"\r\n\r\n"
_TOO_MANY = b"HTTP/1.1 429"
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


class LoadError(Exception):
    """An answer was not a success, or did not come."""


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A request as bytes, with the headers of an ordinary client."""
    lines = ("Content-Type: application/json", f"Content-Length: {len(body)}", *headers)
    return _head("POST", path, lines) + body


def get_request(path: str) -> bytes:
    """A request without a body, as bytes."""
    return _head("GET", path, ())


def _head(method: str, path: str, headers: Iterable[str]) -> bytes:
    first = f"{method} {path} HTTP/1.1"
    every = (first, "Host: localhost", "User-Agent: bench", "Accept: */*", *headers)
    return "".join(f"{line}\r\n" for line in (*every, "")).encode()


def get(port: int, path: str) -> bytes:
    """The body of one answer, over a connection of its own."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)) as connection:
        connection.request("GET", path)
        return bytes(connection.getresponse().read())


def connect(port: int) -> socket.socket:
    """Connect to the server."""
    client = socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The answers to some requests.

    Attributes:
        seconds: From the first request to the last answer.
        delays: The seconds from each request to its answer, in ascending order.
        refused: How many of the answers are 429.
    """

    seconds: float
    delays: list[float]
    refused: int


class Clients:
    """Connections that keep a server busy; leaving the `with` block closes them.

    Where the figure is a rate, the client must cost less than the server. It
    takes 12 µs a request, so one core carries 80,000 requests a second.
    """

    def __init__(self, port: int, *, connections: int = CONNECTIONS) -> None:
        self._selector = selectors.DefaultSelector()
        self._sockets = [connect(port) for _ in range(connections)]
        for each in self._sockets:
            self._selector.register(each, selectors.EVENT_READ)

    def send(self, requests: Iterable[bytes], *, may_be_refused: bool = False) -> Answers:
        """Send each request as soon as a connection is free.

        Args:
            requests: The requests, as bytes.
            may_be_refused: Whether an answer may be 429.

        Raises:
            LoadError: An answer was not a success, or did not come.
        """
        todo = iter(requests)
        delays: list[float] = []
        refused = 0
        partial: dict[socket.socket, bytes] = {}
        began = time.perf_counter()
        sent = {client: time.perf_counter() for client in self._sockets if _send_next(client, todo)}
        while sent:
            for client in self._ready(_SECONDS):
                data = partial.pop(client, b"") + client.recv(_MAX_RECV)
                if not _is_whole(data):
                    partial[client] = data
                    continue
                now = time.perf_counter()
                delays.append(now - sent.pop(client))
                if may_be_refused and data.startswith(_TOO_MANY):
                    refused += 1
                else:
                    _check_success(data)
                if _send_next(client, todo):
                    sent[client] = now
        return Answers(seconds=time.perf_counter() - began, delays=sorted(delays), refused=refused)

    def send_paced(self, request: Callable[[], bytes], *, count: int, rate: float) -> None:
        """Send so many requests a second, each on time as long as a connection is free.

        Raises:
            LoadError: An answer was not a success, or did not come.
        """
        free = list(self._sockets)
        began = time.monotonic()
        sent = 0
        while sent < count or len(free) < len(self._sockets):
            is_next = sent < count and free
            wait = max(0.0, began + sent / rate - time.monotonic())
            if is_next and wait == 0:
                free.pop().sendall(request())
                sent += 1
                continue
            for client in self._ready(wait if is_next else _SECONDS, may_be_none=bool(is_next)):
                data = client.recv(_MAX_RECV)
                _check_success(data)
                if not _is_whole(data):
                    raise LoadError("half an answer")
                free.append(client)

    def _ready(self, seconds: float, *, may_be_none: bool = False) -> list[socket.socket]:
        ready = [key.fileobj for key, _ in self._selector.select(seconds)]
        if not ready and not may_be_none:
            raise LoadError("no answer came")
        return ready  # type: ignore[return-value]  # sockets alone are registered

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for each in self._sockets:
            each.close()


def _send_next(client: socket.socket, requests: Iterator[bytes]) -> bool:
    request = next(requests, None)
    if request is None:
        return False
    client.sendall(request)
    return True


def _is_whole(data: bytes) -> bool:
    """Whether this is a whole answer."""
    if not data:
        raise LoadError("the server closed a connection")
    end = data.find(_HEAD_END)
    if end < 0:
        return False
    length = _LENGTH.search(data, 0, end + 2)
    if length is None:
        return data.endswith(b"0\r\n\r\n")  # chunked
    return len(data) == end + len(_HEAD_END) + int(length[1])


def _check_success(data: bytes) -> None:
    if data[9:10] != b"2":
        raise LoadError(f"the server answered {data[:500]!r}")
