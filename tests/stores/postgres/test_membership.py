"""The lease of a server: it cuts the running jobs before another server may take them over."""

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_jobs.job import Ending, Job, Later, Outcome
from trio_jobs.pool.worker import Process
from trio_jobs.stores.postgres.membership import CUT, Membership

SUCCEEDED = Ending(outcome=Outcome.SUCCEEDED, result=b"1")


def make_job(job_id: str = "a") -> Job:
    return Job(id=job_id, type="t", payload=b"null", created_at=datetime.now(UTC))


class Server:
    """A membership, and what it has told its server."""

    def __init__(self, handler: Callable[[], Awaitable[object]] | None = None) -> None:
        self.lost: list[int] = []
        self.cut: list[str] = []
        self.here = {"a", "b"}
        self.begun: list[str] = []
        self.membership = Membership(self.lost.append)
        self._handler = handler

    @contextmanager
    def for_worker(self) -> Iterator[Process]:
        async def process(job: Job) -> Ending | Later:
            self.begun.append(job.id)
            if self._handler is not None:
                await self._handler()
            return SUCCEEDED

        yield process

    async def run(self, job: Job | None = None) -> Ending | Later:
        block = self.membership.around(
            self.for_worker, is_here=self.here.__contains__, cut=self.cut.append
        )
        with block() as process:
            return await process(job or make_job())


@pytest.fixture
async def guarded(nursery: trio.Nursery) -> Server:
    server = Server(trio.sleep_forever)
    server.membership.joined(7, trio.current_time() + 15)
    nursery.start_soon(server.membership.guard)
    return server


async def test_a_job_that_ends_in_time_gives_its_end(autojump_clock: MockClock) -> None:
    server = Server()
    server.membership.joined(7, trio.current_time() + 15)

    assert await server.run() == SUCCEEDED
    assert server.cut == []


async def test_the_lease_cuts_a_running_job(autojump_clock: MockClock, guarded: Server) -> None:
    began = trio.current_time()

    assert await guarded.run() is CUT

    assert trio.current_time() == began + 15
    assert guarded.cut == ["a"]


async def test_each_renewal_moves_the_end_of_running_jobs(
    autojump_clock: MockClock, guarded: Server, nursery: trio.Nursery
) -> None:
    began = trio.current_time()

    async def renew() -> None:
        for _ in range(3):
            sent = trio.current_time()
            await trio.sleep(5)
            assert guarded.membership.renewed(sent + 15)

    nursery.start_soon(renew)

    assert await guarded.run() is CUT
    assert trio.current_time() == began + 25


async def test_a_lease_that_runs_out_is_lost_without_any_running_job(
    autojump_clock: MockClock, guarded: Server
) -> None:
    await trio.sleep(16)

    assert guarded.lost == [7]
    assert (guarded.membership.id, guarded.membership.deadline) == (0, -math.inf)


async def test_a_renewal_that_comes_too_late_does_not_revive_the_lease() -> None:
    server = Server()
    server.membership.joined(7, trio.current_time() - 1)  # the process was frozen; no guard has run

    assert not server.membership.renewed(trio.current_time() + 15)

    assert server.lost == [7]
    assert not server.membership.holds


async def test_no_job_begins_after_the_lease_has_run_out() -> None:
    server = Server()
    server.membership.joined(7, trio.current_time() - 1)

    assert await server.run() is CUT
    assert server.begun == []
    assert server.cut == []


async def test_a_job_of_an_earlier_membership_does_not_begin() -> None:
    server = Server()
    server.membership.joined(7, trio.current_time() + 15)
    server.membership.lost()
    server.here.clear()
    server.membership.joined(8, trio.current_time() + 15)

    assert await server.run() is CUT
    assert server.begun == []


async def test_a_lost_membership_is_told_once_and_cuts_at_once(
    autojump_clock: MockClock, guarded: Server, nursery: trio.Nursery
) -> None:
    began = trio.current_time()
    ends: list[Ending | Later] = []

    async def run() -> None:
        ends.append(await guarded.run())

    nursery.start_soon(run)
    await wait_all_tasks_blocked()
    guarded.membership.lost()
    guarded.membership.lost()
    await wait_all_tasks_blocked()

    assert ends == [CUT]
    assert guarded.lost == [7]
    assert trio.current_time() == began


async def test_the_next_lease_is_guarded_as_the_first(
    autojump_clock: MockClock, guarded: Server
) -> None:
    guarded.membership.lost()
    await wait_all_tasks_blocked()
    guarded.membership.joined(8, trio.current_time() + 15)

    assert await guarded.run() is CUT
    assert guarded.lost == [7, 8]


async def test_a_handler_that_ends_while_it_is_cut_has_ended(autojump_clock: MockClock) -> None:
    async def keep() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    server = Server(keep)
    server.membership.joined(7, trio.current_time() + 15)

    assert await server.run() == SUCCEEDED
    assert server.cut == []


async def test_a_pool_that_ends_cancels_its_workers_all_the_same(
    autojump_clock: MockClock, guarded: Server
) -> None:
    with trio.move_on_after(1) as scope:
        await guarded.run()

    assert scope.cancelled_caught
    assert guarded.cut == []


async def test_a_worker_that_waits_outlives_the_lease_and_is_cut_by_the_next(
    autojump_clock: MockClock, guarded: Server
) -> None:
    handlers: list[Callable[[], Awaitable[object]]] = [
        trio.lowlevel.checkpoint,
        trio.sleep_forever,
        trio.sleep_forever,
        trio.lowlevel.checkpoint,
    ]
    server = Server(lambda: handlers.pop(0)())
    server.membership = guarded.membership
    block = server.membership.around(
        server.for_worker, is_here=server.here.__contains__, cut=server.cut.append
    )

    with block() as process:
        ends = [await process(make_job("a"))]
        await trio.sleep(16)
        assert not server.membership.id
        for member in (8, 9):
            server.membership.joined(member, trio.current_time() + 15)
            ends.append(await process(make_job("b")))
        server.membership.joined(10, trio.current_time() + 15)
        ends.append(await process(make_job("a")))

    assert ends == [SUCCEEDED, CUT, CUT, SUCCEEDED]
    assert server.cut == ["b", "b"]


async def test_a_job_that_raises_leaves_no_scope_of_the_lease_around_its_worker(
    autojump_clock: MockClock,
) -> None:
    server = Server(fail)
    server.membership.joined(7, trio.current_time() + 15)
    block = server.membership.around(
        server.for_worker, is_here=server.here.__contains__, cut=server.cut.append
    )

    with pytest.raises(ValueError, match="a bug"), block() as process:
        await process(make_job())
    await trio.sleep(16)

    assert server.cut == []


async def fail() -> None:
    raise ValueError("a bug")
