"""One task ends each wait that takes too long, and no other."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_jobs.pool.disk_timer import DiskTimer

SECONDS = 10.0


class Wait:
    """A task that waits: when its wait has ended, and whether in time."""

    def __init__(self, timer: DiskTimer, nursery: trio.Nursery) -> None:
        self.over = trio.Event()
        self.result: tuple[float, bool] | None = None
        self.scope = trio.CancelScope()

        @nursery.start_soon
        async def run() -> None:
            with self.scope:
                in_time = await timer.wait(self.over)
                self.result = (trio.current_time(), in_time)


async def test_each_wait_has_its_own_time(mock_clock: MockClock) -> None:
    timer = DiskTimer(SECONDS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer.run)
        await wait_all_tasks_blocked()
        waits = []
        for _ in range(4):
            waits.append(Wait(timer, nursery))
            await wait_all_tasks_blocked()
            mock_clock.jump(3.0)
        waits[1].over.set()
        await wait_all_tasks_blocked()
        assert [wait.result for wait in waits] == [(12.0, False), (12.0, True), None, None]
        mock_clock.jump(3.5)
        await wait_all_tasks_blocked()
        mock_clock.jump(1.0)
        waits[3].over.set()
        await wait_all_tasks_blocked()
        timer.close()

    assert [wait.result for wait in waits[2:]] == [(16.5, False), (16.5, True)]


async def test_waits_after_a_pause_are_timed_too(autojump_clock: MockClock) -> None:
    timer = DiskTimer(SECONDS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer.run)
        await wait_all_tasks_blocked()
        first = Wait(timer, nursery)
        await wait_all_tasks_blocked()
        first.over.set()
        await trio.sleep(95.0)
        second = Wait(timer, nursery)
        await trio.sleep(20.0)
        timer.close()

    assert first.result == (0.0, True)
    assert second.result == (105.0, False)


async def test_wait_without_the_task_is_timed_as_well(autojump_clock: MockClock) -> None:
    timer = DiskTimer(SECONDS)
    async with trio.open_nursery() as nursery:
        late, early = Wait(timer, nursery), Wait(timer, nursery)
        await wait_all_tasks_blocked()
        early.over.set()

    assert early.result == (0.0, True)
    assert late.result == (SECONDS, False)


async def test_task_ends_when_the_timer_is_closed_and_the_last_wait_is_over() -> None:
    timer = DiskTimer(SECONDS)
    ended = trio.Event()

    async def run() -> None:
        await timer.run()
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        first, second = Wait(timer, nursery), Wait(timer, nursery)
        await wait_all_tasks_blocked()
        timer.close()
        first.over.set()
        await wait_all_tasks_blocked()
        assert not ended.is_set()
        second.scope.cancel()
        await ended.wait()

    assert second.result is None


async def test_cancelled_task_ends_the_waits() -> None:
    timer = DiskTimer(SECONDS)
    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(timer.run)
            await wait_all_tasks_blocked()
            wait = Wait(timer, outer)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await wait_all_tasks_blocked()

    assert wait.result is not None
    assert not wait.result[1]


async def test_cancelled_wait_leaves_nothing(autojump_clock: MockClock) -> None:
    timer = DiskTimer(SECONDS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer.run)
        await wait_all_tasks_blocked()
        wait = Wait(timer, nursery)
        await wait_all_tasks_blocked()
        wait.scope.cancel()
        await trio.sleep(3 * SECONDS)
        assert not wait.over.is_set()
        timer.close()

    assert wait.result is None


async def test_wait_that_is_over_as_the_timer_ends_was_in_time() -> None:
    # Trio runs the tasks of a step in any order: the timer comes before some of the others.
    timer = DiskTimer(SECONDS)
    async with trio.open_nursery() as nursery, trio.open_nursery() as timing:
        timing.start_soon(timer.run)
        await wait_all_tasks_blocked()
        waits = [Wait(timer, nursery) for _ in range(30)]
        await wait_all_tasks_blocked()
        for wait in waits:
            wait.over.set()
        timing.cancel_scope.cancel()

    assert [wait.result is not None and wait.result[1] for wait in waits] == [True] * 30
