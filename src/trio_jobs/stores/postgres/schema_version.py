"""The database's schema: its version, and the migrations, which only go forward."""

from importlib.resources import files
from typing import Any, Final

import psycopg
from psycopg import errors

from trio_jobs.pool.store import StoreDatabaseError
from trio_jobs.stores.postgres.failures import one_line

# The migrations are files of SQL, by number. One that a release has applied never changes.
VERSION: Final = 1

# Two migrations at the same time: the second waits, and finds nothing to do.
_LOCK: Final = "SELECT pg_advisory_xact_lock(8387236824117178739)"
_EXISTS: Final = "SELECT to_regclass('trio_jobs.schema_version') IS NOT NULL"
_VERSION: Final = "SELECT max(version), max(compatible_from) FROM trio_jobs.schema_version"

# A schema, a table, a column, a type or a function is gone, or a right. A start has found them all.
_GONE: Final = frozenset({"3F000", "42P01", "42703", "42704", "42883", "42501"})

# How many missing rights an error names.
_SHOWN: Final = 3

# What a server needs and its user may not do, as `grant` has it. A server would come to grief over
# some of it a lease after its start. No server calls what runs with the rights of its owner.
_MISSING: Final = """
    SELECT privilege || ' on ' || name AS missing
    FROM unnest(ARRAY['trio_jobs.jobs', 'trio_jobs.members']) AS name,
        unnest(ARRAY['select', 'insert', 'update', 'delete']) AS privilege
    WHERE NOT has_table_privilege(name, privilege)
    UNION ALL
    SELECT 'execute on ' || proname FROM pg_proc
    WHERE pronamespace = 'trio_jobs'::regnamespace AND NOT prosecdef
        AND NOT has_function_privilege(oid, 'execute')
    ORDER BY missing
"""


async def migrate(connection: psycopg.AsyncConnection[Any]) -> int:
    """Bring a database to this program's version, in one transaction; return the version before.

    A newer database stays as it is.

    Args:
        connection: One in autocommit mode, of a user who may create a schema.

    Raises:
        StoreDatabaseError: The database cannot hold each text, or does not say its version.
        psycopg.Error: A step has failed; nothing has changed.
    """
    async with connection.transaction():
        await connection.execute(_LOCK)
        await _check_encoding(connection)
        (exists,) = await _one(connection, _EXISTS)
        before = (await _version(connection))[0] if exists else 0
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
        await _check_encoding(connection)
        version, compatible_from = await _version(connection)
    except errors.InsufficientPrivilege as error:
        raise StoreDatabaseError(f"the database refuses its user: {one_line(error)}") from None
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
    if missing := await (await connection.execute(_MISSING.encode())).fetchall():
        rights = ", ".join(each for (each,) in missing[:_SHOWN])
        more = f", and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise StoreDatabaseError(f"the database refuses its user: it lacks {rights}{more}")


def is_gone(error: psycopg.Error) -> bool:
    """Whether somebody has taken away what a statement needs: no server can go on."""
    return error.sqlstate in _GONE


async def _check_encoding(connection: psycopg.AsyncConnection[Any]) -> None:
    (encoding,) = await _one(connection, "SHOW server_encoding")
    if encoding != "UTF8":
        raise StoreDatabaseError(f"the database's encoding must be UTF8, got {encoding}")


async def _version(connection: psycopg.AsyncConnection[Any]) -> tuple[int, int]:
    version, compatible_from = await _one(connection, _VERSION)
    if version is None:
        raise StoreDatabaseError(
            "the database has tables of trio-jobs, but trio_jobs.schema_version is empty: "
            "a restore has left out its row"
        )
    return version, compatible_from


async def _one(connection: psycopg.AsyncConnection[Any], query: str) -> tuple[Any, ...]:
    cursor = await connection.execute(query.encode())
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101  (for the type checker)
    return tuple(row)
