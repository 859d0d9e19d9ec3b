"""Databases for tests: one each at a time, on a server that the run starts."""

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from functools import partial

import pytest
import trio

from tests.postgres.cluster import Cluster, Mode, need_programs
from tests.postgres.databases import Database, Databases
from tests.postgres.pooler import Pooler
from tests.postgres.proxy import Proxy

EMPTY = "template1"
WITH_SCHEMA = "with_schema"


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
def database_names() -> Iterator[str]:
    """Names that no database of this run has."""
    return map("test_{}".format, itertools.count())


@pytest.fixture(scope="session")
def databases(cluster: Cluster, database_names: Iterator[str]) -> Iterator[Databases]:
    """Databases with the schema."""
    cluster.create(WITH_SCHEMA, template=EMPTY)
    trio.run(make_schema, cluster.url(WITH_SCHEMA))
    with closing(Databases(cluster, WITH_SCHEMA, database_names)) as databases:
        yield databases


@pytest.fixture(scope="session")
def empty_databases(cluster: Cluster, database_names: Iterator[str]) -> Iterator[Databases]:
    """Databases without the schema."""
    with closing(Databases(cluster, EMPTY, database_names)) as databases:
        yield databases


@pytest.fixture
def database(databases: Databases) -> Iterator[Database]:
    """A database with the schema; without a PostgreSQL server the test is skipped."""
    with databases.one() as database:
        yield database


@pytest.fixture
def empty_database(empty_databases: Databases) -> Iterator[Database]:
    """A database without the schema."""
    with empty_databases.one() as database:
        yield database


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
