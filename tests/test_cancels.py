"""Cancels of many jobs, and counts, in a pool inside a Trio program."""

from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_jobs import JobStatus, Outcome, open_jobs


async def forever(_payload: object) -> None:
    await trio.sleep_forever()


async def nothing(_payload: object) -> None:
    """Return at once."""


async def test_jobs_of_a_type_are_cancelled_and_counted() -> None:
    async with open_jobs({"a": forever, "b": nothing}, workers=1) as jobs:
        ended = await jobs.wait(jobs.submit("b").id)
        mine = [jobs.submit("a") for _ in range(3)]
        other = jobs.submit("b")
        later = jobs.submit("a", delay=60)
        await wait_all_tasks_blocked()
        before = await jobs.counts()

        number = await jobs.cancel_all(type=["a"])

        assert number == 4
        assert [(await jobs.wait(job.id)).outcome for job in (*mine, later)] == ["cancelled"] * 4
        assert (await jobs.wait(other.id)).outcome is ended.outcome is Outcome.SUCCEEDED
        after = await jobs.counts()
    assert (before.total, before.type) == (6, {"a": 4, "b": 2})
    assert dict(before.status) == {"pending": 4, "processing": 1, "completed": 1}
    assert before.waiting == {"delayed": 1, "retrying": 0, "held": 0}
    assert (after.outcome[Outcome.CANCELLED], after.outcome[Outcome.SUCCEEDED]) == (4, 2)


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({}, "type or status must be given"),
        ({"type": []}, "type must be a list"),
        ({"type": "a"}, "type must be a list"),
        ({"status": ["completed"]}, "status must be pending, processing or both, got 'completed'"),
    ],
)
async def test_filters_are_checked_and_nothing_is_cancelled(
    filters: dict[str, list[str]], text: str
) -> None:
    async with open_jobs({"a": nothing}) as jobs:
        job = jobs.submit("a")
        with pytest.raises(ValueError, match=text):
            await jobs.cancel_all(**filters)
        assert (await jobs.wait(job.id)).outcome is Outcome.SUCCEEDED


async def test_over_a_file_they_are_cancelled_and_counted(tmp_path: Path) -> None:
    async with open_jobs({"a": forever}, workers=1, path=tmp_path / "jobs.db") as jobs:
        mine = [await jobs.submit("a") for _ in range(3)]
        before = await jobs.counts()

        assert await jobs.cancel_all(status=["pending", "processing"]) == 3

        assert [(await jobs.wait(job.id)).outcome for job in mine] == ["cancelled"] * 3
        after = await jobs.counts()
    assert (before.total, before.status[JobStatus.COMPLETED]) == (3, 0)
    assert (after.total, after.outcome[Outcome.CANCELLED]) == (3, 3)
