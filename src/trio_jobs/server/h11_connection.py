"""HTTP/1.1 on one connection: Hypercorn's ``H11Protocol``, read by whoever needs the next bytes.

Hypercorn pushes: a task reads and hands every event on, to an application in another task. Here
the one task that needs an event asks for it. That makes a request without a second task, a queue
or a lock, and backpressure and the limits follow from who asks. Hypercorn's code for HTTP/2, h2c
and websockets stands in the methods that push, and is not reachable.
"""

import re
from contextlib import suppress
from typing import TYPE_CHECKING

import h11
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import ConnectionState

from trio_jobs.problem_details import PHRASES
from trio_jobs.server.problems import RefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypercorn.events import Event

    from trio_jobs.server.server_context import ServerContext

_PHRASES = {status: phrase.encode("ascii") for status, phrase in PHRASES.items()}

HeaderList = list[tuple[bytes, bytes]]

# Where h11 quotes the client in what it says of bad bytes. That goes neither into the log nor into
# the answer: with one blank too many, the header that it quotes holds the token.
_QUOTED = re.compile(r""":? (bytearray\()?b?['"].*""", re.DOTALL)


class ClientDisconnectedError(OSError):
    """The client has closed its connection, or it broke. Nothing can be answered any more."""


class Protocol(H11Protocol):
    """One connection's state: which part of which request comes next, and of which answer."""

    connection: h11.Connection

    def __init__(
        self,
        shared: "ServerContext",
        *,
        tls: bool,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
        send: "Callable[[Event], Awaitable[None]]",
    ) -> None:
        super().__init__(
            shared.wrapper,
            shared.config,
            shared.context,
            TaskGroup(),  # never opened: applications run in their connection's own task
            ConnectionState(shared.state),
            tls,
            client,
            server,
            send,
        )
        self._shared = shared
        self._eof = False
        self.head_only = False  # the present request's answer has no body

    @property
    def eof(self) -> bool:
        """The client has closed its side; that, or the whole connection."""
        return self._eof

    @property
    def request_complete(self) -> bool:
        """Nothing of the request is still to come."""
        return self.connection.their_state not in {h11.SEND_BODY, h11.ERROR}

    def feed(self, data: bytes) -> None:
        """Take what came from the client; no bytes at all mean that it sends no more."""
        self._eof = self._eof or not data
        self.connection.receive_data(data)

    def ahead(self) -> int:
        """How many bytes have come in that belong to no event yet."""
        return len(self.connection.trailing_data[0])

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next part of the request, or that more bytes are needed for it.

        Raises:
            RefusedError: The bytes are not valid HTTP.
            ClientDisconnectedError: The client stopped in the middle.
        """
        try:
            return self.connection.next_event()
        except h11.RemoteProtocolError as error:
            if self._eof:
                raise ClientDisconnectedError(
                    "the client left in the middle of a request"
                ) from None
            if error.error_status_hint == 431:
                raise self._head_too_long() from None
            detail = _QUOTED.sub("", str(error))
            raise RefusedError(error.error_status_hint, detail, malformed=True) from None

    def check_head_length(self, target: bytes, headers: HeaderList) -> None:
        """Refuse a head that came in one read and so has escaped h11's limit.

        Raises:
            RefusedError: With 431.
        """
        length = len(target)
        for name, value in headers:
            length += len(name) + len(value) + 4
        if length > self.config.h11_max_incomplete_size:
            raise self._head_too_long()

    def _head_too_long(self) -> RefusedError:
        limit = self.config.h11_max_incomplete_size
        detail = f"request line and headers must be at most {limit} bytes long"
        return RefusedError(431, detail, malformed=True)

    def head_of_answer(self, status: int, headers: HeaderList) -> bytes:
        """The head of an answer, as bytes.

        ``Connection: close`` is added when this answer is the connection's
        last: what the client is still sending will not be read.
        """
        headers.append(self._shared.date.header())
        last = (
            self.keep_alive_requests >= self._shared.limits.max_requests_per_connection
            or self._shared.stopping
            or not self.request_complete
        )
        if last and not any(name.lower() == b"connection" for name, _ in headers):
            headers.append((b"connection", b"close"))
        return self.connection.send(
            h11.Response(status_code=status, headers=headers, reason=_PHRASES.get(status, b""))
        )

    def skip_body(self) -> None:
        """Throw away what has come in of a body that nobody wants."""
        with suppress(RefusedError, ClientDisconnectedError):
            while type(self.next_event()) is h11.Data:
                pass

    async def send_continue(self) -> None:
        """Tell a client that sent ``Expect: 100-continue`` to go ahead with the body."""
        await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))

    def next_request(self) -> bool:
        """Get ready for another request; False if this connection has had its last.

        At the stop one more may be there: the client has been promised it, by an answer that began
        before and did not say ``Connection: close``.
        """
        if self.connection.our_state is h11.DONE and self.connection.their_state is h11.DONE:
            self.connection.start_next_cycle()
            self.head_only = False
            return True
        return False
