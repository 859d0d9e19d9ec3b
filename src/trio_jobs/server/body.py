"""A request's body: read in one go if it is short, counted as it arrives, and bounded in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11
import trio

from trio_jobs.server.problems import RefusedError
from trio_jobs.server.transport import TimeUpError

if TYPE_CHECKING:
    from trio_jobs.server.connection import ClientConnection
    from trio_jobs.server.limits import Limits

# Bodies up to this length are read before the application is called.
_SHORT = 65_536
# A body cut into tiny chunks takes long to parse; others get their turn after so many.
_EVENTS_PER_TURN = 128


class Body:
    """The body of one request, in ``scope["extensions"]["trio_jobs.body"]``.

    An application needs none of this: ``receive`` works as ASGI says. It may

    - take ``whole`` instead of calling ``receive``, and so save the work;
    - ``lift`` the limits, before its first ``receive``, and change the time later;
    - catch ``body.RefusedError`` around ``receive`` (named here so that the
      application need not import this package) to answer in its own words.

    Attributes:
        whole: The complete body (``b""`` if there is none), or None while it
            is still coming in and has to be read with ``receive``.
    """

    RefusedError = RefusedError

    __slots__ = (
        "_connection",
        "_count",
        "_deadline",
        "_http",
        "_idle_timeout",
        "_length",
        "_limits",
        "_parts",
        "_refused",
        "whole",
    )

    def __init__(self, connection: ClientConnection, limits: Limits, length: int | None) -> None:
        self._connection = connection
        self._http = connection.http
        self._limits = limits
        self._length = length  # as declared; None for a body in chunks
        self._count = 0
        self._parts: list[bytes] = []
        self._deadline: float | None = None
        self._idle_timeout: float | None = None
        self._refused: RefusedError | None = None
        self.whole: bytes | None = None

    def lift(self, *, idle_timeout: float) -> None:
        """Take a body of any length, for as long as the client keeps sending.

        May be called again, with another time for what is then received.

        Each message from ``receive`` holds what one read from the socket gave
        (at most 64 KiB, the first one twice that), so the application decides
        how much of the body is in memory, and TCP makes the client wait while
        it does not call ``receive``.

        Args:
            idle_timeout: Seconds that a ``receive`` waits for the client
                before it raises ``RefusedError`` with the status 408. Time
                between two calls does not count.
        """
        self._idle_timeout = idle_timeout

    async def read_short(self) -> None:
        """Read a short body to its end, and of any other what has already come in.

        Raises:
            RefusedError: The bytes are not valid HTTP (400), or did not arrive
                in time (408).
            ClientDisconnectedError: The client left before the end.

        Checkpoints:
            Only if it has to wait for the client.
        """
        length, longest = self._length, self._limits.max_body_bytes
        if length is None:
            ended = await self._parse()
        elif length <= min(_SHORT, longest):
            while not (ended := await self._parse()):
                await self._fill(self._next_deadline())
        else:
            return
        if ended and self._count <= longest:
            self.whole = b"".join(self._parts)

    async def read(self) -> tuple[bytes, bool]:
        """The next bytes of a body that is not ``whole``, and whether more will come.

        Raises:
            RefusedError: A limit is broken (413, 408), or the bytes are not
                valid HTTP (400). Every later call raises it again.
            ClientDisconnectedError: The client left before the end.
        """
        if self._refused is not None:
            raise self._refused
        try:
            return await self._read()
        except RefusedError as error:
            self._refused = error
            raise

    async def _read(self) -> tuple[bytes, bool]:
        self._check_length(self._length or 0)
        deadline = self._next_deadline()
        while True:
            ended = await self._parse()
            self._check_length(self._count)
            if ended or self._parts:
                break
            await self._fill(deadline)
        part = b"".join(self._parts)
        self._parts.clear()
        return part, not ended

    def _next_deadline(self) -> float:
        now = self._connection.time.now()
        if self._idle_timeout is not None:
            return now + self._idle_timeout
        if self._deadline is None:
            self._deadline = now + self._limits.body_timeout
        return self._deadline

    def _check_length(self, length: int) -> None:
        longest = self._limits.max_body_bytes
        if self._idle_timeout is None and length > longest:
            raise RefusedError(413, f"the body must be at most {longest} bytes long")

    async def _parse(self) -> bool:
        """Take apart what has come in; True at the body's end. Waits for nobody."""
        if self._http.request_complete:
            return True
        events = 0
        while type(event := self._http.next_event()) is h11.Data:
            self._parts.append(event.data)
            self._count += len(event.data)
            events += 1
            if events % _EVENTS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
        return type(event) is h11.EndOfMessage

    async def _fill(self, deadline: float) -> None:
        if self._http.connection.they_are_waiting_for_100_continue:
            await self._http.send_continue()
        try:
            self._http.feed(await self._connection.receive_some(deadline))
        except TimeUpError:
            if self._idle_timeout is None:
                late = "the body did not arrive in time"
            else:
                late = f"nothing was received for {self._idle_timeout:g} s"
            raise RefusedError(408, late) from None
