"""Re-runs in a pool inside a Trio program."""

import pytest
import trio
import trio.testing

from trio_jobs import (
    InvalidTransitionError,
    Job,
    JobNotFoundError,
    Jobs,
    JobUnsuccessfulError,
    Outcome,
    QueueFullError,
    ShuttingDownError,
    open_jobs,
)


class Flaky:
    """A handler that fails until it is mended."""

    def __init__(self) -> None:
        self.mended = False
        self.calls: list[object] = []

    async def __call__(self, payload: object) -> object:
        self.calls.append(payload)
        if not self.mended:
            raise ValueError("not yet")
        return payload


async def test_failed_job_is_rerun_with_its_payload_once() -> None:
    flaky = Flaky()
    async with open_jobs({"a": flaky.__call__}) as jobs:
        old = await jobs.wait(jobs.submit("a", {"n": 1}, key="k").id)
        flaky.mended = True

        new = jobs.rerun(old.id)

        assert (new.rerun_of, new.type, new.key, new.attempts) == (old.id, "a", None, 0)
        assert jobs.get(old.id).rerun_as == new.id
        assert await jobs.result(new.id) == {"n": 1}
        with pytest.raises(InvalidTransitionError, match=f"was re-run already, as '{new.id}'"):
            jobs.rerun(old.id)
        with pytest.raises(InvalidTransitionError, match="has succeeded"):
            jobs.rerun(new.id)
        with pytest.raises(JobUnsuccessfulError):
            await jobs.result(old.id)
    assert flaky.calls == [{"n": 1}, {"n": 1}]


async def test_rerun_is_refused_while_the_job_runs_and_without_room_or_an_open_pool() -> None:
    async def fail(_: object) -> None:
        await trio.sleep(0.01)
        raise ValueError

    async with open_jobs({"a": fail}, workers=1, buffer_size=1) as jobs:
        running = jobs.submit("a")
        with pytest.raises(InvalidTransitionError, match="pending"):
            jobs.rerun(running.id)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(InvalidTransitionError, match="processing"):
            jobs.rerun(running.id)
        await jobs.wait(running.id)
        filling = [jobs.submit("a") for _ in range(2)]
        with pytest.raises(QueueFullError):
            jobs.rerun(running.id)
        for job in filling:
            await jobs.wait(job.id)
        assert jobs.get(running.id).rerun_as is None
        await jobs.drain()
        with pytest.raises(ShuttingDownError):
            jobs.rerun(running.id)
        with pytest.raises(JobNotFoundError):
            jobs.rerun("unknown")
        assert [job.rerun_as for job in jobs.page()] == [None] * 3


async def test_old_job_may_be_gone_when_its_rerun_ends() -> None:
    flaky = Flaky()
    async with open_jobs({"a": flaky.__call__}) as jobs:
        old = await jobs.wait(jobs.submit("a").id)
        new = jobs.rerun(old.id)
        jobs.delete(old.id)

        ended = await jobs.wait(new.id)

        assert (ended.outcome, ended.rerun_of) == (Outcome.FAILED, old.id)
        assert jobs.rerun(new.id).rerun_of == new.id


@pytest.mark.interleavings(20)
async def test_of_many_that_ask_at_the_same_time_one_makes_the_job() -> None:
    flaky = Flaky()
    made: list[Job] = []
    refused: list[str] = []
    async with open_jobs({"a": flaky.__call__}) as jobs:
        old = await jobs.wait(jobs.submit("a").id)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask, jobs, old.id, made, refused)

        [new] = made
        assert len(refused) == 4
        assert [job.id for job in jobs.page()] == [old.id, new.id]


async def ask(jobs: Jobs, job_id: str, made: list[Job], refused: list[str]) -> None:
    await trio.lowlevel.checkpoint()
    try:
        made.append(jobs.rerun(job_id))
    except InvalidTransitionError as error:
        refused.append(str(error))
