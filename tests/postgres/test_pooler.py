"""A server over a database behind a pooler."""

from collections.abc import Iterator

import pytest

from tests.postgres.databases import Database
from tests.postgres.pooler import Pooler
from trio_jobs import StoreDatabaseError, open_jobs


@pytest.fixture
def session_url(database: Database) -> Iterator[str]:
    pooler = Pooler(database.cluster, "session")
    yield pooler.url(database.name)
    pooler.remove()


async def double(number: int) -> int:
    return 2 * number


async def test_server_refuses_to_start_where_no_notification_can_arrive(
    pooler_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It never comes.
    monkeypatch.setattr("trio_jobs.stores.postgres.notification_listener._LONGEST_ECHO", 0.1)
    with pytest.raises(StoreDatabaseError, match=r"no notification arrives .* store\.listen_url"):
        async with open_jobs({"double": double}, url=pooler_url):
            pass


async def test_jobs_run_through_a_pooler_if_notifications_go_past_it(
    database: Database, pooler_url: str
) -> None:
    async with open_jobs(
        {"double": double}, url=pooler_url, listen_url=database.url, workers=2
    ) as jobs:
        # More often than a statement is executed before it would be prepared.
        for number in range(12):
            job = await jobs.submit("double", number)
            assert await jobs.result(job.id) == 2 * number
            assert (await jobs.get(job.id)).attempts == 1


async def test_a_pooler_in_session_mode_needs_no_way_around_it(session_url: str) -> None:
    async with open_jobs({"double": double}, url=session_url) as jobs:
        job = await jobs.submit("double", 2)
        assert await jobs.result(job.id) == 4
        assert [each.id for each in await jobs.page()] == [job.id]
