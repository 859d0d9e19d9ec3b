"""The connections for reading."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import psycopg
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.postgres.databases import Database
from tests.postgres.fixtures import CrashDatabase
from tests.postgres.proxy import Proxy
from trio_jobs.pool.refusals import StoreUnavailableError
from trio_jobs.stores.postgres.readers import Readers
from trio_jobs.stores.postgres.trio_connection import connect

CUT_READERS = """
    select pg_terminate_backend(pid, 60000)
    from pg_stat_activity where application_name = 'trio-jobs reader'
"""
WAIT_FOR_READERS = """
    do $$ begin
        while exists (
            select from pg_stat_activity where application_name = 'trio-jobs reader'
        ) loop
            perform pg_sleep(0.01), pg_stat_clear_snapshot();
        end loop;
    end $$
"""


@contextmanager
def readers_of(url: str, *, timeout: float = 60.0, options: str = "") -> Iterator[Readers]:
    """Readers that are closed in the end."""
    readers = Readers(partial(connect, url, name="reader", options=options), timeout=timeout)
    try:
        yield readers
    finally:
        readers.close()


async def test_reads_share_a_few_connections(empty_database: Database) -> None:
    pids: list[int] = []

    with readers_of(empty_database.url) as readers:

        async def read() -> None:
            [[pid, _]] = await readers.fetch("select pg_backend_pid(), pg_sleep(0.01)")
            pids.append(pid)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(read)

    assert len(pids) == 10
    assert len(set(pids)) <= 2


async def test_read_is_repeated_after_its_connection_was_cut(empty_database: Database) -> None:
    with readers_of(empty_database.url) as readers:
        await readers.fetch("select 1")
        await empty_database.fetch(CUT_READERS)

        assert await readers.fetch("select %s", ["again"]) == [("again",)]


async def test_read_waits_while_the_database_restarts(crash_database: CrashDatabase) -> None:
    rows: list[tuple[int]] = []

    with readers_of(crash_database.url) as readers:

        async def read() -> None:
            rows.extend(await readers.fetch("select 1"))

        await read()
        await crash_database.stop()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await crash_database.start()

    assert rows == [(1,), (1,)]


async def test_read_gives_up_in_time_when_the_database_is_away() -> None:
    with (
        readers_of("postgresql:///x?host=/nowhere", timeout=0.1) as readers,
        pytest.raises(StoreUnavailableError, match="the database does not answer"),
    ):
        await readers.fetch("select 1")


async def test_reason_why_no_connection_can_be_made_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with readers_of("postgresql:///x?host=/nowhere", timeout=0.1) as readers:
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await readers.fetch("select 1")

    [record] = caplog.records
    assert record.message == "reads_failing"
    assert "/nowhere" in vars(record)["reason"]


async def test_one_read_gives_up_for_all_connections_that_have_fallen_silent(
    proxy: Proxy,
) -> None:
    with readers_of(proxy.url, timeout=1.0) as readers:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(readers.fetch, "select pg_sleep(0.1)")
        proxy.silence()

        with pytest.raises(StoreUnavailableError):
            await readers.fetch("select 1")
        assert await readers.fetch("select 1") == [(1,)]


async def test_read_that_takes_too_long_is_not_repeated(empty_database: Database) -> None:
    with (
        readers_of(empty_database.url, options="-c statement_timeout=1") as readers,
        pytest.raises(StoreUnavailableError, match="statement timeout"),
    ):
        await readers.fetch("select pg_sleep(600)")


async def test_wrong_statement_is_an_error_and_leaves_the_connection(
    empty_database: Database,
) -> None:
    with readers_of(empty_database.url) as readers:
        [[before]] = await readers.fetch("select pg_backend_pid()")
        with pytest.raises(psycopg.errors.UndefinedTable):
            await readers.fetch("select * from nothing")

        assert await readers.fetch("select pg_backend_pid()") == [(before,)]


async def test_cancelled_reads_take_no_place_from_others(empty_database: Database) -> None:
    with readers_of(empty_database.url) as readers:
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(readers.fetch, "select pg_sleep(1)")
                nursery.start_soon(readers.fetch, "select pg_sleep(1)")
                await wait_all_tasks_blocked(0.01)
                nursery.cancel_scope.cancel()

        assert await readers.fetch("select 1") == [(1,)]


async def test_close_leaves_no_connection(empty_database: Database) -> None:
    with readers_of(empty_database.url) as readers:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readers.fetch, "select pg_sleep(0.1)")
            nursery.start_soon(readers.fetch, "select 1")
            await wait_all_tasks_blocked(0.01)
            readers.close()

    # Their processes end a moment after the connections.
    await empty_database.fetch(WAIT_FOR_READERS)
