"""Databases of a test run: each test has one for itself, which others have had before it.

To make a database takes ten times as long as to clean one.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tests.postgres.cluster import Cluster, ended

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True, slots=True)
class Database:
    """A database of a test's own.

    Attributes:
        url: Its URL, for a user with every right.
        name: Its name.
        cluster: The server that it is on: other tests' databases are there too.
    """

    url: str
    name: str
    cluster: Cluster

    async def fetch(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """Execute a statement on a connection of its own; its rows, if it has some."""
        return await fetch(self.url, sql, *params)


async def fetch(url: str, sql: str, *params: object) -> list[tuple[Any, ...]]:
    """Execute a statement on a connection of its own; its rows, if it has some."""
    from trio_jobs.stores.postgres.trio_connection import connect  # few runs need it

    async with await connect(url, name="test") as connection:
        cursor = await connection.execute(sql, params)
        return [] if cursor.description is None else await cursor.fetchall()


# How many rows a table has, and how many of them are of later transactions. Each statement but
# `select`, `insert`, `update`, `delete` and `truncate` changes this of some table of the catalog.
LOOK = """
select count(*), count(*) filter (where age(xmin) <= (select age(%(since)s::text::xid))) from {}
"""
SETTINGS = """
select count(*), null from pg_db_role_setting
where setdatabase = (select oid from pg_database where datname = current_database())
"""
CATALOG = """
select oid::regclass::text from pg_class
where relkind = 'r' and not relisshared and relnamespace = 'pg_catalog'::regnamespace
"""
SCHEMA = """
select oid::regclass::text from pg_class
where relkind = 'r' and relnamespace = to_regnamespace('trio_jobs')
"""
OTHERS = """
select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
"""


@dataclass(frozen=True, slots=True)
class Copy:
    """A database, and what cleans it.

    Attributes:
        database: What tests see.
        connection: What looks at it and empties it between two tests; idle during a test.
        since: The first transaction that may be of the next test.
    """

    database: Database
    connection: "psycopg.Connection"
    since: int


class Databases:
    """Copies of a database, each for one test at a time.

    Args:
        cluster: The server.
        template: The name of the database.
        names: Names for the copies.
    """

    def __init__(self, cluster: Cluster, template: str, names: Iterator[str]) -> None:
        self._cluster = cluster
        self._template = template
        self._names = names
        self._clean: list[Copy] = []
        with closing(self._connect(template)) as connection:
            catalog, tables = _column(connection, CATALOG), _column(connection, SCHEMA)
            kept = [table for table in tables if table.endswith(".schema_version")]
            looks = [LOOK.format(table) for table in catalog + kept]
            self._look = "union all".join([*looks, SETTINGS])
            emptied = ", ".join(set(tables).difference(kept))
            empty = [f"truncate {emptied} restart identity"] if emptied else []
            self._empty = "; ".join([*empty, "select pg_stat_reset()"])
            self._as_made = self._look_at(connection, _next_transaction(connection))

    @contextmanager
    def one(self) -> Iterator[Database]:
        """A copy that is as it was made, for the length of a block."""
        copy = self._clean.pop() if self._clean else self._make()
        try:
            yield copy.database
        finally:
            self._take_back(copy)

    def close(self) -> None:
        """Close the connections."""
        for copy in self._clean:
            copy.connection.close()

    def _make(self) -> Copy:
        name = next(self._names)
        self._cluster.create(name, template=self._template)
        connection = self._connect(name)
        database = Database(self._cluster.url(name), name, self._cluster)
        return Copy(database, connection, _next_transaction(connection))

    def _take_back(self, copy: Copy) -> None:
        """Let the next test have a copy, if it is as it was made but for rows."""
        connection = copy.connection
        others = _column(connection, OTHERS)
        with ended(others):
            connection.execute("select pg_terminate_backend(unnest(%s::int[]))", [others])
        if self._look_at(connection, copy.since) == self._as_made:
            connection.execute(self._empty)
            self._clean.append(replace(copy, since=_next_transaction(connection)))
        else:
            connection.close()
            self._cluster.drop(copy.database.name)

    def _connect(self, database: str) -> "psycopg.Connection":
        import psycopg  # most runs need none

        return psycopg.connect(self._cluster.url(database), autocommit=True)

    def _look_at(self, connection: "psycopg.Connection", since: int) -> list[Any]:
        return connection.execute(self._look, {"since": since}).fetchall()


def _column(connection: "psycopg.Connection", sql: str) -> list[Any]:
    return [value for (value,) in connection.execute(sql)]


def _next_transaction(connection: "psycopg.Connection") -> int:
    [number] = _column(connection, "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    assert isinstance(number, int)
    return number
