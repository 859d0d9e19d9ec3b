"""Jobs with retry policies in a pool: from the handler's failure to its end, in virtual time."""

import logging
from contextlib import suppress
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.proof.share import few_or_many, others
from trio_jobs import (
    GiveUp,
    Handler,
    InvalidTransitionError,
    Job,
    JobContext,
    JobError,
    JobStatus,
    Outcome,
    Retry,
    RetryPolicy,
    Snooze,
    Waiting,
    open_jobs,
)

DAY = 86_400


class Outage:
    """A handler that fails until a moment, and notes when it ran."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.ran: list[tuple[float, int, bool]] = []

    async def __call__(self, payload: object, context: JobContext) -> object:
        self.ran.append((trio.current_time(), context.attempt, context.last_attempt))
        if trio.current_time() < self.until:
            raise OSError("busy")
        return payload


def handler(outage: Outage, **policy: object) -> Handler:
    return Handler.of(outage, retry=RetryPolicy(jitter=False, **policy))  # type: ignore[arg-type]


async def test_a_job_survives_an_outage_within_its_attempts(autojump_clock: MockClock) -> None:
    outage = Outage(until=40)

    async with open_jobs({"send": handler(outage, attempts=5)}, workers=1) as jobs:
        job = await jobs.wait(jobs.submit("send", 7).id)

    assert outage.ran == [(0, 1, False), (2, 2, False), (10, 3, False), (42, 4, False)]
    assert (job.outcome, job.attempts, job.last_error) == (Outcome.SUCCEEDED, 4, None)


async def test_ten_attempts_may_take_a_week(autojump_clock: MockClock) -> None:
    outage = Outage(until=float("inf"))
    policy = {"attempts": 10, "backoff": [60, 3600, DAY]}

    async with open_jobs({"send": handler(outage, **policy)}, workers=1) as jobs:
        job = await jobs.wait(jobs.submit("send").id)

    assert [attempt for _, attempt, _ in outage.ran] == list(range(1, 11))
    assert [last for _, _, last in outage.ran] == [False] * 9 + [True]
    assert trio.current_time() == 60 + 3600 + 7 * DAY
    assert job.ending is not None
    assert job.ending.error == JobError(type="OSError", message="busy")
    assert (job.outcome, job.attempts) == (Outcome.FAILED, 10)


async def test_between_two_attempts_the_job_is_pending_and_its_worker_is_free(
    autojump_clock: MockClock,
) -> None:
    outage = Outage(until=50)
    table = {"send": handler(outage, attempts=3, base=100), "other": Outage(until=0)}

    async with open_jobs(table, workers=1) as jobs:
        job = jobs.submit("send")
        other = await jobs.wait(jobs.submit("other").id)
        between = jobs.get(job.id)
        ended = await jobs.wait(job.id)

    assert other.outcome is Outcome.SUCCEEDED
    assert (between.status, between.waiting) == (JobStatus.PENDING, Waiting.RETRYING)
    assert between.last_error == JobError(type="OSError", message="busy")
    assert ended.outcome is Outcome.SUCCEEDED
    assert trio.current_time() == 100


async def test_a_handler_decides_for_itself(autojump_clock: MockClock) -> None:
    times = []
    answers = iter(
        [Snooze(10), Retry(after=5), Snooze(100), OSError("busy"), GiveUp("no such customer")]
    )

    async def send(_payload: object, context: JobContext) -> None:
        times.append((trio.current_time(), context.attempt))
        raise next(answers)

    policy = RetryPolicy(attempts=4, backoff=[30], jitter=False)
    async with open_jobs({"send": Handler.of(send, retry=policy)}, workers=1) as jobs:
        job = await jobs.wait(jobs.submit("send").id)

    assert times == [(0, 1), (10, 1), (15, 2), (115, 2), (145, 3)]
    assert (job.attempts, job.snoozes) == (3, 2)
    assert job.ending is not None
    assert job.ending.error == JobError(type="GiveUp", message="no such customer")


async def test_a_snooze_from_a_thread_needs_no_policy() -> None:
    # On the real clock: a mock clock would jump over the thread.
    answers = iter([Snooze(0), Snooze(0.001), None])

    def work(_payload: object) -> str:
        answer = next(answers)
        if answer is not None:
            raise answer
        return "done"

    async with open_jobs({"work": work}, workers=1) as jobs:
        job = await jobs.wait(jobs.submit("work").id)

    assert (job.outcome, job.attempts, job.snoozes) == (Outcome.SUCCEEDED, 1, 2)


@pytest.mark.interleavings(20)
async def test_a_cancel_between_two_attempts_ends_the_job_at_once(
    autojump_clock: MockClock,
) -> None:
    outage = Outage(until=float("inf"))

    async with open_jobs({"send": handler(outage, attempts=10, base=DAY)}, workers=2) as jobs:
        job = jobs.submit("send")
        await trio.sleep(10)
        jobs.cancel(job.id)
        ended = await jobs.wait(job.id)

    assert ended.outcome is Outcome.CANCELLED
    assert trio.current_time() == 10
    assert len(outage.ran) == 1


@pytest.mark.interleavings(20)
async def test_a_cancel_at_the_instant_of_a_failure_is_one_or_the_other(
    autojump_clock: MockClock,
) -> None:
    ran = []

    async def send(_payload: object) -> None:
        ran.append(trio.current_time())
        await trio.sleep(1)
        raise OSError("busy")

    policy = RetryPolicy(attempts=10, base=5)
    async with open_jobs({"send": Handler.of(send, retry=policy)}, workers=2) as jobs:
        job = jobs.submit("send")
        await trio.sleep(1)
        jobs.cancel(job.id)
        ended = await jobs.wait(job.id)

    assert ended.outcome is Outcome.CANCELLED
    assert (ran, trio.current_time()) == ([0], 1)


async def test_the_log_has_a_line_for_each_attempt(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage(until=9)

    with caplog.at_level(logging.INFO):
        async with open_jobs({"send": handler(outage, attempts=3)}, workers=1) as jobs:
            jobs.submit("send")
            await trio.sleep(11)  # the pool's end does not wait for what waits

    lines = [
        (record.message, getattr(record, "attempt", None), getattr(record, "seconds", None))
        for record in caplog.records
        if record.message.startswith(("job_", "handler_"))
    ]
    assert lines == [
        ("handler_raised", None, None),
        ("job_postponed", 1, 2.0),
        ("handler_raised", None, None),
        ("job_postponed", 2, 8.0),
    ]


async def test_log_has_times_in_microseconds(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    retry = RetryPolicy(attempts=2, backoff=[2.123456789], jitter=False)
    table = {"send": Handler.of(Outage(until=1), retry=retry)}

    async with open_jobs(table, workers=1) as jobs:
        await jobs.wait(jobs.submit("send").id)

    [line] = [each for each in caplog.records if each.message == "job_postponed"]
    assert vars(line)["seconds"] == 2.123457
    assert vars(line)["duration"] == round(vars(line)["duration"], 6)


@few_or_many(8, 30)
def test_no_two_attempts_of_a_job_run_at_the_same_time(examples: int) -> None:
    @others
    @settings(max_examples=examples)
    @given(random=st.randoms(use_true_random=False), schedule=st.random_module())
    def check(random: Any, schedule: object) -> None:  # noqa: ANN401
        attempts_never_overlap(random)

    check()


def attempts_never_overlap(random: Any) -> None:  # noqa: ANN401
    running: set[str] = set()

    async def work(payload: object, context: JobContext) -> None:
        assert context.id not in running
        running.add(context.id)
        try:
            await trio.sleep(random.choice([0, 1, 2]))
        finally:
            running.remove(context.id)
        raise random.choice([ValueError(), Retry(after=0), Retry(), Snooze(1), GiveUp()])

    async def run() -> None:
        policy = RetryPolicy(attempts=5, backoff=[0, 1, 2], jitter=False)
        table = {"work": Handler.of(work, retry=policy, timeout=1.5)}
        async with open_jobs(table, workers=4) as jobs:
            submitted = [jobs.submit("work", delay=random.choice([0, 1])) for _ in range(20)]
            await trio.sleep(random.choice([0, 1, 2]))
            for job in random.sample(submitted, 3):
                with suppress(InvalidTransitionError):
                    jobs.cancel(job.id)
            ended = [await jobs.wait(job.id) for job in submitted]

        for job in ended:
            assert job.status is JobStatus.COMPLETED
            assert job.attempts <= 5

    trio.run(run, clock=MockClock(autojump_threshold=0))


def identity(job: Job) -> tuple[str, str, bytes]:
    return job.id, job.type, job.payload


async def test_a_job_stays_the_same_in_all_its_attempts(autojump_clock: MockClock) -> None:
    outage = Outage(until=5)

    async with open_jobs({"send": handler(outage, attempts=3)}, workers=1) as jobs:
        job = jobs.submit("send", {"to": "you"})
        ended = await jobs.wait(job.id)

    assert identity(ended) == identity(job)
    assert ended.created_at == job.created_at
