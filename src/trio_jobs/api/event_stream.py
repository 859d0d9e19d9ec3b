"""`EventStream`: one client's answer to ``GET /events``, which ends when the pool has ended."""

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from trio_jobs.api.body_stream import cancel_on_disconnect
from trio_jobs.api.feed import GAP, Feed, FeedError, Turn, Wanted
from trio_jobs.api.quart_adapter import LiveResponse, Message, current_request

# Seconds without anything else after which a comment shows that the connection lives: sooner than
# proxies and firewalls give up a silent connection.
HEARTBEAT = 15.0
# Milliseconds until a browser connects again by itself.
_RETRY = b"retry: 2000\n"
_RESET = b"event: reset\ndata: {}\n\n"
_BYE = b'event: bye\ndata: {"reason":"%s"}\n\n'


class EventStream(LiveResponse):
    """Sends a client what it wants to see, and keeps no more of it than a position.

    A client that reads slowly gets fewer snapshots, and the number of the jobs that it has missed.
    Nothing queues up for it.

    Args:
        feed: What all streams send.
        wanted: What this client wants to see.
        last_event_id: The client's ``Last-Event-ID``; empty without one.
        wait_lost: Waits until the client has lost its access; None if it cannot lose it.
    """

    def __init__(
        self,
        feed: Feed,
        wanted: Wanted,
        last_event_id: str,
        wait_lost: Callable[[], Awaitable[None]] | None,
    ) -> None:
        super().__init__("text/event-stream; charset=utf-8")
        self._feed = feed
        self._wanted = wanted
        self._position = feed.source.last
        self._reset = b""
        if last_event_id:
            position = feed.position_of(last_event_id)
            if position is None:
                self._reset = _RESET
            else:
                self._position = position
        # After the route, `current_request` is another one, or none.
        self._wait_disconnected = current_request().wait_disconnected
        self._send_message: Callable[[Message], Awaitable[None]]
        self._wait_lost = wait_lost
        self._lost = False
        self._sent_at = 0.0
        self._waiting = trio.CancelScope()

    async def answer(self, start: Message, send: Callable[[Message], Awaitable[None]]) -> None:
        """Send events until the client disconnects, or there is nothing more to send to it.

        There is nothing more once the pool has ended, the client has lost its access, or no
        snapshot can be made.

        Raises:
            Problem: The client sends a body that breaks a limit of the server.

        Cancellation:
            The answer stays truncated; nothing else notices.
        """
        self._feed.streams += 1
        self._send_message = send
        try:
            await send(start)
            async with cancel_on_disconnect(self._watch):
                with suppress(FeedError):  # the log has it
                    await self._send_events()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._feed.streams -= 1

    async def _watch(self) -> None:
        """Wait until the client disconnects; end the stream sooner if it loses its access."""
        if (wait_lost := self._wait_lost) is None:
            await self._wait_disconnected()
            return
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def note_lost() -> None:
                await wait_lost()
                self._lost = True
                # Not the sending: half an event would be the end of the connection.
                self._waiting.cancel()

            await self._wait_disconnected()
            nursery.cancel_scope.cancel()

    async def _send_events(self) -> None:
        feed, wanted = self._feed, self._wanted
        summary = 0
        expires = math.inf
        # The id lets a client resume whose connection ends before the first event.
        await self._send(self._reset + _RETRY + feed.event_id(self._position) + b"\n")
        while not self._lost:
            turn = feed.turn()
            unsent = b""
            while self._position < turn.last and not self._lost:
                self._position, event = feed.ended(turn, wanted, self._position)
                unsent += event
                if unsent and not wanted.state:
                    await self._send(unsent)
                    unsent = b""
            if wanted.state:
                snapshot = feed.snapshot(turn, withheld=wanted.withheld)
                event = snapshot.brief if snapshot.summary == summary else snapshot.whole
                unsent += feed.event_id(self._position) + event
                summary, expires = snapshot.summary, snapshot.expires
            if turn.final:
                await self._send(unsent + _BYE % b"stopped")
                return
            if unsent:
                await self._send(unsent)
            await self._wait_next(turn, expires)
        await self._send(_BYE % b"access_lost")

    async def _wait_next(self, turn: Turn, expires: float) -> None:
        """Wait until there may be something new to send; send a comment now and then."""
        while not self._lost:
            beat = self._sent_at + HEARTBEAT
            with trio.CancelScope(deadline=min(expires, beat)) as self._waiting:
                await turn.changed.wait()
                self._waiting.deadline = turn.began + GAP  # a rate limit
                await self._feed.source.over.wait()
            if turn.changed.is_set() or expires <= beat:
                return
            # With the id: jobs that the client does not want to see may have ended.
            await self._send(b":\n" + self._feed.event_id(self._position) + b"\n")

    async def _send(self, piece: bytes) -> None:
        message = {"type": "http.response.body", "body": piece, "more_body": True}
        await self._send_message(message)
        self._sent_at = trio.current_time()
