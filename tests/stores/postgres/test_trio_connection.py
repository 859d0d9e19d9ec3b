"""A connection that waits under Trio."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.postgres.databases import Database
from trio_jobs.stores.postgres.trio_connection import LOST, TrioConnection, connect

# An insert whose commit waits for who locks the gate, and fails for a 0.
DEFERRED = """
    create table t (n int); create table gate ();
    create function late() returns trigger language plpgsql as
    $$ begin perform from gate; perform 1 / new.n; return null; end $$;
    create constraint trigger late after insert on t deferrable initially deferred
    for each row execute function late();
    prepare add(int) as insert into t values ($1) returning n
"""


async def test_statement_gives_its_rows(empty_database: Database) -> None:
    async with await connect(empty_database.url, name="test") as connection:
        with assert_checkpoints():
            cursor = await connection.execute("select generate_series(1, %s)", [3])

        assert await cursor.fetchall() == [(1,), (2,), (3,)]


async def test_megabytes_go_both_ways(empty_database: Database) -> None:
    text = "0123456789abcdef" * 500_000
    async with await connect(empty_database.url, name="test") as connection:
        cursor = await connection.execute("select %s || 'end'", [text])

        assert await cursor.fetchone() == (text + "end",)


async def test_transaction_is_rolled_back(empty_database: Database) -> None:
    async with await connect(empty_database.url, name="test") as connection:
        await connection.execute("create table t (n int primary key)")

        async def insert_twice() -> None:
            async with connection.transaction():
                await connection.execute("insert into t values (1)")
                await connection.execute("insert into t values (1)")

        with pytest.raises(psycopg.errors.UniqueViolation):
            await insert_twice()

        assert await (await connection.execute("select * from t")).fetchall() == []


async def test_settings_leave_the_options_of_the_environment(
    empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=77kB -c statement_timeout=5s")
    settings = {"statement_timeout": "7s", "of_a_later_version": "1"}
    async with await connect(empty_database.url, name="test", settings=settings) as connection:
        cursor = await connection.execute(
            "select current_setting('work_mem'), current_setting('statement_timeout')"
        )

        assert await cursor.fetchone() == ("77kB", "7s")


async def test_texts_are_utf8_whatever_the_url_says(empty_database: Database) -> None:
    url = f"{empty_database.url}&client_encoding=SQL_ASCII"
    async with await connect(url, name="test") as connection:
        cursor = await connection.execute("select %s::text", ["€"])

        assert await cursor.fetchone() == ("€",)


async def test_cancelled_statement_closes_the_connection(empty_database: Database) -> None:
    connection = await connect(empty_database.url, name="test")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.execute, "select pg_sleep(600)")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert connection.closed
    with pytest.raises(LOST):
        await connection.execute("select 1")


async def test_task_that_waits_learns_that_the_connection_was_closed(
    empty_database: Database,
) -> None:
    connection = await connect(empty_database.url, name="test")

    async def wait() -> None:
        with pytest.raises(psycopg.OperationalError, match="closed"):
            await connection.execute("select pg_sleep(600)")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        connection.finish()


async def test_terminated_connection_is_lost(empty_database: Database) -> None:
    connection = await connect(empty_database.url, name="test")
    pid = connection.info.backend_pid
    await empty_database.fetch("select pg_terminate_backend(%s, 60000)", pid)

    with pytest.raises(LOST):
        await connection.execute("select 1")
    assert connection.closed


async def test_error_of_a_statement_leaves_the_connection(empty_database: Database) -> None:
    async with await connect(empty_database.url, name="test") as connection:
        await connection.execute("set statement_timeout = 1")
        with pytest.raises(psycopg.errors.QueryCanceled):
            await connection.execute("select pg_sleep(600)")

        assert not connection.closed


async def test_rows_of_a_statement_are_read_before_its_commit(empty_database: Database) -> None:
    """Its commit waits, for a lock that is taken when all statements have ended."""
    async with (
        await connect(empty_database.url, name="test") as connection,
        await connect(empty_database.url, name="other", autocommit=False) as other,
        trio.open_nursery() as nursery,
    ):
        await connection.execute(DEFERRED)
        await other.execute("lock table gate")
        read, committed = trio.Event(), trio.Event()

        def note(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
            read.set()
            return rows

        async def add() -> None:
            assert await early(connection, "add", b"1", read=note) == [(1,)]
            committed.set()

        nursery.start_soon(add)
        with trio.fail_after(60):
            await read.wait()
        assert await empty_database.fetch("select n from t") == []
        assert not committed.is_set()

        await other.rollback()
        await committed.wait()
        assert await empty_database.fetch("select n from t") == [(1,)]
        assert (await (await connection.execute("select 2")).fetchone()) == (2,)


async def early(
    connection: TrioConnection,
    statement: str,
    *params: bytes,
    read: Callable[[list[tuple[Any, ...]]], list[tuple[Any, ...]]] = list,
) -> list[tuple[Any, ...]]:
    connection.send_early(statement, params, [0] * len(params))
    return await connection.read_early(read)


async def test_nothing_is_sent_early_through_a_pooler(empty_database: Database) -> None:
    direct = await connect(empty_database.url, name="test")
    pooled = await connect(empty_database.url, name="test", prepare_threshold=None)

    async with direct, pooled:
        assert direct.can_send_early
        assert not pooled.can_send_early


@pytest.mark.parametrize("param", [b"no number", b"0"], ids=["statement", "commit"])
async def test_error_of_an_early_statement_leaves_the_connection(
    empty_database: Database, param: bytes
) -> None:
    async with await connect(empty_database.url, name="test") as connection:
        await connection.execute(DEFERRED)
        with pytest.raises(psycopg.DataError):
            await early(connection, "add", param)

        assert await early(connection, "add", b"1") == [(1,)]
    assert await empty_database.fetch("select n from t") == [(1,)]


async def test_early_statement_of_a_terminated_connection_is_lost(
    empty_database: Database,
) -> None:
    connection = await connect(empty_database.url, name="test")
    await connection.execute("prepare one as select 1")
    await empty_database.fetch(
        "select pg_terminate_backend(%s, 60000)", connection.info.backend_pid
    )

    with pytest.raises(LOST):
        await early(connection, "one")
    assert connection.closed


async def test_notifications_arrive_whatever_else_the_connection_does(
    empty_database: Database,
) -> None:
    async with await connect(empty_database.url, name="test") as connection:
        await connection.execute("listen news")
        await empty_database.fetch("select pg_notify('news', 'during a statement')")
        await connection.execute("select 1")
        await empty_database.fetch("select pg_notify('news', 'while nobody reads')")

        texts: list[str] = []
        while len(texts) < 2:
            with assert_checkpoints():
                texts += [each.payload for each in await connection.notifies()]

        assert texts == ["during a statement", "while nobody reads"]


async def test_cancelled_wait_loses_no_notification(empty_database: Database) -> None:
    async with await connect(empty_database.url, name="test") as connection:
        await connection.execute("listen news")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.notifies)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await empty_database.fetch("select pg_notify('news', 'after all')")

        assert [each.payload for each in await connection.notifies()] == ["after all"]


async def test_wait_for_notifications_ends_with_the_connection(empty_database: Database) -> None:
    connection = await connect(empty_database.url, name="test")
    await empty_database.fetch(
        "select pg_terminate_backend(%s, 60000)", connection.info.backend_pid
    )

    with pytest.raises(LOST):
        await connection.notifies()


async def test_name_of_a_connection_is_seen_in_the_database(empty_database: Database) -> None:
    async with await connect(empty_database.url, name="test") as connection:
        cursor = await connection.execute("show application_name")

        assert await cursor.fetchone() == ("trio-jobs test",)


async def test_next_host_is_tried(empty_database: Database) -> None:
    url = f"{empty_database.url},{empty_database.url.partition('host=')[2]}".replace(
        "host=", "host=/nowhere,"
    )
    async with await connect(url, name="test") as connection:
        assert not connection.closed


async def test_all_hosts_are_named_when_none_answers() -> None:
    with pytest.raises(LOST, match=r"(?s)/nowhere.*/somewhere"):
        await connect("postgresql:///x?host=/nowhere,/somewhere", name="test")


async def test_host_that_stays_silent_is_given_up() -> None:
    with trio.socket.socket() as silent:
        await silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        port = silent.getsockname()[1]

        with pytest.raises(LOST, match=r"not answered within 0\.1 s"):
            await connect(f"postgresql://127.0.0.1:{port}/x", name="test", timeout=0.1)
