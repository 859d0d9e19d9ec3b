"""`BodyStream`: the current request's body, piece by piece; and its client's disconnect.

In this module, *the server* is the command's own HTTP server.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

import trio

from trio_jobs.api.quart_adapter import current_request
from trio_jobs.problem_details import Problem

# The most bytes of a stream to read ahead while its lines wait for room: only reading shows a
# disconnect.
_MAX_AHEAD = 262_144

ENDED = "the request ended in the middle of its body"


class DisconnectedProblem(Problem):
    """400: the client has disconnected, or stopped sending in the middle of its body."""

    def __init__(self, detail: str = ENDED) -> None:
        super().__init__(400, detail)


@asynccontextmanager
async def cancel_on_disconnect(
    wait_disconnected: Callable[[], Awaitable[None]],
) -> AsyncIterator[None]:
    """A block that is cancelled when ``wait_disconnected`` returns.

    Raises an error of the block, or of ``wait_disconnected``, itself, without
    the nursery's group; two errors at once stay in the group.
    """
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def watch() -> None:
                await wait_disconnected()
                nursery.cancel_scope.cancel()

            yield
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # If a scope around the block is cancelled too, the watcher's Cancelled is in the group.
        _, errors = group.split(trio.Cancelled)
        if errors is None or len(errors.exceptions) > 1:
            raise
        failure = errors.exceptions[0]
    if failure is not None:
        raise failure


class BodyStream:
    """The current request's body, of any length, piece by piece.

    Args:
        idle_timeout: The longest time, in seconds, that the client may send
            nothing while `read` waits for it.
        may_half_close: Whether a client that has sent the whole body may shut down
            its sending side, and read on.
    """

    def __init__(self, *, idle_timeout: float, may_half_close: bool = False) -> None:
        # A bound method, not the request: a live answer reads on after the request's context.
        self._read_chunk = current_request().read_chunk
        self._idle_timeout = idle_timeout
        self._more = True
        self._ahead = bytearray()  # `wait_disconnected` appends, `read` takes
        self._failure: Problem | None = None  # ended reading ahead; `read` raises it
        self._server_body = current_request().server_body
        # Other servers tell of a half-closed connection only when it is gone, or close it.
        self._may_half_close = may_half_close and self._server_body is not None
        self._lift(math.inf)

    async def read(self) -> bytes:
        """The next piece; empty at the end.

        Raises:
            Problem: 408, the client has sent nothing for too long. A later call waits again.
            DisconnectedProblem: It has disconnected before the end.

        Checkpoints:
            As ASGI's ``receive`` does; none if bytes have been read ahead.
        """
        if self._ahead:
            piece = bytes(self._ahead)
            self._ahead.clear()
            return piece
        if self._failure is not None:
            raise self._failure
        while self._more:
            if piece := await self._read_in_time():
                return piece
        return b""

    async def open_pipe(self) -> None:
        """Let the answer begin before the body's end; see `ServerBody.open_pipe`."""
        if self._server_body is not None:
            await self._server_body.open_pipe(idle_timeout=self._idle_timeout)

    def watched(self) -> AbstractAsyncContextManager[object]:
        """A block that is cancelled when `wait_disconnected` returns."""
        if self._may_half_close and not self._may_read_ahead():
            return nullcontext()  # it would not return, and a task for it costs time
        return cancel_on_disconnect(self.wait_disconnected)

    async def wait_disconnected(self) -> None:
        """Wait until the client disconnects, or shuts down its sending side.

        A disconnect shows only after all bytes before it have been read. So
        this method reads up to 256 KiB ahead, for later calls of ``read``. If
        the client has sent more, the server may find out by an interim answer.
        If the server refuses the rest, this waits until it is cancelled; and so
        it does after the whole body of a client that may half-close.

        Cancellation:
            Loses nothing; a later call waits on.
        """
        self._lift(math.inf)  # the client may be silent while it waits for the server
        while self._may_read_ahead():
            try:
                chunk = await self._read_chunk()
            except Problem as problem:
                self._failure = problem  # `read` raises it, after the lines before it
            else:
                if chunk is None:
                    return
                piece, self._more = chunk
                self._ahead += piece
        if self._server_body is not None and self._failure is None:
            await self._server_body.wait_gone()
        else:
            await trio.sleep_forever()

    def _may_read_ahead(self) -> bool:
        over = self._may_half_close and not self._more
        return len(self._ahead) <= _MAX_AHEAD and self._failure is None and not over

    async def _read_in_time(self) -> bytes:
        """The next piece, which may be empty.

        The server applies the time limit itself: it looks at the socket
        before it gives up, and does not count time in which a handler blocks
        the event loop. Behind another server this method applies the limit.
        """
        self._lift(self._idle_timeout)
        seconds = self._idle_timeout if self._server_body is None else math.inf
        with trio.move_on_after(seconds) as scope:
            chunk = await self._read_chunk()
        if scope.cancelled_caught:
            raise Problem(
                408, f"nothing was received for {seconds:g} s", headers={"Connection": "close"}
            )
        if chunk is None:
            raise DisconnectedProblem
        piece, self._more = chunk
        return piece

    def _lift(self, idle_timeout: float) -> None:
        if self._server_body is not None:
            self._server_body.lift(idle_timeout=idle_timeout)
