"""The servers of the tests."""

import pytest

from tests.postgres.fixtures import CrashDatabase, Database


async def test_each_test_has_a_database_of_its_own(
    database: Database, empty_database: Database
) -> None:
    await database.fetch("create table here (n int)")

    assert await empty_database.fetch("select * from pg_tables where tablename = 'here'") == []


@pytest.mark.system
async def test_killed_server_keeps_what_was_committed(crash_database: CrashDatabase) -> None:
    await crash_database.fetch("create table t as select 1 as n")
    crash_database.kill()
    await crash_database.start()

    assert await crash_database.fetch("select n from t") == [(1,)]
