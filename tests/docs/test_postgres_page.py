"""The page about a database does what it says, with the rights that it gives, and no others."""

import subprocess
from pathlib import Path

import pytest

from tests.docs.blocks import blocks_of
from tests.docs.runner import Reader
from tests.docs.test_blocks import OVER_A_DATABASE, follow
from tests.postgres.cluster import Cluster

SQL = [block for block in blocks_of(OVER_A_DATABASE) if block.kind == "sql"]


@pytest.fixture
def shop(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a reader whose programs find the database of this run."""
    monkeypatch.setenv("PGHOST", str(cluster.folder))
    monkeypatch.setenv("PGUSER", "postgres")
    return tmp_path


def test_page_does_what_it_says(shop: Path) -> None:
    follow(OVER_A_DATABASE, blocks_of(OVER_A_DATABASE), Reader(shop))

    for block in SQL:
        if block.name not in ("roles.sql", "grants.sql"):
            psql("shop", block.text)
    psql("postgres", "drop database shop with (force)", "drop role shop_web, shop_jobs")


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
