"""Waiting for a job: who waits is handed the completed job itself, and leaves nothing behind."""

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.support import SUCCEEDED, Parts, make_job, make_parts
from trio_jobs import Job, JobStatus
from trio_jobs.pool.waiters import CompletionWaiters, TooManyWaitersError


async def wait_for(parts: Parts, job_id: str, got: list[Job | None]) -> None:
    with parts.waiters.subscribe(job_id) as completion:
        await completion.wait()
        got.append(completion.job)


def begin(parts: Parts, *names: str) -> None:
    for name in names:
        parts.store.add(make_job(name))
        parts.workers.claim(name)


async def test_everyone_who_waits_for_a_job_gets_it_as_it_completed() -> None:
    parts = make_parts()
    begin(parts, "a", "b")
    got: list[Job | None] = []

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait_for, parts, "a", got)
        await wait_all_tasks_blocked()
        parts.workers.complete("b", SUCCEEDED)
        await wait_all_tasks_blocked()
        assert got == []
        completed = parts.workers.complete("a", SUCCEEDED)

    assert got == [completed] * 3
    assert completed.status is JobStatus.COMPLETED
    assert parts.waiters.count == 0


async def test_a_job_that_completes_as_its_waiter_gives_up_still_reaches_it() -> None:
    parts = make_parts(keep_completed=0)
    begin(parts, "a")

    with parts.waiters.subscribe("a") as completion:
        with trio.CancelScope() as scope:
            scope.cancel()
            await completion.wait()
        completed = parts.workers.complete("a", SUCCEEDED)

        assert completion.job == completed


async def test_the_end_of_the_pool_wakes_everyone_without_a_job_now_and_later() -> None:
    parts = make_parts()
    begin(parts, "a", "b")
    got: list[Job | None] = []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for, parts, "a", got)
        nursery.start_soon(wait_for, parts, "b", got)
        await wait_all_tasks_blocked()
        parts.waiters.end()
    await wait_for(parts, "a", got)
    parts.waiters.end()

    assert got == [None, None, None]


async def test_one_more_than_may_wait_is_refused_until_another_leaves() -> None:
    parts = make_parts(max_waiters=2)

    with parts.waiters.subscribe("a"), parts.waiters.subscribe("a"):
        with (
            pytest.raises(TooManyWaitersError, match="2 tasks wait already"),
            parts.waiters.subscribe("b"),
        ):
            pass
        assert parts.waiters.count == 2
    with parts.waiters.subscribe("b"):
        pass


@pytest.mark.interleavings(20)
async def test_waiters_come_and_go_and_the_last_ones_are_woken() -> None:
    parts = make_parts()
    begin(parts, "a")
    got: list[Job | None] = []
    stayed: list[Job | None] = []

    async with trio.open_nursery() as nursery:
        for steps in range(10):

            @nursery.start_soon
            async def leave(steps: int = steps) -> None:
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as inner:
                        inner.start_soon(wait_for, parts, "a", got)
                        for _ in range(steps):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()

        for _ in range(4):
            await trio.lowlevel.checkpoint()
        nursery.start_soon(wait_for, parts, "a", stayed)
        await wait_all_tasks_blocked()
        completed = parts.workers.complete("a", SUCCEEDED)

    assert stayed == [completed]
    assert parts.waiters.count == 0
    assert not parts.waiters.completions


async def test_waiting_is_a_checkpoint_also_when_there_is_nothing_to_wait_for() -> None:
    parts = make_parts()
    parts.waiters.end()

    with parts.waiters.subscribe("a") as completion, assert_checkpoints():
        await completion.wait()


async def test_functions_are_called_once_with_the_job_as_it_completed() -> None:
    parts = make_parts(keep_completed=0)
    begin(parts, "a", "b")
    calls: list[tuple[str, str, Job | None]] = []

    def first(job_id: str, job: Job | None) -> None:
        calls.append(("first", job_id, job))

    def second(job_id: str, job: Job | None) -> None:
        calls.append(("second", job_id, job))

    parts.waiters.call("a", first)
    parts.waiters.call("a", second)
    parts.workers.complete("b", SUCCEEDED)
    assert calls == []
    with parts.waiters.subscribe("a") as completion:
        completed = parts.workers.complete("a", SUCCEEDED)
        assert completion.job == completed

    assert calls == [("first", "a", completed), ("second", "a", completed)]
    parts.waiters.notify(completed)
    assert len(calls) == 2


async def test_function_that_is_forgotten_is_not_called_and_others_are() -> None:
    parts = make_parts()
    begin(parts, "a", "b")
    got: list[Job | None] = []
    others: list[Job | None] = []

    def forgotten(_job_id: str, job: Job | None) -> None:
        got.append(job)

    def other(_job_id: str, job: Job | None) -> None:
        others.append(job)

    parts.waiters.call("a", forgotten)
    parts.waiters.call("a", other)
    parts.waiters.call("b", forgotten)

    parts.waiters.forget_call("a", forgotten)
    parts.waiters.forget_call("none", forgotten)
    jobs = [parts.workers.complete(name, SUCCEEDED) for name in ("a", "b")]

    assert others == jobs[:1]
    assert got == jobs[1:]


async def test_over_tells_that_the_pool_has_ended() -> None:
    ended: list[bool] = []
    waiters = CompletionWaiters(max_waiters=1, ended=lambda: ended.append(True))
    assert not waiters.over.is_set()

    waiters.end()

    assert waiters.over.is_set()
    assert ended == [True]
