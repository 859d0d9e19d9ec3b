"""`ClientProbe`: finds out that a client is gone whose bytes still arrive.

When a client's process ends, its kernel goes on sending what it has buffered, which can be
megabytes, and tells the end of the connection last. But it answers bytes of the server's by a
reset.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from trio_jobs.server.client_stream import STREAM_ERRORS, ClientDisconnectedError

if TYPE_CHECKING:
    from trio_jobs.server.h11_connection import H11Connection

# Seconds before each further ``100 Continue``. Go's net/http fails a request at the sixth in all.
# The client gets the first one because it asks for it.
_GAPS = (1.0, 2.0, 4.0, 8.0)
# Seconds after which the reset has come, if one comes.
_ROUND_TRIP = 0.5


class ClientProbe:
    """Made for one request with ``Expect: 100-continue``: its client knows interim answers.

    The gaps go on between the calls of ``wait_gone``.
    """

    def __init__(self, http: H11Connection) -> None:
        self._http = http
        self._gaps = deque(_GAPS)
        self._send_at: float | None = http.time.now() + self._gaps.popleft()
        self._look_at: float | None = None

    async def wait_gone(self) -> None:
        """Return when the client is known to be gone. No other task may send meanwhile.

        Cancellation:
            A later call waits on.
        """
        with suppress(ClientDisconnectedError, *STREAM_ERRORS):
            self._look()
            while (moment := self._look_at or self._send_at) is not None:
                await self._wait_until(moment)
                if self._look_at is None:
                    await self._send()
                self._look()
            await trio.sleep_forever()

    async def _wait_until(self, moment: float) -> None:
        time = self._http.time
        while not time.passed(moment):
            with time.scope(moment):
                await trio.sleep_forever()

    async def _send(self) -> None:
        now = self._http.time.now()
        self._look_at = now + _ROUND_TRIP
        self._send_at = now + self._gaps.popleft() if self._gaps else None
        # Half an interim answer would be the end of the connection.
        with trio.CancelScope(shield=True):
            await self._http.send_continue()

    def _look(self) -> None:
        """Raise if a reset has come: it shows without reading the bytes that came before it."""
        self._http.transport.send_nowait(b"")
        if self._look_at is not None and self._http.time.passed(self._look_at):
            self._look_at = None
