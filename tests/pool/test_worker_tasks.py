"""The number of workers changes while the pool runs."""

import threading
from collections import Counter

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support import RunningPool, cancelled_after, running_pool
from trio_jobs import Handler, JobStatus
from trio_jobs.pool.refusals import ShuttingDownError


class Gate:
    """A handler whose jobs run until they are let through; it counts those that are inside."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self._waiting: list[trio.Event] = []

    async def __call__(self, _payload: object) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        leave = trio.Event()
        self._waiting.append(leave)
        try:
            await leave.wait()
        finally:
            self.inside -= 1

    async def let_through(self, number: int = 1000) -> None:
        for leave in self._waiting[:number]:
            leave.set()
        del self._waiting[:number]
        await wait_all_tasks_blocked()


def names(pool: RunningPool) -> set[str]:
    """The names of the workers' tasks."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    found: set[str] = set()
    tasks = [root]
    while tasks:
        task = tasks.pop()
        for nursery in task.child_nurseries:
            tasks.extend(nursery.child_tasks)
        if task.name.startswith("worker-"):
            found.add(task.name)
    return found


async def test_more_workers_run_more_jobs_at_once() -> None:
    gate = Gate()
    async with running_pool({"gate": gate}, workers=2, buffer_size=20) as pool:
        for _ in range(10):
            pool.submit("gate")
        await wait_all_tasks_blocked()
        assert gate.inside == 2

        await pool.set_workers(7)
        await wait_all_tasks_blocked()

        assert (gate.inside, pool.workers, pool.leaving) == (7, 7, 0)
        assert names(pool) == {f"worker-{n}" for n in range(7)}
        await gate.let_through()
        await gate.let_through()

    assert gate.most == 7


async def test_idle_workers_leave_first_and_at_once() -> None:
    gate = Gate()
    async with running_pool({"gate": gate}, workers=5) as pool:
        jobs = [pool.submit("gate") for _ in range(2)]
        await wait_all_tasks_blocked()

        await pool.set_workers(2)

        assert (len(names(pool)), pool.leaving, gate.inside) == (2, 0, 2)
        await gate.let_through()
        assert [pool.status(job) for job in jobs] == [JobStatus.COMPLETED] * 2


@pytest.mark.interleavings(20)
async def test_idle_workers_have_left_at_the_return_however_many_they_are() -> None:
    async with running_pool({"gate": Gate()}, workers=130) as pool:
        await wait_all_tasks_blocked()
        for number in (3, 80, 3):
            await pool.set_workers(number)
            assert (len(names(pool)), pool.leaving) == (number, 0)
            await wait_all_tasks_blocked()


class Exits(trio.abc.Instrument):
    """How many tasks end in a turn of the event loop, at the most."""

    def __init__(self) -> None:
        self.most = self._now = 0

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self._now += 1
        self.most = max(self.most, self._now)

    def before_io_wait(self, timeout: float) -> None:
        self._now = 0


async def test_however_many_workers_leave_few_do_so_in_one_turn_of_the_loop() -> None:
    exits = Exits()
    async with running_pool({"gate": Gate()}, workers=3000) as pool:
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(exits)

        await pool.set_workers(1)

        trio.lowlevel.remove_instrument(exits)
        assert len(names(pool)) == 1
    assert exits.most <= 50


async def test_busy_worker_leaves_when_its_job_has_ended_and_takes_no_other() -> None:
    gate = Gate()
    async with running_pool({"gate": gate}, workers=3) as pool:
        jobs = [pool.submit("gate") for _ in range(6)]
        await wait_all_tasks_blocked()

        await pool.set_workers(1)
        await wait_all_tasks_blocked()
        assert (pool.workers, pool.leaving, gate.inside) == (1, 2, 3)
        await gate.let_through(2)
        await gate.let_through(1)

        assert (pool.leaving, gate.inside, len(names(pool))) == (0, 1, 1)
        for _ in range(3):
            await gate.let_through()
        assert [pool.status(job) for job in jobs] == [JobStatus.COMPLETED] * 6


async def test_no_worker_starts_beside_leaving_ones_beyond_the_number_asked_for() -> None:
    gate = Gate()
    async with running_pool({"gate": gate}, workers=6) as pool:
        for _ in range(20):
            pool.submit("gate")
        await wait_all_tasks_blocked()

        await pool.set_workers(1)
        await pool.set_workers(4)
        await wait_all_tasks_blocked()
        assert (pool.workers, pool.leaving, gate.inside) == (4, 5, 6)
        inside = []
        for _ in range(6):
            await gate.let_through(1)
            inside.append(gate.inside)

        assert inside == [5, 4, 4, 4, 4, 4]  # the others start in the places of leaving ones
        assert (pool.leaving, len(names(pool))) == (0, 4)
        for _ in range(6):
            await gate.let_through()

    assert gate.most == 6


async def test_names_of_workers_are_unique() -> None:
    seen: Counter[str] = Counter()

    class Note(trio.abc.Instrument):
        def task_spawned(self, task: trio.lowlevel.Task) -> None:
            seen[task.name] += task.name.startswith("worker-")

    async with running_pool({}, workers=1) as pool:
        trio.lowlevel.add_instrument(Note())
        for number in (4, 1, 3, 2, 5):
            await pool.set_workers(number)
            await wait_all_tasks_blocked()

    assert seen["worker-1"] == 1
    assert +seen == Counter(f"worker-{n}" for n in range(1, 9))


async def test_slots_follow_the_workers() -> None:
    gate = Gate()
    async with running_pool({"gate": gate}, workers=2, buffer_size=10) as pool:
        await wait_all_tasks_blocked()
        free = []
        for number in (5, 1, 3):
            await pool.set_workers(number)
            await wait_all_tasks_blocked()
            free.append(pool.parts.capacity.free)

    assert free == [15, 11, 13]


async def test_as_many_threads_run_as_there_are_workers() -> None:
    leave = threading.Event()
    inside = threading.Semaphore(0)

    def block(_payload: object) -> None:
        inside.release()
        leave.wait()

    async with running_pool({"block": Handler.of(block)}, workers=2) as pool:
        await pool.set_workers(6)
        for _ in range(10):
            pool.submit("block")
        for _ in range(6):
            await trio.to_thread.run_sync(inside.acquire)
        assert not inside.acquire(blocking=False)
        limiter = pool.thread_limiter
        assert (limiter.total_tokens, limiter.borrowed_tokens) == (6, 6)
        await pool.set_workers(1)
        assert limiter.total_tokens == 6  # none has gone yet
        leave.set()
        while len(names(pool)) > 1:
            await trio.lowlevel.checkpoint()

        assert limiter.total_tokens == 1


@pytest.mark.parametrize("step", range(4))
async def test_cancelled_caller_leaves_no_half_done_change(step: int) -> None:
    async with running_pool({}, workers=1) as pool:
        await cancelled_after(step, lambda: pool.set_workers(200))
        await wait_all_tasks_blocked()

        assert len(names(pool)) == 200


async def test_two_changes_at_once_end_with_the_later_number() -> None:
    async with running_pool({}, workers=1) as pool:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def set_again() -> None:
                while pool.workers != 500:
                    await trio.lowlevel.checkpoint()
                assert len(names(pool)) < 500
                await pool.set_workers(3)

            await pool.set_workers(500)
        await wait_all_tasks_blocked()

        assert (len(names(pool)), pool.workers, pool.leaving) == (3, 3, 0)


@pytest.mark.parametrize("number", [1, 5])
async def test_number_stays_as_it_is_once_the_pool_takes_no_more_jobs(number: int) -> None:
    gate = Gate()
    async with running_pool({"gate": gate}, workers=3) as pool:
        for _ in range(5):
            pool.submit("gate")
        await wait_all_tasks_blocked()
        pool.parts.admission.close()

        with pytest.raises(ShuttingDownError):
            await pool.set_workers(number)

        assert (pool.workers, gate.inside) == (3, 3)
        await gate.let_through()
        await gate.let_through()
        with pytest.raises(ShuttingDownError):
            await pool.set_workers(number)


async def test_stop_during_a_change_ends_it() -> None:
    async with running_pool({}, workers=1) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.set_workers, 10_000)
            while pool.workers != 10_000:
                await trio.lowlevel.checkpoint()
            pool.parts.admission.close()

        assert len(names(pool)) < 200


async def test_drain_waits_for_the_job_of_a_leaving_worker_and_so_do_its_waiters() -> None:
    gate = Gate()
    async with running_pool({"gate": gate}, workers=2) as pool:
        jobs = [pool.submit("gate") for _ in range(2)]
        await wait_all_tasks_blocked()
        await pool.set_workers(1)
        pool.parts.admission.close()
        await gate.let_through()
        assert [pool.status(job) for job in jobs] == [JobStatus.COMPLETED] * 2


@pytest.mark.parametrize("first", [0, 1])
async def test_waiter_gets_the_end_of_a_job_whose_worker_leaves_as_the_last_one(
    first: int,
) -> None:
    gates = [Gate(), Gate()]
    ended: list[JobStatus] = []
    async with running_pool({"0": gates[0], "1": gates[1]}, workers=2) as pool:
        jobs = [pool.submit("0"), pool.submit("1")]
        await wait_all_tasks_blocked()
        await pool.set_workers(1)
        pool.parts.admission.close()
        async with trio.open_nursery() as nursery:
            for job in jobs:

                @nursery.start_soon
                async def wait(job_id: str = job.id) -> None:
                    with pool.parts.waiters.subscribe(job_id) as completion:
                        await completion.wait()
                    assert completion.job is not None
                    ended.append(completion.job.status)

            await wait_all_tasks_blocked()
            # One of them is the leaving one's: whichever ends first, the other's waiter waits.
            await gates[first].let_through()
            assert len(ended) == 1
            await gates[1 - first].let_through()

    assert ended == [JobStatus.COMPLETED] * 2


async def test_last_open_clone_is_never_closed() -> None:
    async with running_pool({}, workers=4) as pool:
        await pool.set_workers(1)
        await wait_all_tasks_blocked()
        assert pool.parts.send.statistics().open_receive_channels == 1
        await pool.set_workers(1)
        assert pool.parts.send.statistics().open_receive_channels == 1
