"""A proxy before a PostgreSQL server: it counts messages, cuts at one of them, or stands still."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import trio

SOCKET = ".s.PGSQL.5432"

# Of the first message, which has no type.
START = "start"

When = Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Passed:
    """A message that has come to the proxy.

    Attributes:
        name: What the connection is for, as it was given to `connect`.
        to: Where it goes.
        kind: Its letter in PostgreSQL's protocol: ``Q``, a statement; ``P``, ``B``, ``E``, ``S``,
            the steps of one with parameters; ``D``, a row; ``Z``, the end of an answer; ``A``, a
            notification.
    """

    name: str
    to: Literal["server", "client"]
    kind: str


@dataclass(slots=True)
class Cut:
    """Where the proxy cuts a connection, once.

    Attributes:
        number: At which of the messages that pass from now on, from 0 on.
        when: Whether that message still passes.
        name: Only messages of the connections of this name count; None for all.
        done: Set when it has happened.
    """

    number: int
    when: When
    name: str | None = None
    done: trio.Event = field(default_factory=trio.Event)


@dataclass(slots=True, eq=False)
class Link:
    """A connection through the proxy."""

    client: trio.SocketStream
    server: trio.SocketStream
    name: str = ""
    is_silent: bool = False

    async def close(self) -> None:
        """Close both sides; what has passed arrives."""
        await trio.aclose_forcefully(self.client)
        await trio.aclose_forcefully(self.server)


class Reader:
    """Splits the bytes of one side into messages."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._bytes = bytearray()

    async def read(self, *, typed: bool) -> bytes:
        """The next message; nothing at the end of the bytes."""
        at = 1 if typed else 0
        if not await self._have(at + 4):
            return b""
        size = at + int.from_bytes(self._bytes[at : at + 4])
        if not await self._have(size):
            return b""
        message = bytes(self._bytes[:size])
        del self._bytes[:size]
        return message

    async def _have(self, size: int) -> bool:
        while len(self._bytes) < size:
            more = await self._stream.receive_some()
            if not more:
                return False
            self._bytes += more
        return True


class Proxy:
    """Passes the messages of a server's clients on.

    Attributes:
        url: Where its clients connect to.
        passed: The messages that have come so far.
    """

    def __init__(self, url: str, listens_in: Path) -> None:
        base, _, folder = url.partition("?host=")
        self.url = f"{base}?host={listens_in}"
        self.passed: list[Passed] = []
        self._server = f"{folder}/{SOCKET}"
        self._path = str(listens_in / SOCKET)
        self._links: set[Link] = set()
        self._cut: Cut | None = None
        self._refuses = False
        self._goes_on = trio.Event()
        self._goes_on.set()

    def cut_at(self, number: int, when: When, *, name: str | None = None) -> Cut:
        """Cut the connection at one of the messages that come from now on."""
        self._cut = Cut(number, when, name)
        return self._cut

    async def cut(self, *, name: str | None = None) -> None:
        """Cut the connections there are, those of a name or all."""
        for link in [each for each in self._links if name in (None, each.name)]:
            await link.close()

    def refuse(self, *, refuses: bool = True) -> None:
        """Close each new connection at once, or no longer."""
        self._refuses = refuses

    def freeze(self) -> None:
        """Pass nothing on, without a sign to anybody; new connections get no answer either."""
        self._goes_on = trio.Event()

    def silence(self) -> None:
        """Pass nothing on any more over the connections there are, without a sign to anybody."""
        for link in self._links:
            link.is_silent = True

    def go_on(self) -> None:
        """Pass on what has come since `freeze`."""
        self._goes_on.set()

    @classmethod
    @asynccontextmanager
    async def before(cls, url: str) -> AsyncIterator[Self]:
        """A proxy before the server of a URL, while the block runs."""
        with tempfile.TemporaryDirectory(prefix="pg-proxy-") as folder:
            proxy = cls(url, Path(folder))
            with trio.socket.socket(trio.socket.AF_UNIX) as listener:
                await listener.bind(proxy._path)
                listener.listen()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(proxy._accept, listener, nursery)
                    yield proxy
                    nursery.cancel_scope.cancel()

    async def _accept(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            accepted, _ = await listener.accept()
            nursery.start_soon(self._serve, trio.SocketStream(accepted))

    async def _serve(self, client: trio.SocketStream) -> None:
        async with client:
            await self._goes_on.wait()
            if self._refuses:
                return
            try:
                server = await trio.open_unix_socket(self._server)
            except OSError:
                return  # the client meets a server that is away
            async with server:
                link = Link(client, server)
                self._links.add(link)
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._to_server, link, nursery.cancel_scope)
                        nursery.start_soon(self._to_client, link, nursery.cancel_scope)
                finally:
                    self._links.remove(link)

    async def _to_server(self, link: Link, both: trio.CancelScope) -> None:
        reader = Reader(link.client)
        try:
            start = await reader.read(typed=False)
            words = start[8:].split(b"\0")
            settings = dict(zip(words[::2], words[1::2], strict=False))
            link.name = settings.get(b"application_name", b"").decode().removeprefix("trio-jobs ")
            await self._pass(link, Passed(link.name, "server", START), start)
            while message := await reader.read(typed=True):
                await self._pass(link, Passed(link.name, "server", chr(message[0])), message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        both.cancel()

    async def _to_client(self, link: Link, both: trio.CancelScope) -> None:
        reader = Reader(link.server)
        try:
            while message := await reader.read(typed=True):
                await self._pass(link, Passed(link.name, "client", chr(message[0])), message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        both.cancel()

    async def _pass(self, link: Link, passed: Passed, message: bytes) -> None:
        await self._goes_on.wait()
        if link.is_silent:
            await trio.sleep_forever()
        self.passed.append(passed)
        cut = self._cut
        if cut is not None and cut.name in (None, passed.name):
            cut.number -= 1
        here = cut is not None and cut.number < 0 and not cut.done.is_set()
        if cut is not None and here:
            self._cut = None
            cut.done.set()
        if cut is None or not here or cut.when == "after":
            await (link.server if passed.to == "server" else link.client).send_all(message)
        if here:
            await link.close()
