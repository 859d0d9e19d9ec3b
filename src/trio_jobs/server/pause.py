"""`Pause`: how long the client of a pipe may read nothing of its answer."""

from __future__ import annotations

import socket
import struct
from fcntl import ioctl
from termios import FIONREAD
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

# A client's kernel takes so many bytes at most for a process that never reads (Linux: 128 KiB, the
# middle value of net.ipv4.tcp_rmem). From then on, the client has read, or has read large answers
# before on this connection: then its kernel takes more, and the whole time applies to it.
_NEVER_READ = 262_144


class Pause:
    """Made for one request whose body and answer flow at the same time.

    A client may stop reading, for example while its own reader is slow. The kernel would count
    that time towards ``TCP_USER_TIMEOUT``, so this sets the option for the socket.

    Many HTTP clients read no answer until they have sent the body. One of these never reads: the
    server stops reading when it can send no more. Such a client must not hold its connection for
    the whole time.

    Args:
        sock: The client's.
        progress: Returns how many bytes were sent, and how many of them the kernel still holds.
        seconds: How long the client may take no byte.

    Attributes:
        seconds: The same.
    """

    def __init__(
        self,
        sock: trio.socket.SocketType,
        progress: Callable[[], tuple[int, int]],
        seconds: float,
    ) -> None:
        self.seconds = seconds
        self._socket = sock
        self._progress = progress
        self._taken_before = self._taken()
        self._usual: int | None = None
        if self._socket.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):
            self._usual = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            self._set_user_timeout(max(1, int(seconds * 1000)))

    def client_only_sends(self) -> bool:
        """Whether the client is sending, and has read nothing so far."""
        if self._taken() - self._taken_before >= _NEVER_READ:
            return False
        unread: int = struct.unpack("i", ioctl(self._socket.fileno(), FIONREAD, bytes(4)))[0]
        return unread > 0

    def end(self) -> None:
        """Give the socket its usual option again, for the next request."""
        if self._usual is not None:
            self._set_user_timeout(self._usual)

    def _taken(self) -> int:
        sent, held = self._progress()
        return sent - held

    def _set_user_timeout(self, milliseconds: int) -> None:
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
