"""A body that the hooks of an application read in Quart's way, and our route in its own."""

from collections import deque
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Self

from quart.wrappers.request import Body
from werkzeug.exceptions import RequestEntityTooLarge

Piece = tuple[bytes, bool]  # and whether there are more


class HostedBody(Body):
    """Read from the connection by whoever asks first, and there for the other as well.

    Quart's own is filled by a task that reads ahead; here nobody does that.
    What a hook reads is kept for the route, and what the route reads, unless it
    is a stream, for the hooks that come after it. It is a `Body` for the type's
    sake alone, and uses nothing of one, whose inside every Quart has changed.

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
        self._receive = receive
        self._max_length = max_content_length
        self._for_route: deque[Piece] = deque()
        self._for_hooks = bytearray()
        self._ended = False
        self._fault: Exception | None = None  # raised to hooks
        self._check_length(content_length or 0)

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
        self._fault = RuntimeError("a stream's body can only be read before its route")
        self._for_hooks.clear()

    def clear(self) -> None:
        """Forget what hooks have read and want no more."""
        self._for_hooks.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next piece, for a hook. It is not in what `__await__` gives after that."""
        while not self._for_hooks and not self._ended:
            await self._read_ahead()
        self._raise_fault()
        if not self._for_hooks:
            raise StopAsyncIteration
        data = bytes(self._for_hooks)
        self._for_hooks.clear()
        return data

    def __await__(self) -> Generator[Any, None, bytes]:
        """All of it, for a hook."""
        return self._read_all().__await__()

    async def _read_all(self) -> bytes:
        while not self._ended:
            await self._read_ahead()
        self._raise_fault()
        return bytes(self._for_hooks)

    async def _read_ahead(self) -> None:
        self._raise_fault()
        piece = await self._receive()
        self._for_route.append(piece)
        self._keep(piece)

    def _keep(self, piece: Piece) -> None:
        chunk, more = piece
        self._ended = not more
        if self._fault is None:
            self._for_hooks += chunk
            self._check_length(len(self._for_hooks))

    def _check_length(self, length: int) -> None:
        if self._max_length is not None and length > self._max_length:
            self._fault = RequestEntityTooLarge()
            self._for_hooks.clear()

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault
