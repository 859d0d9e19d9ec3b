"""A body that the hooks of an application read in Quart's way, and our route in its own."""

from collections import deque
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Self

from quart_trio.wrappers.request import TrioBody

Piece = tuple[bytes, bool]  # and whether there are more


class HostedBody(TrioBody):
    """Read from the connection by whoever asks first, and there for the other as well.

    Quart's own is filled by a task that reads ahead; here nobody does that.
    What a hook reads is kept for the route, and what the route reads, unless it
    is a stream, for the hooks that come after it.

    Args:
        receive: Reads the next piece from the connection.
        content_length: As the client declares it.
        max_content_length: The application's ``MAX_CONTENT_LENGTH``, for hooks.
    """

    def __init__(
        self,
        receive: Callable[[], Awaitable[Piece]],
        *,
        content_length: int | None,
        max_content_length: int | None,
    ) -> None:
        super().__init__(content_length, max_content_length)
        self._receive = receive
        self._for_route: deque[Piece] = deque()

    async def read_chunk(self) -> Piece:
        """The next piece, for the route.

        Raises:
            Exception: What ``receive`` raises.
        """
        if self._for_route:
            return self._for_route.popleft()
        piece = await self._receive()
        self._keep(piece)
        return piece

    def forget(self) -> None:
        """Keep no more of it: it is a stream, and has no end."""
        self._must_raise = RuntimeError("a stream's body can only be read before its route")
        self._data.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next piece, for a hook. It is not in what `__await__` gives after that."""
        while not self._data and not self._complete.is_set():
            await self._read_ahead()
        if self._must_raise is not None:
            raise self._must_raise
        if not self._data:
            raise StopAsyncIteration
        data = bytes(self._data)
        self._data.clear()
        return data

    def __await__(self) -> Generator[Any, None, bytes]:
        """All of it, for a hook."""
        return self._read_all().__await__()

    async def _read_all(self) -> bytes:
        while not self._complete.is_set():
            await self._read_ahead()
        if self._must_raise is not None:
            raise self._must_raise
        return bytes(self._data)

    async def _read_ahead(self) -> None:
        if self._must_raise is not None:
            raise self._must_raise
        piece = await self._receive()
        self._for_route.append(piece)
        self._keep(piece)

    def _keep(self, piece: Piece) -> None:
        chunk, more = piece
        self.append(chunk)
        if not more:
            self.set_complete()
