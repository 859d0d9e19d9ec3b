"""Two members of a database, and who hears what they do."""

from collections.abc import AsyncIterator

import pytest

from tests.postgres.databases import Database
from tests.stores.postgres.member import Member, joined, listening
from trio_jobs.stores.postgres.trio_connection import TrioConnection


@pytest.fixture
async def a(database: Database) -> AsyncIterator[Member]:
    async with joined(database.url) as member:
        yield member


@pytest.fixture
async def b(database: Database) -> AsyncIterator[Member]:
    async with joined(database.url) as member:
        yield member


@pytest.fixture
async def listener(database: Database, a: Member, b: Member) -> AsyncIterator[TrioConnection]:
    async with listening(database.url, a, b) as connection:
        yield connection
