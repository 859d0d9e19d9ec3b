"""`Jobs.submit(..., delay=, run_at=, key=)`: later, at a date, and once under a key."""

import logging
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from trio_jobs import (
    AdmissionError,
    InvalidTransitionError,
    Jobs,
    JobStatus,
    KeyReusedError,
    Outcome,
    PayloadError,
    QueueFullError,
    ShuttingDownError,
    Waiting,
    open_jobs,
)

WEEK = 604_800


async def note(payload: object) -> float:
    return trio.current_time()


HANDLERS = {"note": note}


async def test_delay_of_a_week_passes_in_no_time(autojump_clock: MockClock) -> None:
    async with open_jobs(HANDLERS) as jobs:
        with assert_no_checkpoints():
            job = jobs.submit("note", delay=WEEK)
        assert job.run_at is not None
        assert job.run_at - job.created_at == timedelta(weeks=1)
        assert jobs.statistics().waiting == 1

        assert await jobs.result(job.id) == WEEK

        assert jobs.get(job.id).completed_at >= job.run_at  # type: ignore[operator]


async def test_date_is_met_under_a_mock_clock(autojump_clock: MockClock) -> None:
    async with open_jobs(HANDLERS) as jobs:
        for zone in (UTC, timezone(timedelta(hours=-11))):
            began = trio.current_time()
            run_at = jobs.submit("note").created_at + timedelta(weeks=1)

            job = jobs.submit("note", run_at=run_at.astimezone(zone))

            assert job.run_at == run_at
            assert await jobs.result(job.id) - began == pytest.approx(WEEK, abs=0.01)


async def test_date_is_met_by_the_real_clocks() -> None:
    async with open_jobs(HANDLERS) as jobs:
        run_at = datetime.now(UTC) + timedelta(seconds=0.05)
        job = jobs.submit("note", run_at=run_at)
        assert job.waiting is Waiting.DELAYED

        ended = await jobs.wait(job.id)

    assert ended.started_at is not None
    assert ended.started_at >= run_at - timedelta(milliseconds=2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"delay": math.nan}, "delay must be a number of seconds"),
        ({"delay": True}, "delay must be a number of seconds"),
        ({"delay": -1}, "delay must be a number of seconds"),
        ({"run_at": datetime(2030, 1, 1)}, "run_at must be a time with a time zone"),  # noqa: DTZ001
        ({"run_at": datetime.max.replace(tzinfo=UTC)}, "run_at must be within ten years"),
        ({"delay": 1, "run_at": datetime.now(UTC)}, "delay and run_at exclude each other"),
        ({"key": ""}, "key must be 1 to 255 visible ASCII characters, got ''"),
        ({"key": "a b"}, "key must be 1 to 255"),
        ({"key": "é"}, "key must be 1 to 255"),
        ({"key": "k" * 256}, "key must be 1 to 255"),
        ({"key": b"k"}, "key must be 1 to 255"),
    ],
)
async def test_bad_values_are_refused_by_name_and_nothing_is_kept(
    arguments: dict[str, object], text: str
) -> None:
    async with open_jobs(HANDLERS) as jobs:
        with pytest.raises(PayloadError) as caught:
            jobs.submit("note", **arguments)  # type: ignore[arg-type]
        assert str(caught.value).startswith(text)
        assert jobs.page() == []
        assert jobs.statistics().waiting == 0


async def test_past_date_and_no_delay_are_now() -> None:
    async with open_jobs(HANDLERS) as jobs:
        for job in (
            jobs.submit("note", delay=0),
            jobs.submit("note", run_at=datetime(1970, 1, 1, tzinfo=UTC)),
        ):
            assert job.run_at is None
            await jobs.wait(job.id)


@pytest.mark.parametrize("max_waiting", [0, 1])
async def test_jobs_beyond_max_waiting_are_refused(
    max_waiting: int, autojump_clock: MockClock
) -> None:
    async with open_jobs(HANDLERS, max_waiting=max_waiting) as jobs:
        for _ in range(max_waiting):
            jobs.submit("note", delay=30)
        with pytest.raises(QueueFullError, match="too many jobs wait for a later time") as caught:
            jobs.submit("note", delay=5)
        assert caught.value.retry_after == (30 if max_waiting else 60)
        assert len(jobs.page()) == max_waiting
        await trio.sleep(31)
        assert {job.outcome for job in jobs.page()} <= {Outcome.SUCCEEDED}


@pytest.mark.parametrize("value", [-1, 1.5, True, "5", None, 10_000_001])
async def test_max_waiting_out_of_range_is_refused_by_name(value: object) -> None:
    with pytest.raises(ValueError, match="max_waiting must be an integer from 0 to 10000000, got"):
        async with open_jobs(HANDLERS, max_waiting=value):  # type: ignore[call-overload]
            pass


def submit_once(jobs: Jobs, **changes: object) -> str:
    arguments: dict[str, object] = {"payload": 1, "key": "k", "delay": 5, **changes}
    return jobs.submit("note", **arguments).id  # type: ignore[arg-type]


async def test_same_submission_under_a_key_is_one_job(autojump_clock: MockClock) -> None:
    async with open_jobs(HANDLERS) as jobs:
        first = submit_once(jobs)
        assert submit_once(jobs) == submit_once(jobs, delay=5.0) == first
        await jobs.wait(first)
        assert submit_once(jobs) == first
        assert len(jobs.page()) == 1

        for changes in ({"payload": 2}, {"delay": 6}, {"delay": None}, {"delay": 0}):
            with pytest.raises(KeyReusedError, match="key 'k' was used with another submission"):
                submit_once(jobs, **changes)
        assert issubclass(KeyReusedError, AdmissionError)
        assert len(jobs.page()) == 1

        run_at = datetime.now(UTC) + timedelta(hours=5)
        by_date = submit_once(jobs, key="other", delay=None, run_at=run_at)
        zone = timezone(timedelta(hours=3))
        assert submit_once(jobs, key="other", delay=None, run_at=run_at.astimezone(zone)) == by_date
        await jobs.wait(by_date)
        # The date is past by now, and still the same submission.
        assert submit_once(jobs, key="other", delay=None, run_at=run_at) == by_date
        jobs.delete(by_date)
        assert submit_once(jobs, key="other", delay=None, run_at=run_at) != by_date


async def test_known_key_is_answered_by_a_closed_and_by_a_full_pool() -> None:
    async with open_jobs(HANDLERS, workers=1, max_waiting=1) as jobs:
        first = submit_once(jobs)
        assert submit_once(jobs) == first
        with pytest.raises(QueueFullError):
            submit_once(jobs, key="new")
        await jobs.drain()
        assert submit_once(jobs) == first
        with pytest.raises(ShuttingDownError):
            submit_once(jobs, key="new")


async def test_waiting_jobs_can_be_cancelled_and_not_deleted(autojump_clock: MockClock) -> None:
    async with open_jobs(HANDLERS) as jobs:
        job = jobs.submit("note", delay=WEEK)
        with pytest.raises(InvalidTransitionError):
            jobs.delete(job.id)

        jobs.cancel(job.id)
        ended = await jobs.wait(job.id)

        assert (ended.outcome, trio.current_time()) == (Outcome.CANCELLED, 0)
        jobs.delete(job.id)


async def test_drain_waits_for_a_due_job_in_the_buffer(autojump_clock: MockClock) -> None:
    async def slow(_: object) -> None:
        await trio.sleep(2)

    async with open_jobs({"slow": slow}, workers=1) as jobs:
        jobs.submit("slow")
        due = jobs.submit("slow", delay=1)
        later = jobs.submit("slow", delay=WEEK)
        await trio.sleep(1.5)
        await jobs.drain()

        assert trio.current_time() == 4
        assert jobs.get(due.id).outcome is Outcome.SUCCEEDED
        assert jobs.unfinished() == ([], [later.id])


async def test_end_of_the_block_leaves_waiting_jobs_and_names_them(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.WARNING)
    async with open_jobs(HANDLERS) as jobs:
        waiting, cancelled = (jobs.submit("note", delay=WEEK) for _ in range(2))
        now = jobs.submit("note")
        await wait_all_tasks_blocked()
        await jobs.drain()
        jobs.cancel(cancelled.id)  # no worker is left that could come to it
        assert jobs.unfinished() == ([], [waiting.id, cancelled.id])

    assert jobs.get(now.id).status is JobStatus.COMPLETED
    assert jobs.get(waiting.id) == waiting
    assert trio.current_time() == 0
    [record] = caplog.records
    assert record.message == "jobs_waiting"
    assert record.job_ids == f"{waiting.id},{cancelled.id}"  # type: ignore[attr-defined]
