"""Re-runs in a pool inside a Trio program."""

import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from trio_jobs import (
    Handler,
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


# Many together.


async def failed(jobs: Jobs, types: Iterable[str]) -> list[str]:
    """Submit jobs of these types, and wait for them."""
    ids = [(await jobs.submit_when_possible(type_)).id for type_ in types]
    for job_id in ids:
        await jobs.wait(job_id)
    return ids


async def test_filters_select_those_that_did_not_succeed_and_the_oldest_come_first() -> None:
    flaky = Flaky()
    async with open_jobs({"a": flaky.__call__, "b": flaky.__call__}, buffer_size=1) as jobs:
        ids = await failed(jobs, "aabab")
        flaky.mended = True
        submitted = jobs.submit("a")
        await jobs.wait(submitted.id)

        some = await jobs.rerun_all(type=["a"], limit=1)
        some += await jobs.rerun_all(limit=1)  # the limit does not count what was re-run
        rest = await jobs.rerun_all(outcome=[Outcome.FAILED])

        assert [job.rerun_of for job in some] == ids[:2]
        assert [job.rerun_of for job in rest] == ids[2:]
        for job in (*some, *rest):
            assert await jobs.result(job.id) is None
        assert await jobs.rerun_all() == []


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"outcome": "failed"}, "outcome must be a list of one or more non-empty texts, got 'fai"),
        ({"outcome": Outcome.FAILED}, "outcome must be a list"),
        ({"outcome": []}, "outcome must be a list"),
        ({"outcome": 5}, "outcome must be a list"),
        (
            {"outcome": ["done"]},
            "outcome must be some of failed, timed_out, interrupted",
        ),
        ({"outcome": [Outcome.SUCCEEDED]}, "outcome must be some of"),
        ({"type": "a"}, "type must be a list"),
        ({"type": iter(())}, "type must be a list"),
        ({"type": [None]}, "type must be a list"),
        ({"type": [""]}, "type must be a list"),
        ({"limit": 0}, "limit must be an integer of at least 1, got 0"),
        ({"limit": True}, "limit must be an integer of at least 1, got True"),
        ({"limit": 1.0}, "limit must be an integer"),
    ],
)
async def test_what_is_no_filter_is_refused(filters: dict[str, Any], text: str) -> None:
    async with open_jobs({"a": Flaky().__call__}) as jobs:
        await failed(jobs, "a")
        with pytest.raises(ValueError, match=re.escape(text)):
            await jobs.rerun_all(**filters)
        assert len(jobs.page()) == 1


async def test_all_or_none_within_max_waiting_and_while_the_pool_is_open() -> None:
    async with open_jobs({"a": Flaky().__call__}, max_waiting=2) as jobs:
        ids = await failed(jobs, "aaa")
        with pytest.raises(QueueFullError, match="3 jobs to re-run, and 2 more may wait"):
            await jobs.rerun_all()
        assert [job.id for job in jobs.page()] == ids
        await jobs.drain()
        with pytest.raises(ShuttingDownError):
            await jobs.rerun_all()
        with pytest.raises(ShuttingDownError):
            await jobs.rerun_all(type=["none"])
        assert [job.rerun_as for job in jobs.page()] == [None] * 3


async def test_jobs_of_a_limited_type_are_rerun_beyond_its_limit_and_held() -> None:
    running: list[None] = []
    most = 0

    async def fail(_: object) -> None:
        nonlocal most
        running.append(None)
        most = max(most, len(running))
        await trio.lowlevel.checkpoint()
        running.pop()
        raise ValueError

    handlers = {"a": Handler.of(fail, max_running=1)}
    async with open_jobs(handlers, workers=3, buffer_size=2) as jobs:
        ids = await failed(jobs, "a" * 9)

        new = await jobs.rerun_all()

        assert [job.rerun_of for job in new] == ids
        for job in new:
            assert (await jobs.wait(job.id)).outcome is Outcome.FAILED
    assert most == 1


@pytest.mark.interleavings(30)
@pytest.mark.parametrize("meanwhile", ["rerun all", "rerun", "delete", "drop", "close"])
async def test_each_job_is_rerun_once_whatever_happens_meanwhile(
    meanwhile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_jobs.pool.reruns._STRIDE", 2)
    flaky = Flaky()
    handlers = {"a": flaky.__call__, "b": flaky.__call__}
    async with open_jobs(handlers, keep_failed=9 if meanwhile == "drop" else 1000) as jobs:
        ids = await failed(jobs, "a" * 9)
        made: list[list[Job]] = []

        async def rerun_all() -> None:
            with suppress(ShuttingDownError):
                made.append(await jobs.rerun_all())

        async def interfere() -> None:
            for job_id in reversed(ids):
                await trio.lowlevel.checkpoint()
                match meanwhile:
                    case "rerun all":
                        made.append(await jobs.rerun_all(limit=2))
                    case "rerun":
                        with suppress(InvalidTransitionError, JobNotFoundError):
                            made.append([jobs.rerun(job_id)])
                    case "delete":
                        jobs.delete(job_id)
                    case "drop":
                        jobs.submit("b")
                    case "close" if job_id == ids[5]:
                        await jobs.drain()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rerun_all)
            nursery.start_soon(interfere)

        new = [job for some in made for job in some]
        rerun = Counter(job.rerun_of for job in new)
        assert not rerun or max(rerun.values()) == 1
        if meanwhile in ("rerun all", "rerun"):
            assert rerun.keys() >= set(ids)
        for job in new:
            with suppress(JobNotFoundError):  # dropped
                assert (await jobs.wait(job.id)).outcome is Outcome.FAILED
    calls = len(ids) + len(new) + (len(ids) if meanwhile == "drop" else 0)
    assert len(flaky.calls) == calls


async def test_cancelled_call_has_rerun_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_jobs.pool.reruns._STRIDE", 2)
    async with open_jobs({"a": Flaky().__call__}) as jobs:
        ids = await failed(jobs, "a" * 7)
        for step in count(1):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_after, scope, step)
                    new = await jobs.rerun_all()
                    nursery.cancel_scope.cancel()
            if not scope.cancelled_caught:
                break
            assert [job.id for job in jobs.page()] == ids
        assert step > 3
        assert [job.rerun_of for job in new] == ids


async def cancel_after(scope: trio.CancelScope, steps: int) -> None:
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    scope.cancel()
