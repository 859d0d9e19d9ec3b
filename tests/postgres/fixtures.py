"""Databases for tests: one each, on a server that the run starts."""

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import trio

from tests.postgres.cluster import Cluster, Mode, need_programs
from tests.postgres.pooler import Pooler
from tests.postgres.proxy import Proxy

EMPTY = "template1"
WITH_SCHEMA = "with_schema"


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


class CrashDatabase(Database):
    """A database on a server that is the test's own, and that survives a crash."""

    async def start(self) -> None:
        """Start the server; returns once it takes connections."""
        await trio.to_thread.run_sync(self.cluster.start)

    async def stop(self, mode: Mode = "fast") -> None:
        """Stop the server; returns once it has."""
        await trio.to_thread.run_sync(self.cluster.stop, mode)

    async def restart(self, mode: Mode = "fast") -> None:
        """Stop and start the server."""
        await self.stop(mode)
        await self.start()

    def kill(self) -> None:
        """End every process of the server with SIGKILL."""
        self.cluster.kill()


async def fetch(url: str, sql: str, *params: object) -> list[tuple[Any, ...]]:
    """Execute a statement on a connection of its own; its rows, if it has some."""
    from trio_jobs.stores.postgres.trio_connection import connect  # few runs need it

    async with await connect(url, name="test") as connection:
        cursor = await connection.execute(sql, params)
        return [] if cursor.description is None else await cursor.fetchall()


async def make_schema(url: str) -> None:
    """Do what `trio-jobs migrate` does."""
    from trio_jobs.stores.postgres.schema_version import migrate
    from trio_jobs.stores.postgres.trio_connection import connect  # few runs need it

    async with await connect(url, name="test") as connection:
        await migrate(connection)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The server of this run, with an empty template and one with the schema."""
    cluster = Cluster(need_programs(), safe=False)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture(scope="session")
def template(cluster: Cluster) -> str:
    """The name of a database with the schema and without jobs."""
    cluster.create(WITH_SCHEMA, template=EMPTY)
    trio.run(make_schema, cluster.url(WITH_SCHEMA))
    return WITH_SCHEMA


@pytest.fixture(scope="session")
def database_names() -> Iterator[str]:
    """Names that no database of this run has."""
    return map("test_{}".format, itertools.count())


@pytest.fixture
def database(cluster: Cluster, template: str, database_names: Iterator[str]) -> Iterator[Database]:
    """A database with the schema; without a PostgreSQL server the test is skipped."""
    name = next(database_names)
    cluster.create(name, template=template)
    yield Database(cluster.url(name), name, cluster)
    cluster.drop(name)


@pytest.fixture
def empty_database(cluster: Cluster, database_names: Iterator[str]) -> Iterator[Database]:
    """A database without the schema."""
    name = next(database_names)
    cluster.create(name, template=EMPTY)
    yield Database(cluster.url(name), name, cluster)
    cluster.drop(name)


@pytest.fixture
async def crash_database() -> AsyncIterator[CrashDatabase]:
    """A database with the schema on a server of the test's own, which can be stopped and killed."""
    cluster = await trio.to_thread.run_sync(partial(Cluster, need_programs(), safe=True))
    try:
        await trio.to_thread.run_sync(cluster.start)
        await make_schema(cluster.url())
        yield CrashDatabase(cluster.url(), "postgres", cluster)
    finally:
        cluster.remove()


@pytest.fixture
async def proxy(database: Database) -> AsyncIterator[Proxy]:
    """A proxy before the test's database."""
    async with Proxy.before(database.url) as proxy:
        yield proxy


@pytest.fixture
def pooler_url(database: Database) -> Iterator[str]:
    """The URL of the test's database through a pooler in transaction mode."""
    pooler = Pooler(database.cluster)
    yield pooler.url(database.name)
    pooler.remove()
