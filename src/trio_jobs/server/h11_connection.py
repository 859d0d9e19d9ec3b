"""HTTP/1.1 over one client's stream: h11's state.

The task that needs the next part of a request reads it here. So a request needs no second task, no
queue and no lock. While no task reads, TCP makes the client wait.
"""

from __future__ import annotations

from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

import h11

from trio_jobs.problem_details import PHRASES
from trio_jobs.server.client_stream import ClientDisconnectedError, ClientStream, Stream
from trio_jobs.server.date_header import date_header
from trio_jobs.server.pause import Pause
from trio_jobs.server.request_head import HeaderList, MalformedRequestError, malformed_request

if TYPE_CHECKING:
    from trio_jobs.server.server_context import ServerContext

_CLOSE = (b"connection", b"close")


class H11Connection(ClientStream):
    """The protocol state of one connection.

    Attributes:
        requests: How many requests have begun.
        body_deadline: When the present request's body must have arrived, by ``time``; None until
            the first wait for it.
        head_only: The answer to the present request has no body.
        closing: The present answer is the connection's last, and says so.
    """

    def __init__(self, context: ServerContext, stream: Stream) -> None:
        super().__init__(stream, context.client_time)
        self._context = context
        self._settings = context.settings
        self._h11 = h11.Connection(
            h11.SERVER, max_incomplete_event_size=context.settings.max_header_bytes
        )
        self.requests = 0
        self.body_deadline: float | None = None
        self.head_only = False
        self.closing = False

    @property
    def request_complete(self) -> bool:
        """Whether all of the present request has been read."""
        return self._h11.their_state not in {h11.SEND_BODY, h11.ERROR}

    @property
    def can_refuse(self) -> bool:
        """Whether no answer to the present request has begun."""
        return not self.truncated and self._h11.our_state in {h11.IDLE, h11.SEND_RESPONSE}

    @property
    def awaits_continue(self) -> bool:
        """Whether the client waits for ``100 Continue`` before it sends the body."""
        return self._h11.they_are_waiting_for_100_continue

    def ahead(self) -> int:
        """How many bytes have arrived that belong to no event yet."""
        return len(self._h11.trailing_data[0])

    async def feed(self, deadline: float = inf) -> None:
        """Read from the client, for ``next_event``. Raises as ``receive_some`` does."""
        self.take(await self.receive_some(deadline))

    def take(self, data: bytes) -> None:
        """Give ``next_event`` what ``receive_some`` has returned."""
        self._h11.receive_data(data)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        """The next part of the request, or that more bytes are needed for it.

        Raises:
            MalformedRequestError: The bytes are not valid HTTP.
            ClientDisconnectedError: The client disconnected in the middle of the request.
        """
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as error:
            if self.eof:
                raise ClientDisconnectedError("the client disconnected within a request") from None
            raise malformed_request(error, max_bytes=self._settings.max_header_bytes) from None

    def skip_body(self) -> None:
        """Drop the arrived part of a body that no task reads."""
        with suppress(MalformedRequestError, ClientDisconnectedError):
            while type(self.next_event()) is h11.Data:
                pass

    def open_pipe(self) -> None:
        """Let the present request's body and answer flow at the same time.

        While the client sends, the answer's head does not say ``Connection: close``: some clients
        then send no more. Until the answer's end, the client may read nothing for
        ``pipe_pause_timeout``.
        """
        transport, seconds = self.transport, self._settings.pipe_pause_timeout
        transport.pause = Pause(transport.socket, transport.progress, seconds)

    async def send_continue_if_expected(self) -> None:
        """Tell a client that sent ``Expect: 100-continue`` to send the body."""
        if self.awaits_continue:
            await self.send_continue()

    async def send_continue(self) -> None:
        """Send an interim answer."""
        await self.send(self.encode(h11.InformationalResponse(status_code=100, headers=[])))

    def encode(self, event: h11.Event) -> bytes:
        """The bytes of an event to send."""
        return self._h11.send(event) or b""

    def answer_head(self, status: int, headers: HeaderList) -> bytes:
        """The bytes of an answer's head, with the headers that ``complete_headers`` adds."""
        self.complete_headers(headers)
        reason = PHRASES.get(status, "").encode("ascii")
        return self.encode(h11.Response(status_code=status, headers=headers, reason=reason))

    def complete_headers(self, headers: HeaderList) -> None:
        """Add ``Date``, and ``Connection: close`` to the connection's last answer.

        An answer to a client that is still sending is the last, since no task will read the rest.
        In a pipe it is not: see ``open_pipe``.
        """
        headers.append(date_header())
        last = self._is_last() if self.request_complete else self.transport.pause is None
        self.closing = b"connection" in {name.lower() for name, _ in headers}
        if last and not self.closing:
            headers.append(_CLOSE)
            self.closing = True

    def complete_canonical_headers(self, headers: HeaderList) -> None:
        """``complete_headers`` after a request that h11 has not parsed, and that has been read."""
        headers.append(date_header())
        self.closing = _CLOSE in headers
        if not self.closing and self._is_last():
            headers.append(_CLOSE)
            self.closing = True

    def _is_last(self) -> bool:
        """Whether the answer to a request that has been read is the connection's last."""
        most = self._settings.max_requests_per_connection
        return self.requests >= most or self._context.stopping

    def next_request(self) -> bool:
        """Get ready for the next request; False if this connection has had its last.

        During the stop there may be one more: an answer that began before the stop did not say
        ``Connection: close``, so the client may send another request.
        """
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self.head_only = False
            if self.transport.pause is not None:
                self.transport.pause.end()
                self.transport.pause = None
            return True
        return False
