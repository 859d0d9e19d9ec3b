"""The proxy and the pooler before the servers of the tests."""

import psycopg
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.postgres.databases import Database
from tests.postgres.proxy import Proxy, When
from trio_jobs.stores.postgres.trio_connection import LOST, connect

INSERT = "insert into trio_jobs.jobs (id, type) values (trio_jobs.uuid7(), %s)"
# Parse, bind, describe, execute and sync, and the answers to each.
MESSAGES = ["P", "B", "D", "E", "S", "1", "2", "n", "C", "Z"]


async def count(database: Database) -> int:
    """How many rows are in."""
    [[number]] = await database.fetch("select count(*) from trio_jobs.jobs")
    assert isinstance(number, int)
    return number


async def test_messages_pass_and_are_counted(database: Database, proxy: Proxy) -> None:
    async with await connect(proxy.url, name="test") as connection:
        proxy.passed.clear()
        await connection.execute(INSERT, ["t"])

    assert [each.kind for each in proxy.passed[: len(MESSAGES)]] == MESSAGES
    assert await count(database) == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(len(MESSAGES)))
async def test_cut_connection_is_lost_whichever_message_it_is(
    database: Database, proxy: Proxy, number: int, when: When
) -> None:
    async with await connect(proxy.url, name="test") as connection:
        cut = proxy.cut_at(number, when, name="test")
        if (number, when) == (len(MESSAGES) - 1, "after"):
            await connection.execute(INSERT, ["t"])
        else:
            with pytest.raises(LOST):
                await connection.execute(INSERT, ["t"])
            assert connection.closed
    assert cut.done.is_set()

    # The insert is done when its end, the sync, has been sent.
    sent = number > MESSAGES.index("S") or (MESSAGES[number], when) == ("S", "after")
    if sent:
        while not await count(database):
            await trio.lowlevel.checkpoint()  # the server may still be at it
    else:
        assert await count(database) == 0


async def test_frozen_proxy_passes_nothing_until_it_goes_on(proxy: Proxy) -> None:
    async with await connect(proxy.url, name="test") as connection:
        proxy.freeze()
        before = len(proxy.passed)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.execute, "select 1")
            await wait_all_tasks_blocked(0.05)
            assert len(proxy.passed) == before
            proxy.go_on()

        assert not connection.closed


async def test_refused_connection_is_lost(proxy: Proxy) -> None:
    proxy.refuse()

    with pytest.raises(LOST):
        await connect(proxy.url, name="test")


async def test_statements_cannot_be_prepared_through_a_pooler(pooler_url: str) -> None:
    async with (
        await connect(pooler_url, name="first", prepare_threshold=0) as first,
        await connect(pooler_url, name="second", prepare_threshold=0) as second,
    ):
        await first.execute("select 1 + %s", [1])

        with pytest.raises(psycopg.errors.DuplicatePreparedStatement):
            await second.execute("select 2 + %s", [1])
