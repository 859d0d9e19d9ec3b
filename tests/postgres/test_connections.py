"""How a server connects: what does not come with the URL."""

from pathlib import Path

import pytest

from tests.postgres.databases import Database
from trio_jobs import open_jobs

TIMEOUTS = ["idle_session_timeout", "statement_timeout"]

# Keeps the timeouts that hold where jobs are written.
NOTE_TIMEOUTS = """
    create table trio_jobs.noted (name text, value text);
    create function trio_jobs.note() returns trigger language plpgsql as $$
    begin
        insert into trio_jobs.noted select name, setting from pg_settings
        where name in ('idle_session_timeout', 'statement_timeout');
        return null;
    end $$;
    create trigger note after {} execute function trio_jobs.note()
"""


async def echo(payload: object) -> object:
    return payload


async def test_timeouts_of_the_user_end_no_round(database: Database) -> None:
    # A round that takes longer than such a timeout would be ended again and again.
    for name in TIMEOUTS:
        await database.fetch(f"alter database {database.name} set {name} = '1h'")
    await database.fetch(NOTE_TIMEOUTS.format("insert or update on trio_jobs.jobs"))
    async with open_jobs({"echo": echo}, url=database.url) as jobs:
        job = await jobs.submit("echo", 1)
        assert await jobs.result(job.id) == 1

    noted = await database.fetch("select distinct name, value from trio_jobs.noted order by name")
    assert noted == [(name, "0") for name in TIMEOUTS]


async def test_timeouts_of_the_user_end_no_connection_past_a_pooler(database: Database) -> None:
    for name in TIMEOUTS:
        await database.fetch(f"alter database {database.name} set {name} = '1h'")
    await database.fetch(NOTE_TIMEOUTS.format("insert on trio_jobs.members"))
    async with open_jobs({"echo": echo}, url=database.url, listen_url=database.url):
        noted = await database.fetch("select name, value from trio_jobs.noted order by name")

    assert noted == [(name, "0") for name in TIMEOUTS]


async def test_lists_come_over_what_a_service_file_describes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    services = tmp_path / "services"
    services.write_text(f"""[shop]
host={database.cluster.folder}
user=postgres
dbname={database.name}
target_session_attrs=read-write
""")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    async with open_jobs({"echo": echo}, url="postgresql://?service=shop", timeout=2) as jobs:
        job = await jobs.submit("echo", 1)
        assert await jobs.result(job.id) == 1
        assert [each.id for each in await jobs.page()] == [job.id]
