"""What an error of SQLite says about a commit: a later one may succeed, or a record is wrong."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from trio_jobs.pool.store import DuplicateJobError

# Errors after which the file is as it was, and a later attempt may succeed.
_PASSING: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
# After a sync that failed, a later one that succeeds says nothing: the system may have dropped
# what it could not write.
_NEVER_PASSING: Final = frozenset(
    {
        sqlite3.SQLITE_IOERR_CORRUPTFS,
        sqlite3.SQLITE_IOERR_DATA,
        sqlite3.SQLITE_IOERR_DIR_FSYNC,
        sqlite3.SQLITE_IOERR_FSYNC,
    }
)
# What is wrong with one record, and not with the disk.
_UNACCEPTABLE: Final = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG})


def is_unacceptable(error: sqlite3.Error) -> bool:
    """Whether one of the records is wrong, and not the disk."""
    return _kind(error) in _UNACCEPTABLE


def refusal_of(error: sqlite3.Error) -> Exception:
    """What a submission that is unacceptable is refused with."""
    if isinstance(error, sqlite3.IntegrityError):
        return DuplicateJobError(f"the store has the job, or its key, already: {error}")
    return error


def passes(error: sqlite3.Error) -> bool:
    """Whether the file is as it was, and a later attempt may succeed."""
    return _kind(error) in _PASSING and error.sqlite_errorcode not in _NEVER_PASSING


@contextmanager
def until_it_passes() -> Iterator[None]:
    """A block that ends without an error if SQLite raises one after which a later attempt helps."""
    try:
        yield
    except sqlite3.Error as error:
        if not passes(error):
            raise


def _kind(error: sqlite3.Error) -> int | None:
    """The error's code without its details; None for an error that is not SQLite's."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
