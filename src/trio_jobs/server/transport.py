"""A client's socket, and how long a single wait for the client may take.

A deadline belongs to one wait. Around a whole conversation it would also end what is no wait: bytes
and deadline come in one turn of the event loop, the bytes are acted on, and the answer to them is
cancelled. And where bytes are there, the clock has nothing to say: before a wait is given up, the
socket is looked at once more.
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

# Bytes that one look at the socket reads at most.
_RECEIVE = 65_536
# How many times its time to take anything a client has for the whole of one ``send_all``. Without
# this, one that takes a byte now and then would hold its connection, and its answer, for ever.
_TIMES_IN_ALL = 10


class TimeUpError(Exception):
    """The client has had its time, and there was nothing to read, or no room to write."""


class Transport(trio.abc.HalfCloseableStream):
    """A stream over a socket, with deadlines. ``trio.SSLStream`` may stand on it.

    TLS needs nothing more: what looks like a wait for one request may be one
    for several packets, and an error that ends it there leaves the encryption
    as it is, unless in the handshake, or with a packet half sent.

    Args:
        sock: Connected; closed with this object.
        time: What deadlines go by.
        send_timeout: Seconds in which the client takes something of what is
            sent; ten times as long for all of one ``send_all``.

    Attributes:
        receive_by: When ``receive_some`` gives up, by ``time``; the caller
            sets it before each call.
    """

    __slots__ = (
        "_send_timeout",
        "_sending",
        "_sent",
        "_sock",
        "_stream",
        "_time",
        "_waiting",
        "receive_by",
    )

    def __init__(self, sock: socket.socket, time: ClientTime, *, send_timeout: float) -> None:
        sock.setblocking(False)
        # Sets what a stream's socket needs, and knows how to close one that is waited for.
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._sock = sock
        self._time = time
        self._send_timeout = send_timeout
        self._sending = False
        self._sent = 0
        self._waiting: trio.CancelScope | None = None
        self.receive_by = inf

    @property
    def socket(self) -> trio.socket.SocketType:
        """The socket, for its addresses."""
        return self._stream.socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has come in; waits for it until ``receive_by``.

        Raises:
            TimeUpError: It is later than that, and nothing has come in.
            trio.BrokenResourceError: The connection is broken.
            trio.ClosedResourceError: The socket is closed.

        Cancellation:
            Takes nothing.

        Checkpoints:
            Always.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = over = False
        while True:
            try:
                data = self._sock.recv(max_bytes or _RECEIVE)
            except BlockingIOError:
                pass
            except OSError as error:
                raise _stream_error(error) from error
            else:
                if not waited:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return data
            if over:
                raise TimeUpError
            with self._time.scope(self.receive_by) as self._waiting:
                await trio.lowlevel.wait_readable(self._sock)
            waited = True
            over = self._waiting.cancelled_caught and self._time.passed(self.receive_by)

    def stop_waiting(self) -> None:
        """Have ``receive_some`` return what is there, or give up, also if it waits by now."""
        self.receive_by = -inf
        if self._waiting is not None:
            self._waiting.cancel()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of this, while the client takes some of it within every ``send_timeout``.

        Raises:
            TimeUpError: The client took nothing for so long, or has not taken
                enough in ten times as long. Some of it may have been sent.
            trio.BrokenResourceError: The connection is broken.
            trio.ClosedResourceError: The socket is closed.
            trio.BusyResourceError: Another task is sending.

        Cancellation:
            Some of it may have been sent.

        Checkpoints:
            Always.
        """
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this connection")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._sending = True
        try:
            sent = self._send_some(data)
            if sent == len(data):
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                with memoryview(data) as view:
                    await self._send_rest(view, sent)
        finally:
            self._sending = False

    async def _send_rest(self, data: memoryview, sent: int) -> None:
        last = self._time.now() + _TIMES_IN_ALL * self._send_timeout
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
                raise TimeUpError
            if now != before:
                before = now
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
        """Something that changes when the client takes what was sent, or more could be sent.

        The kernel says that there is room when there is much of it. So what it
        still holds is looked at as well, where it tells.
        """
        held = bytes(4)
        with suppress(OSError, ValueError):  # the latter if the socket is closed
            held = ioctl(self._sock, TIOCOUTQ, held)
        return self._sent, struct.unpack("i", held)[0]

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the client has made room."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Tell the client that nothing more will come."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the socket."""
        await self._stream.aclose()

    def close(self) -> None:
        """Close the socket without a checkpoint. A task that waits for it gets an error."""
        self._stream.socket.close()


def _stream_error(error: OSError) -> Exception:
    if error.errno == errno.EBADF:
        return trio.ClosedResourceError("this socket is closed")
    return trio.BrokenResourceError(f"the connection is broken: {error}")
