"""A request's body: bounded in length and time, and read at once if it is short."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11
import trio

from trio_jobs.problem_details import Problem
from trio_jobs.server.client_probe import ClientProbe
from trio_jobs.server.request_head import SHORT_BODY
from trio_jobs.server.transport import TimeUpError

if TYPE_CHECKING:
    from trio_jobs.server.h11_connection import H11Connection
    from trio_jobs.settings import HttpSettings

# A body in tiny chunks takes long to parse: after this many chunks other tasks get their turn.
_EVENTS_PER_TURN = 128


class RequestBody:
    """The body of one request, in ``scope["extensions"]["trio_jobs.body"]``.

    An application need not use it: ``receive`` works as ASGI says.

    Attributes:
        complete: All of the body (``b""`` without one), if the server has read
            it; None if the application has to read it by ``receive``.
    """

    def __init__(self, http: H11Connection, settings: HttpSettings, length: int | None) -> None:
        self._http = http
        self._settings = settings
        self._length = length  # as declared; None for a body in chunks
        self._count = 0
        self._parts: list[bytes] = []
        self._idle_timeout: float | None = None
        self._may_probe = http.awaits_continue
        self._probe: ClientProbe | None = None
        self.complete: bytes | None = None

    def lift(self, *, idle_timeout: float) -> None:
        """Lift the limits of length and total time, so that the body may be a stream.

        From then on each ``receive`` gives the bytes of one read from the
        socket (at most 64 KiB, the first time twice that). While the
        application does not call ``receive``, TCP makes the client wait.

        Args:
            idle_timeout: Seconds that one ``receive`` waits for the client
                before it raises Problem 408. A later call sets another time.
        """
        self._idle_timeout = idle_timeout

    async def open_pipe(self, *, idle_timeout: float) -> None:
        """Lift the limits, and let the answer begin while the body still arrives.

        From now on one task may call ``receive`` while another calls ``send``. A client that waits
        for ``100 Continue`` gets it here: after the answer's head it would wait in vain. Until the
        answer's end, the client may read nothing for ``http.pipe_pause_timeout`` in place of
        ``http.send_timeout``, unless it sends and has read nothing at all.

        Args:
            idle_timeout: As for ``lift``.

        Raises:
            ClientDisconnectedError: The client has disconnected.

        Checkpoints:
            Only for a client that waits for ``100 Continue``.
        """
        self.lift(idle_timeout=idle_timeout)
        self._may_probe = False  # no interim answer may follow the answer's head
        self._http.open_pipe()
        await self._http.send_continue_if_expected()

    async def wait_gone(self) -> None:
        """Return when the client is known to be gone, without reading any of the body.

        Only writing finds out, so a client that said ``Expect: 100-continue`` gets a few further
        interim answers during this call. With other clients this waits until it is cancelled.

        Cancellation:
            A later call waits on.
        """
        if not self._may_probe:
            await trio.sleep_forever()
        if self._probe is None:
            self._probe = ClientProbe(self._http)
        await self._probe.wait_gone()

    async def read_short(self) -> None:
        """Read a short body to its end, and the arrived part of a body in chunks.

        Raises:
            Problem: The bytes are not valid HTTP (400), or arrive too late (408).
            ClientDisconnectedError: The client disconnected before the end.

        Checkpoints:
            Only while it waits for the client.
        """
        length, longest = self._length, self._settings.max_body_bytes
        if length is None:
            ended = await self._parse()
        elif length <= min(SHORT_BODY, longest):
            while not (ended := await self._parse()):
                await self._feed(self._next_deadline())
        else:
            return
        if ended and self._count <= longest:
            self.complete = b"".join(self._parts)

    async def read(self) -> tuple[bytes, bool]:
        """The next bytes of a body that is not ``complete``, and whether more will come.

        Raises:
            Problem: The body breaks a limit (413, 408), or the bytes are not
                valid HTTP (400). A later call raises a Problem again.
            ClientDisconnectedError: The client disconnected before the end.
        """
        self._check_length(self._length or 0)
        deadline = self._next_deadline()
        while True:
            ended = await self._parse()
            self._check_length(self._count)
            if ended or self._parts:
                break
            await self._feed(deadline)
        part = b"".join(self._parts)
        self._parts.clear()
        return part, not ended

    def _next_deadline(self) -> float:
        now = self._http.time.now()
        if self._idle_timeout is not None:
            return now + self._idle_timeout
        if self._http.body_deadline is None:
            self._http.body_deadline = now + self._settings.body_timeout
        return self._http.body_deadline

    def _check_length(self, length: int) -> None:
        longest = self._settings.max_body_bytes
        if self._idle_timeout is None and length > longest:
            detail = f"the body must be at most {longest} bytes long"
            raise Problem(413, detail, headers={"Connection": "close"})

    async def _parse(self) -> bool:
        """Parse the arrived bytes; True at the body's end. Never waits for the client."""
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

    async def _feed(self, deadline: float) -> None:
        await self._http.send_continue_if_expected()
        try:
            await self._http.feed(deadline)
        except TimeUpError:
            if self._idle_timeout is None:
                late = "the body did not arrive in time"
            else:
                late = f"nothing was received for {self._idle_timeout:g} s"
            raise Problem(408, late) from None
