"""A handler that is cancelled at each of its steps."""

import pytest
import trio
from trio.testing import MockClock

from trio_jobs import Handler, JobContext, PayloadError
from trio_jobs.testing import cancelled_at_each_step


async def test_handler_is_cancelled_in_each_of_its_waits(autojump_clock: MockClock) -> None:
    waits: list[int] = []

    async def three_waits(_payload: object) -> None:
        for wait in range(3):
            try:
                await trio.sleep(10)
            except trio.Cancelled:
                waits.append(wait)
                raise

    attempts = [attempt async for attempt in cancelled_at_each_step(three_waits)]

    # Also at the last instant of a sleep.
    assert waits == [0, 0, 1, 2]
    assert [attempt.step for attempt in attempts] == [None, 0, 1, 2, 3]
    assert [attempt.returned for attempt in attempts] == [True, False, False, False, False]
    assert {attempt.steps for attempt in attempts} == {3}


async def test_tasks_in_the_jobs_nursery_are_among_the_steps(autojump_clock: MockClock) -> None:
    left: list[str] = []

    async def child(name: str) -> None:
        left.append(name)
        try:
            await trio.sleep(1)
            await trio.sleep(1)
        finally:
            left.remove(name)

    async def parent(names: list[str], job: JobContext) -> None:
        for name in names:
            job.nursery.start_soon(child, name)

    steps = 0
    async for attempt in cancelled_at_each_step(parent, ["a", "b"]):
        assert left == []
        steps = attempt.steps

    assert steps >= 6  # two waits of each child's, and its start


async def test_what_is_left_behind_is_found_by_the_body_of_the_loop(
    autojump_clock: MockClock,
) -> None:
    taken: list[int] = []

    async def forgets(_payload: object) -> None:
        taken.append(1)
        await trio.sleep(1)  # no finally
        taken.clear()

    found = []
    async for _ in cancelled_at_each_step(forgets):
        found.append(bool(taken))
        taken.clear()

    assert found == [False, True, True]


async def test_cleanup_that_fails_is_named_with_its_step(autojump_clock: MockClock) -> None:
    async def bad_cleanup(_payload: object) -> None:
        await trio.sleep(1)
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            raise KeyError("connection") from None

    with pytest.raises(AssertionError, match=r"bad_cleanup, cancelled at step 2, raised KeyErr"):
        async for _ in cancelled_at_each_step(bad_cleanup):
            pass


async def test_cleanup_that_fails_in_the_jobs_nursery_is_named_with_its_step(
    autojump_clock: MockClock,
) -> None:
    async def child() -> None:
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            raise KeyError("connection") from None

    async def parent(_payload: object, job: JobContext) -> None:
        job.nursery.start_soon(child)

    with pytest.raises(AssertionError, match=r"parent, cancelled at step \d, raised KeyError"):
        async for _ in cancelled_at_each_step(parent):
            pass


async def test_scope_that_is_left_open_is_named_with_its_step(autojump_clock: MockClock) -> None:
    async def leaves_open(_payload: object) -> None:
        scope = trio.CancelScope()
        scope.__enter__()
        await trio.sleep(1)
        scope.__exit__(None, None, None)

    with pytest.raises(
        AssertionError, match=r"cancelled at step 0, raised RuntimeError\('Cancel s"
    ):
        async for _ in cancelled_at_each_step(leaves_open):
            pass


async def test_handler_that_ends_its_children_when_it_is_cancelled_does_well(
    autojump_clock: MockClock,
) -> None:
    async def ends_its_children(_payload: object, job: JobContext) -> None:
        job.nursery.start_soon(trio.sleep_forever)
        try:
            await trio.sleep(1)
        finally:
            job.nursery.cancel_scope.cancel()

    attempts = [attempt async for attempt in cancelled_at_each_step(ends_its_children)]

    assert not attempts[1].returned


async def test_handler_has_returned_when_its_children_have_ended(
    autojump_clock: MockClock,
) -> None:
    async def parent(_payload: object, job: JobContext) -> None:
        job.nursery.start_soon(trio.sleep, 1)

    attempts = [attempt async for attempt in cancelled_at_each_step(parent)]

    assert not any(attempt.returned for attempt in attempts[1:-1])
    # At the last step the child has ended, and nothing is waited for any more.
    assert attempts[-1].step == attempts[-1].steps
    assert attempts[-1].returned


async def test_handler_that_shields_its_work_returns(autojump_clock: MockClock) -> None:
    async def shields(_payload: object) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)

    assert [attempt.returned async for attempt in cancelled_at_each_step(shields)] == [True] * 3


async def test_handler_has_to_succeed_when_nothing_cancels_it() -> None:
    async def fails(_payload: object) -> None:
        raise ValueError("no")

    with pytest.raises(AssertionError, match=r"did not succeed: .*'no'"):
        await anext(cancelled_at_each_step(fails))


async def test_payload_is_checked_and_made_as_for_a_job(autojump_clock: MockClock) -> None:
    async def takes_number(number: int) -> None:
        assert isinstance(number, int)
        await trio.sleep(number)

    assert len([attempt async for attempt in cancelled_at_each_step(takes_number, 5)]) == 3
    with pytest.raises(PayloadError, match=r"^\$\.payload: expected int, got str$"):
        await anext(cancelled_at_each_step(takes_number, "5"))


async def test_only_a_handler_on_trio_has_steps() -> None:
    def plain(_payload: object) -> None:
        pass

    async def on_asyncio(_payload: object) -> None:
        pass

    for handler in (Handler.of(plain), Handler.of(on_asyncio, run="asyncio")):
        name = handler.name.rpartition(".")[2]
        with pytest.raises(ValueError, match=rf'{name} has run = "{handler.run}"$'):
            await anext(cancelled_at_each_step(handler))
