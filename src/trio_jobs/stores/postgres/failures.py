"""What an error of the database means for what comes next."""

from typing import Final

import psycopg
import trio

from trio_jobs.stores.postgres.trio_connection import LOST, TrioConnection

READ_ONLY: Final = "25006"

# The database cannot write now: it is read-only, has no room, has no memory, or its disk fails.
_REFUSALS: Final = frozenset({READ_ONLY, "53000", "53100", "53200", "58000", "58030"})

# Somebody else was in the way, or has ended the statement.
_PASSING: Final = frozenset({"40001", "40P01", "55P03", "57014"})


def refuses(error: psycopg.Error) -> bool:
    """Whether the database cannot write now; a later attempt may succeed."""
    return error.sqlstate in _REFUSALS


def is_passing(error: psycopg.Error) -> bool:
    """Whether the same may succeed soon."""
    return error.sqlstate in _PASSING


def ends_connection(error: psycopg.Error, connection: TrioConnection) -> bool:
    """Whether to go on with a new connection: the statement may succeed there."""
    is_lost = connection.closed or (isinstance(error, LOST) and error.sqlstate is None)
    return is_lost or refuses(error) or is_passing(error)


def one_line(error: Exception) -> str:
    """The error's text, without what the database adds of the statement that it executed."""
    if isinstance(error, trio.TooSlowError):  # which has no text
        return "the database has not answered in time"
    text = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return " ".join((text or str(error)).split()) or type(error).__name__
