"""The databases of the tests: nothing that a test does to one is there for the next."""

import pytest

from tests.postgres.databases import Databases
from tests.stores.postgres.member import joined, make_job
from trio_jobs.stores.postgres.trio_connection import LOST, connect

COUNT = "select (select count(*) from trio_jobs.jobs), (select count(*) from trio_jobs.members)"


@pytest.mark.proof
def test_tests_at_the_same_time_have_different_databases(databases: Databases) -> None:
    with databases.one() as first, databases.one() as second:
        assert first.name != second.name


async def test_database_is_used_again_without_its_rows(databases: Databases) -> None:
    with databases.one() as first:
        async with joined(first.url) as member:
            await member.add(make_job(1))

    with databases.one() as second:
        assert second.name == first.name
        assert await second.fetch(COUNT) == [(0, 0)]
        async with joined(second.url) as member:
            assert member.session.member == 1


async def test_connections_of_a_test_end_with_it_whatever_they_hold(databases: Databases) -> None:
    with databases.one() as first:
        connection = await connect(first.url, name="test")
        await connection.execute("begin; lock table trio_jobs.jobs")

    with pytest.raises(LOST):
        await connection.execute("select 1")
    with databases.one() as second:
        assert second.name == first.name


@pytest.mark.proof
@pytest.mark.parametrize(
    "sql",
    [
        "create table made (n int)",
        "drop index trio_jobs.jobs_open",
        "alter table trio_jobs.jobs alter snoozes type bigint",
        "alter table trio_jobs.jobs set (fillfactor = 90)",
        "alter table trio_jobs.jobs drop constraint jobs_type_check",
        "alter function trio_jobs.channel(bigint) stable",
        "analyze trio_jobs.schema_version",
        "grant select on trio_jobs.jobs to public",
        "create sequence made",
        "alter database {} set lock_timeout to 10",
        "update trio_jobs.schema_version set version = 0",
        "delete from trio_jobs.schema_version",
    ],
)
async def test_database_of_which_more_than_rows_was_changed_is_not_used_again(
    databases: Databases, sql: str
) -> None:
    with databases.one() as first:
        await first.fetch(sql.format(first.name))

    with databases.one() as second:
        assert second.name != first.name


async def test_database_whose_changes_were_undone_is_used_again(databases: Databases) -> None:
    with databases.one() as first:
        await first.fetch("create table made (n int); drop table made")

    with databases.one() as second:
        assert second.name == first.name
