"""The same jobs for trio-jobs."""

from typing import cast

from bench.peers import tally


async def empty(_: object) -> None:
    """Count it."""
    tally.count()


async def stamp(payload: object) -> None:
    """Note how long it took to get here."""
    tally.arrived(cast("float", payload))


HANDLERS = f'[handlers]\nempty = "{__name__}:empty"\nstamp = "{__name__}:stamp"\n'
EMPTY = b'{"type": "empty"}'
EMPTY_LINE = EMPTY + b"\n"


def stamped(sent: float) -> bytes:
    """The submission of a stamped job."""
    return b'{"type": "stamp", "payload": %r}' % sent
