"""The client of the HTTP rows: keep-alive connections, each with one request under way."""

import http.client
import re
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from types import TracebackType
from typing import Self

CONNECTIONS = 16

# Nothing that is measured here takes this long; then the measurement is broken.
_SECONDS = 60.0

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


class LoadError(Exception):
    """The server did not answer as it should."""


def post(path: str, body: bytes, *, media_type: str = "application/json") -> bytes:
    """A request as bytes, with the headers that an ordinary client sends."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n"
        f"Content-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def get(port: int, path: str) -> bytes:
    """The body of one answer, by a connection of its own."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)) as connection:
        connection.request("GET", path)
        return bytes(connection.getresponse().read())


def connect(port: int) -> socket.socket:
    """A connection to the server."""
    client = socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


class Clients:
    """Connections that keep a server busy.

    What the client costs does not matter: the server is measured by its own
    CPU, or is the slower of the two.
    """

    def __init__(self, port: int, *, connections: int = CONNECTIONS) -> None:
        self._selector = selectors.DefaultSelector()
        self._sockets = [connect(port) for _ in range(connections)]
        for each in self._sockets:
            self._selector.register(each, selectors.EVENT_READ)

    def send(self, request: bytes, *, count: int) -> float:
        """Send so many of the same request; the seconds that it took.

        Raises:
            LoadError: An answer was not a success, or did not come.
        """
        return self.send_each(request for _ in range(count))

    def send_each(self, requests: Iterable[bytes]) -> float:
        """Send these requests, each on whichever connection is free; the seconds that it took.

        Raises:
            LoadError: An answer was not a success, or did not come.
        """
        began = time.perf_counter()
        todo = iter(requests)
        waiting = sum(_send_next(each, todo) for each in self._sockets)
        partial: dict[socket.socket, bytes] = {}
        while waiting:
            ready = self._selector.select(timeout=_SECONDS)
            if not ready:
                raise LoadError("no answer came")
            for key, _ in ready:
                client = _socket(key)
                data = partial.pop(client, b"") + client.recv(262_144)
                if not _complete(data):
                    partial[client] = data
                elif not _send_next(client, todo):
                    waiting -= 1
        return time.perf_counter() - began

    def send_paced(self, request: Callable[[], bytes], *, count: int, rate: float) -> None:
        """Send so many a second, each on time as long as any connection is free.

        Args:
            request: Makes each request when its time has come.
            count: How many.
            rate: How many a second.

        Raises:
            LoadError: An answer was not a success, or did not come.
        """
        free = list(self._sockets)
        began = time.monotonic()
        sent = 0
        while sent < count or len(free) < len(self._sockets):
            wait = max(0.0, began + sent / rate - time.monotonic())
            if sent < count and free and wait == 0:
                free.pop().sendall(request())
                sent += 1
                continue
            ready = self._selector.select(wait if sent < count and free else _SECONDS)
            for key, _ in ready:
                client = _socket(key)
                if not _complete(client.recv(262_144)):
                    raise LoadError("half an answer")
                free.append(client)

    def close(self) -> None:
        """Close all connections."""
        self._selector.close()
        for each in self._sockets:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _socket(key: selectors.SelectorKey) -> socket.socket:
    assert isinstance(key.fileobj, socket.socket)  # noqa: S101  (nothing else is registered)
    return key.fileobj


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
