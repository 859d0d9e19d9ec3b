"""Follows a server's events, over its restarts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from trio_jobs.commands.complaints import complain
from trio_jobs.commands.second_tries import Patience
from trio_jobs.commands.server_calls import Calls, GoneError, RefusedError

# Seconds: a server sends something every 15.
_SILENCE: Final = 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event.

    Attributes:
        name: What it is.
        data: Its JSON.
        id: The last id so far; empty without one.
    """

    name: str
    data: bytes
    id: str


def follow(
    calls: Calls,
    parameters: Sequence[tuple[str, str]],
    *,
    tell: Callable[[str], object] = complain,
) -> Iterator[Event]:
    """The events of ``GET /events``, from now on.

    If the answer ends or the server goes away, it comes back, and goes on after the last event.

    Args:
        calls: The server.
        parameters: What the client wants to see.
        tell: Called with a line when the server is lost, at the first failure.

    Raises:
        CommandError: The server stays away, or refuses the request.
    """
    patience = Patience(tell)
    last = ""
    while True:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        try:
            with calls.stream(
                "/events", parameters=parameters, headers=headers, silence=_SILENCE
            ) as answer:
                for event in read_events(answer.iter_bytes()):
                    patience.note_progress()
                    last = event.id or last
                    if event.name:
                        yield event
            raise calls.ended()
        except (GoneError, RefusedError) as error:
            if not error.passes:
                raise
            patience.pause(error)


def read_events(pieces: Iterable[bytes]) -> Iterator[Event]:
    """The events in a body; one without a name has an id alone."""
    name, data, last = "", b"", ""
    for line in _lines(pieces):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if name or last:
                yield Event(name=name, data=data, id=last)
            name, data = "", b""
        elif field == b"event":
            name = value.decode(errors="replace")
        elif field == b"data":
            data = value  # the server writes each in one line
        elif field == b"id":
            last = value.decode(errors="replace")


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    # Not `str.splitlines`: JSON strings may have what that takes for a line's end.
    rest: list[bytes] = []
    for piece in pieces:
        *lines, last = piece.split(b"\n")
        for line in lines:
            yield (b"".join([*rest, line])).removesuffix(b"\r")
            rest.clear()
        rest.append(last)
