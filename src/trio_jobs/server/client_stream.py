"""The bytes between the server and one client, over TCP, a Unix socket or TLS."""

from __future__ import annotations

import logging
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

import trio
from hypercorn.utils import parse_socket_addr

from trio_jobs.server.transport import TimeUpError, Transport

if TYPE_CHECKING:
    from trio_jobs.server.client_time import ClientTime

log = logging.getLogger("trio_jobs.server.connection")

Stream = Transport | trio.SSLStream[Transport]
# The errors of a stream whose connection has ended.
STREAM_ERRORS = (trio.BrokenResourceError, trio.ClosedResourceError)

# One read takes at most so many bytes.
_RECEIVE = 65_536
# An answer is sent in pieces of so many bytes. Each has the whole time of one ``send_all``.
_PIECE = 262_144


class ClientDisconnectedError(OSError):
    """The client has closed its connection, or it is broken. No answer can be sent any more."""


class ClientStream:
    """A stream with what the server knows of its client.

    Attributes:
        transport: The stream below TLS, or the stream itself.
        tls: Whether the stream is encrypted.
        time: The clock of the deadlines.
        client: The client's address; None over a Unix socket.
        server: The address that the client has connected to; None over a Unix socket.
        client_name: The client's address in log lines.
        answering: The cancel scope around all requests. ``abort`` cancels it, and so does ``send``
            if the client is too slow; no deadline does.
        eof: The client has closed its sending side, or the whole connection.
        truncated: Part of an answer may be missing: no byte may follow it.
    """

    def __init__(self, stream: Stream, time: ClientTime) -> None:
        self._stream = stream
        self.transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        self.tls = isinstance(stream, trio.SSLStream)
        self.time = time
        self.client: tuple[str, int] | None = None
        self.server: tuple[str, int] | None = None
        self.client_name = "?"
        self.answering = trio.CancelScope()
        self.eof = False
        self.truncated = False

    async def open(self, deadline: float) -> bool:
        """Do TLS's handshake, find the addresses; False if the client disconnects or is late."""
        if isinstance(self._stream, trio.SSLStream):
            self.transport.receive_by = deadline
            try:
                await self._stream.do_handshake()
            except TimeUpError:
                return False
        socket = self.transport.socket
        try:
            self.client = parse_socket_addr(socket.family, socket.getpeername())
            self.server = parse_socket_addr(socket.family, socket.getsockname())
        except OSError:
            return False  # the client has disconnected
        self.client_name = "unix" if self.client is None else "{}:{}".format(*self.client)
        return True

    async def receive_some(self, deadline: float = inf, *, wait: bool = False) -> bytes:
        """Read from the client; ``b""`` once it has closed its sending side.

        Args:
            deadline: When to give up, by ``time``.
            wait: Whether to wait for bytes at once: the caller has made a checkpoint, and has seen
                that none are there.

        Raises:
            ClientDisconnectedError: The connection is broken.
            TimeUpError: The deadline has passed and no byte has arrived.
        """
        self.transport.receive_by = deadline
        try:
            if wait and not self.tls:
                data = await self.transport.wait_and_receive()
            else:
                data = bytes(await self._stream.receive_some(_RECEIVE))
        except STREAM_ERRORS as error:
            raise ClientDisconnectedError("the connection is broken") from error
        self.eof = self.eof or not data
        return data

    async def receive_up_to(self, length: int, data: bytes, deadline: float) -> bytes:
        """Read more than ``data`` until so many bytes are there, or a few more.

        Fewer are there if the client has closed its sending side or the deadline has passed.

        Raises:
            ClientDisconnectedError: The connection is broken.
        """
        arrived = bytearray(data)
        with suppress(TimeUpError):
            while len(arrived) < length and (more := await self.receive_some(deadline)):
                arrived += more
        return bytes(arrived)

    async def send(self, data: bytes, *, last: bool = False) -> None:
        """Send part of an answer. If this is cancelled, the answer stays truncated.

        It is a checkpoint, unless the kernel takes the ``last`` part at once.

        A client that takes no byte within ``send_timeout``, or needs more than ten times as long
        for 256 KiB, is too slow: ``answering`` is cancelled, which ends the connection. In a pipe,
        ``Pause`` decides.

        Raises:
            ClientDisconnectedError: The connection is broken, or (in a shield) the client too slow.
        """
        self.truncated = True
        try:
            if last and not self.tls:
                await trio.lowlevel.checkpoint_if_cancelled()
                data = data[self.transport.send_nowait(data) :]
            for start in range(0, len(data), _PIECE):
                await self._stream.send_all(data[start : start + _PIECE])
            self.truncated = False
        except TimeUpError as late:
            log.info("client_too_slow", extra={"client": self.client_name, "reason": str(late)})
        except STREAM_ERRORS as error:
            raise ClientDisconnectedError("the connection is broken") from error
        if self.truncated:
            self.answering.cancel()
            await trio.lowlevel.checkpoint_if_cancelled()
            raise ClientDisconnectedError("the client is too slow")  # only in a shield
