"""Tells the service manager (systemd, or another with its protocol) of the start and the stop.

See sd_notify(3): a datagram of assignments to the Unix socket that ``NOTIFY_SOCKET`` names.
"""

import logging
import os
import socket
from collections.abc import MutableMapping
from typing import Self

log = logging.getLogger(__name__)

_VARIABLE = "NOTIFY_SOCKET"


class ServiceManager:
    """The service manager, if there is one. A message is sent at once, or not at all.

    Args:
        address: Of its socket; an abstract one begins with ``@``. None: no messages are sent.
    """

    def __init__(self, address: str | None = None) -> None:
        self._address = address

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Self:
        """Take its address out of the environment, so that no child sends messages."""
        return cls(environment.pop(_VARIABLE, None))

    def tell_ready(self) -> None:
        """Say that the server accepts connections."""
        self._tell("READY=1\nSTATUS=ready")

    def tell_stopping(self, *, seconds: float) -> None:
        """Say that the stop has begun, and ends within ``seconds``."""
        self._tell(f"STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def _tell(self, text: str) -> None:
        if self._address is None:
            return
        address = os.fsencode(self._address)
        if address.startswith(b"@"):
            address = b"\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(text.encode(), address)
        except OSError as error:
            self._address = None  # it would fail again; one line is enough
            log.warning("service_manager_not_told", extra={"reason": str(error)})
