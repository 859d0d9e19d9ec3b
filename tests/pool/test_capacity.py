"""Capacity: how many slots there are, who gets them, and how long they take to come free."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_jobs.pool.capacity import Capacity


async def test_slots_are_those_of_the_buffer_and_of_the_running_workers() -> None:
    capacity = Capacity(2)
    assert (capacity.buffer_size, capacity.free, capacity.closed) == (2, 2, False)

    capacity.slot_freed()
    assert capacity.free == 3
    capacity.slot_lost()
    assert capacity.free == 2
    capacity.slot_freed(3)
    assert capacity.free == 5


async def test_reserving_takes_all_or_says_how_many_are_missing() -> None:
    capacity = Capacity(5)

    assert [capacity.reserve(wanted) for wanted in (7, 3, 3, 0, 2, 1, 0)] == [2, 0, 1, 0, 0, 1, 0]
    assert capacity.free == 0


async def test_empty_batch_needs_no_slot_even_if_slots_are_lost() -> None:
    capacity = Capacity(1)
    capacity.reserve(1)
    capacity.slot_lost()

    assert [capacity.reserve(wanted, batch=True) for wanted in (0, 1)] == [0, 2]
    assert capacity.free == -1


@pytest.mark.parametrize(
    ("buffer_size", "wanted", "reserved"),
    [(4, 9, 3), (4, 3, 3), (4, 2, 2), (2, 9, 1), (1, 9, 1), (4, 0, 0)],
)
async def test_without_waiting_those_free_are_reserved_but_the_last(
    buffer_size: int, wanted: int, reserved: int
) -> None:
    capacity = Capacity(buffer_size)

    assert capacity.reserve_up_to_nowait(wanted) == reserved
    assert capacity.free == buffer_size - reserved


async def test_without_waiting_nothing_is_reserved_before_the_tasks_that_wait() -> None:
    capacity = Capacity(3)
    capacity.reserve(3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(capacity.reserve_up_to, 1)
        await wait_all_tasks_blocked()
        capacity.slot_freed(3)  # the waiting task has not run yet
        assert capacity.reserve_up_to_nowait(1) == 0
        assert capacity.free == 3
    assert capacity.free == 2
    assert capacity.reserve_up_to_nowait(1) == 1


@pytest.mark.parametrize("free", [0, 3])
async def test_closing_ends_each_wait_with_no_slot(free: int) -> None:
    capacity = Capacity(3)
    capacity.reserve(3)
    reserved: list[int] = []

    async def wait() -> None:
        reserved.append(await capacity.reserve_up_to(1))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert reserved == []
        capacity.slot_freed(free)
        capacity.close()
        capacity.close()

    assert reserved == [0, 0, 0]
    assert await capacity.reserve_up_to(1) == capacity.reserve_up_to_nowait(1) == 0
    assert (capacity.free, capacity.closed) == (free, True)


async def test_waiting_task_that_is_cancelled_lets_the_next_one_have_its_turn() -> None:
    capacity = Capacity(2)
    capacity.reserve(2)
    reserved: list[int] = []

    async def wait(scope: trio.CancelScope) -> None:
        with scope:
            reserved.append(await capacity.reserve_up_to(2))

    first = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, first)
        await wait_all_tasks_blocked()
        nursery.start_soon(wait, trio.CancelScope())
        await wait_all_tasks_blocked()
        first.cancel()
        capacity.slot_freed(2)

    assert (reserved, capacity.free) == ([1], 1)


async def test_only_the_last_64_claims_and_of_these_the_last_minutes_count(
    autojump_clock: MockClock,
) -> None:
    capacity = Capacity(1)
    capacity.measure_claim()
    await trio.sleep(32)
    assert [capacity.retry_after(), capacity.retry_after(2), capacity.retry_after(0)] == [32, 60, 1]
    for _ in range(63):
        capacity.measure_claim()
    assert capacity.retry_after(64) == 32
    capacity.measure_claim()  # the 65th: the first one counts no more
    assert capacity.retry_after(64) == 1
    await trio.sleep(60)
    assert capacity.retry_after(64) == 60  # exactly a minute: all count
    await trio.sleep(0.5)
    assert capacity.retry_after() == 60  # the last one alone
