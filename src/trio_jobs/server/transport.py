"""A client's socket with a deadline for each wait.

Each deadline covers one wait. A deadline around a whole request would lose answers: if it passes in
the turn of the event loop in which the bytes arrive, the application acts on them and its answer is
cancelled. Available bytes beat the clock: before a wait gives up, it reads the socket once more.
"""

from __future__ import annotations

import errno
import struct
from contextlib import suppress
from fcntl import ioctl
from math import inf
from termios import TIOCOUTQ
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import socket

    from trio_jobs.server.client_time import ClientTime
    from trio_jobs.server.pause import Pause

# One read of the socket takes at most so many bytes.
_RECEIVE = 65_536
# One ``send_all`` may take this many times the time for one byte. Without a bound, a client that
# takes one byte now and then would hold its connection, and the answer in memory, for ever.
_TIMES_IN_ALL = 10
_TOO_SLOW = "reads too slowly, or not at all"
_HALF_DUPLEX = "reads nothing while sending: use slices"


class TimeUpError(Exception):
    """The client's time is up: no byte has arrived, or the client has taken none (why, it says)."""


class Transport(trio.abc.HalfCloseableStream):
    """A socket as one of Trio's streams, with deadlines. ``trio.SSLStream`` can run on top of it.

    TLS needs no deadlines of its own. One of its reads may take several packets; a TimeUpError
    between them leaves the encryption intact, except during the handshake and while a packet is
    half sent. Other errors, checkpoints and closing are those of Trio's streams.

    Args:
        sock: Connected. This object closes it.
        time: The clock of the deadlines.
        send_timeout: Seconds within which the client must take some of the bytes; one ``send_all``
            may last ten times as long.

    Attributes:
        receive_by: When ``receive_some`` gives up, by ``time``. The caller sets it for each call.
        pause: What the client of a pipe may do instead of taking bytes within ``send_timeout``.
    """

    def __init__(self, sock: socket.socket, time: ClientTime, *, send_timeout: float) -> None:
        sock.setblocking(False)
        # A SocketStream sets the socket's options, and closes it safely while a task waits for it.
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._sock = sock
        self._time = time
        self._send_timeout = send_timeout
        self._sending = False
        self._sent = 0
        self._waiting: trio.CancelScope | None = None
        self.receive_by = inf
        self.pause: Pause | None = None

    @property
    def socket(self) -> trio.socket.SocketType:
        """The socket, for its addresses."""
        return self._stream.socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read bytes that have arrived; wait for the first until ``receive_by``.

        The checkpoint comes before the read: in the meantime the client may have sent.
        A cancelled call takes no bytes. If no byte arrives in time, this raises TimeUpError.
        """
        await trio.lowlevel.checkpoint()
        data = self.receive_nowait(max_bytes or _RECEIVE)
        return await self.wait_and_receive(max_bytes or _RECEIVE) if data is None else data

    def receive_nowait(self, max_bytes: int = _RECEIVE) -> bytes | None:
        """Read bytes that have arrived; None if there are none."""
        try:
            return self._sock.recv(max_bytes)
        except BlockingIOError:
            return None
        except OSError as error:
            raise _stream_error(error) from error

    async def wait_and_receive(self, max_bytes: int = _RECEIVE) -> bytes:
        """Wait for bytes until ``receive_by``, and read them; otherwise as ``receive_some``."""
        while True:
            with self._time.scope(self.receive_by) as self._waiting:
                await trio.lowlevel.wait_readable(self._sock)
            over = self._waiting.cancelled_caught and self._time.passed(self.receive_by)
            if (data := self.receive_nowait(max_bytes)) is not None:
                return data
            if over:
                raise TimeUpError

    def stop_waiting(self) -> None:
        """Have ``receive_some`` return available bytes or give up, even while it waits."""
        self.receive_by = -inf
        if self._waiting is not None:
            self._waiting.cancel()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all bytes, as long as the client takes some within each ``send_timeout``.

        If it takes none for that long, or needs more than ten times as long in all, this raises
        TimeUpError. Then, and after a cancellation, part of the bytes may have been sent. A
        ``pause`` decides how much longer the client may take none.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        sent = self.send_nowait(data)
        if sent == len(data):
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        self._sending = True
        try:
            with memoryview(data) as view:
                await self._send_rest(view, sent)
        finally:
            self._sending = False

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Send as many bytes as the kernel takes at once, and return how many.

        Raises what ``send_all`` raises if the connection is broken or closed, or has a sender.
        """
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this connection")
        return self._send_some(data)

    async def _send_rest(self, data: memoryview, sent: int) -> None:
        pause = self.pause
        longest = self._send_timeout if pause is None else pause.seconds
        last = self._time.now() + _TIMES_IN_ALL * longest
        deadline = self._time.now() + self._send_timeout
        before = self.progress()
        while sent < len(data):
            with self._time.scope(deadline) as waiting:
                await trio.lowlevel.wait_writable(self._sock)
            over = waiting.cancelled_caught and self._time.passed(deadline)
            with data[sent:] as rest:
                sent += self._send_some(rest)
            now = self.progress()
            if over and sent < len(data) and (now == before or deadline == last):
                if pause is None or deadline == last:
                    raise TimeUpError(_TOO_SLOW)
                if pause.client_only_sends():
                    raise TimeUpError(_HALF_DUPLEX)
                deadline = min(last, deadline - self._send_timeout + pause.seconds)
                pause = None  # over at the deadline
            if now != before:
                before, pause = now, self.pause
                deadline = min(last, self._time.now() + self._send_timeout)

    def _send_some(self, data: bytes | bytearray | memoryview) -> int:
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _stream_error(error) from error
        self._sent += sent
        return sent

    def progress(self) -> tuple[int, int]:
        """A value that changes when the client takes bytes, or when more are sent.

        The kernel reports room only once there is much of it. So this also counts the bytes that
        the kernel still holds, where the kernel tells.
        """
        held = bytes(4)
        with suppress(OSError, ValueError):  # ValueError: the socket is closed
            held = ioctl(self._sock, TIOCOUTQ, held)
        return self._sent, struct.unpack("i", held)[0]

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the kernel has room for more bytes."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Tell the client that no more bytes will come."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the socket."""
        await self._stream.aclose()

    def close(self) -> None:
        """Close the socket without a checkpoint. Tasks that wait for it get an error."""
        self._stream.socket.close()


def _stream_error(error: OSError) -> Exception:
    if error.errno == errno.EBADF:
        return trio.ClosedResourceError("this socket is closed")
    return trio.BrokenResourceError(f"the connection is broken: {error}")
