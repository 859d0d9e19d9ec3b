"""The client of the HTTP rows: keep-alive connections, each with one request on its way."""

import http.client
import re
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import repeat
from typing import Self

CONNECTIONS = 16

# Longer than any measurement here takes.
_SECONDS = 60.0

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


class LoadError(Exception):
    """An answer was not a success, or did not come."""


def post(path: str, body: bytes) -> bytes:
    """A request as bytes, with the headers of an ordinary client."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


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


class Clients:
    """Connections that keep a server busy; leaving the `with` block closes them.

    The client's own cost does not matter: the server's CPU is measured, or the
    server is the slower side.
    """

    def __init__(self, port: int, *, connections: int = CONNECTIONS) -> None:
        self._selector = selectors.DefaultSelector()
        self._sockets = [connect(port) for _ in range(connections)]
        for each in self._sockets:
            self._selector.register(each, selectors.EVENT_READ)

    def send(self, request: bytes, *, count: int) -> float:
        """Send so many copies of the request, and return the seconds that they take.

        Raises:
            LoadError: An answer was not a success, or did not come.
        """
        began = time.perf_counter()
        todo = repeat(request, count)
        waiting = sum(_send_next(each, todo) for each in self._sockets)
        partial: dict[socket.socket, bytes] = {}
        while waiting:
            for client in self._ready(_SECONDS):
                data = partial.pop(client, b"") + client.recv(262_144)
                if not _complete(data):
                    partial[client] = data
                elif not _send_next(client, todo):
                    waiting -= 1
        return time.perf_counter() - began

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
                if not _complete(client.recv(262_144)):
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


def _complete(data: bytes) -> bool:
    """Whether this is a whole answer."""
    if not data:
        raise LoadError("the server closed a connection")
    end = data.find(_HEAD_END)
    if end < 0:
        return False
    if data[9:10] != b"2":
        raise LoadError(f"the server answered {data[:500]!r}")
    length = _LENGTH.search(data, 0, end + 2)
    if length is None:
        return data.endswith(b"0\r\n\r\n")  # chunked
    return len(data) == end + len(_HEAD_END) + int(length[1])
