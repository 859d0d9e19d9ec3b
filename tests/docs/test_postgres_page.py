"""The page about a database does what it says, with the rights that it gives, and no others."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.blocks import blocks_of
from tests.docs.runner import Reader
from tests.docs.test_blocks import OVER_A_DATABASE, follow
from tests.postgres.cluster import Cluster
from tests.postgres.databases import Database
from trio_jobs.stores.postgres.trio_connection import connect

SQL = {block.name: block.text for block in blocks_of(OVER_A_DATABASE) if block.kind == "sql"}
NO_QUERIES = ("roles.sql", "grants.sql", "after-restore.sql")
# The page says it in a sentence.
WATCHER = (
    "create role shop_watch",
    "grant usage on schema trio_jobs to shop_watch",
    "grant select on trio_jobs.jobs, trio_jobs.members to shop_watch",
    "grant pg_read_all_stats to shop_watch",
)


@pytest.fixture
def shop(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a reader whose programs find the database of this run."""
    monkeypatch.setenv("PGHOST", str(cluster.folder))
    monkeypatch.setenv("PGUSER", "postgres")
    return tmp_path


def test_page_does_what_it_says(shop: Path) -> None:
    follow(OVER_A_DATABASE, blocks_of(OVER_A_DATABASE), Reader(shop))

    psql("shop", *WATCHER)
    for name, text in SQL.items():
        if name not in NO_QUERIES:
            psql("shop", "set role shop_watch", text)
    psql("shop", SQL["after-restore.sql"])
    psql("postgres", "drop database shop with (force)")
    psql("postgres", "drop role shop_web, shop_jobs, shop_watch")


@pytest.mark.parametrize("first", ["select pg_current_xact_id()", "declare c cursor for select 1"])
async def test_a_forgotten_transaction_is_shown(database: Database, first: str) -> None:
    async with await connect(database.url, name="forgotten") as connection:
        await connection.execute(b"begin")
        await connection.execute(first.encode())
        pid = connection.info.backend_pid

        shown = psql(database.url, SQL["dead-rows.sql"])

    assert re.search(rf"^ *{pid} \| trio-jobs forgotten ", shown, re.MULTILINE)


async def test_a_forgotten_prepared_transaction_is_shown(database: Database) -> None:
    await database.fetch("begin; select pg_current_xact_id(); prepare transaction 'forgotten'")
    try:
        shown = psql(database.url, SQL["dead-rows.sql"])
    finally:
        await database.fetch("rollback prepared 'forgotten'")

    assert re.search(r"^ forgotten +\| +\| prepared ", shown, re.MULTILINE)


def psql(database: str, *statements: str) -> str:
    """What psql writes; the statements succeed."""
    given = [argument for statement in statements for argument in ("-c", statement)]
    done = subprocess.run(
        ["psql", "-v", "ON_ERROR_STOP=1", database, *given],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout
