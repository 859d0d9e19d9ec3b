"""The database's schema: its version, and the migrations, which only go forward."""

from importlib.resources import files
from typing import Any, Final

import psycopg
from psycopg import errors

from trio_jobs.pool.store import StoreDatabaseError

# The migrations are files of SQL, by number. One that a release has applied never changes.
VERSION: Final = 1

# Two migrations at the same time: the second waits, and finds nothing to do.
_LOCK: Final = "SELECT pg_advisory_xact_lock(8387236824117178739)"
_EXISTS: Final = "SELECT to_regclass('trio_jobs.schema_version') IS NOT NULL"
_VERSION: Final = "SELECT version, compatible_from FROM trio_jobs.schema_version"


async def migrate(connection: psycopg.AsyncConnection[Any]) -> int:
    """Bring a database to this program's version, in one transaction; return the version before.

    A newer database stays as it is.

    Args:
        connection: One in autocommit mode, of a user who may create a schema.

    Raises:
        StoreDatabaseError: The database cannot hold each text.
        psycopg.Error: A step has failed; nothing has changed.
    """
    async with connection.transaction():
        await connection.execute(_LOCK)
        (encoding,) = await _one(connection, "SHOW server_encoding")
        if encoding != "UTF8":
            raise StoreDatabaseError(f"the database's encoding must be UTF8, got {encoding}")
        (exists,) = await _one(connection, _EXISTS)
        before: int = (await _one(connection, _VERSION))[0] if exists else 0
        for number in range(before + 1, VERSION + 1):
            script = files("trio_jobs.stores.postgres") / "migrations" / f"{number:03}.sql"
            await connection.execute(script.read_bytes())
    return before


async def check_schema(connection: psycopg.AsyncConnection[Any]) -> None:
    """Check that this program can use the database as it is.

    Raises:
        StoreDatabaseError: It cannot; the text, one line, says what to do.
        psycopg.Error: The database cannot be asked.
    """
    try:
        (exists,) = await _one(connection, _EXISTS)
        if not exists:
            raise StoreDatabaseError(
                "the database has no tables of trio-jobs; run 'trio-jobs migrate' first"
            )
        version, compatible_from = await _one(connection, _VERSION)
        await connection.execute("SELECT FROM trio_jobs.jobs, trio_jobs.members LIMIT 0")
    except errors.InsufficientPrivilege as error:
        raise StoreDatabaseError(f"the database refuses its user: {_line(error)}") from None
    if version < VERSION:
        raise StoreDatabaseError(
            f"the database has version {version} of the tables, and this program needs "
            f"{VERSION}; run 'trio-jobs migrate' first"
        )
    if compatible_from > VERSION:
        raise StoreDatabaseError(
            f"the database has version {version} of the tables, and this program knows "
            f"{VERSION}; start the newer program"
        )


async def _one(connection: psycopg.AsyncConnection[Any], query: str) -> tuple[Any, ...]:
    cursor = await connection.execute(query.encode())
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101  (for the type checker)
    return tuple(row)


def _line(error: psycopg.Error) -> str:
    return " ".join(str(error).split())
