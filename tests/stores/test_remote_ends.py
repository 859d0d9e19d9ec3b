"""`RemoteEnds`: what is watched, and that each waiter is told once the database knows the end."""

from collections.abc import Collection
from dataclasses import dataclass, field

import pytest
import trio
from msgspec.structs import replace
from trio.testing import wait_all_tasks_blocked

from tests.support import NOON, SUCCEEDED, make_job
from trio_jobs import Job, JobStatus
from trio_jobs.pool.refusals import StoreUnavailableError
from trio_jobs.pool.waiters import CompletionWaiters
from trio_jobs.stores.remote_ends import RemoteEnds


def ended(job_id: str) -> Job:
    return replace(
        make_job(job_id), status=JobStatus.COMPLETED, completed_at=NOON, ending=SUCCEEDED
    )


@dataclass(kw_only=True)
class Server:
    """One server's waiters, over a database that is a dict."""

    stored: dict[str, Job] = field(default_factory=dict)
    owned: set[str] = field(default_factory=set)
    is_away: bool = False
    reads: list[Collection[str]] = field(default_factory=list)
    wakes: int = 0

    def __post_init__(self) -> None:
        self.ends = RemoteEnds(self.find_many, is_owned=self.owned.__contains__, wake=self.wake)
        self.waiters = CompletionWaiters(max_waiters=100, watch=self.ends.watch)
        self.ends.connect(self.waiters)
        self.told: list[tuple[str, Job | None]] = []

    async def find_many(self, job_ids: Collection[str]) -> list[Job]:
        await trio.lowlevel.checkpoint()
        self.reads.append(job_ids)
        if self.is_away:
            raise StoreUnavailableError
        return [self.stored[job_id] for job_id in job_ids if job_id in self.stored]

    def wake(self) -> None:
        self.wakes += 1

    def tell(self, job_id: str, job: Job | None) -> None:
        self.told.append((job_id, job))

    async def settle(self) -> None:
        """Let `RemoteEnds.run` do all that there is to do."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.ends.run)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


async def test_first_who_waits_for_a_job_of_another_server_lets_a_round_watch_it() -> None:
    server = Server(owned={"here"})

    with server.waiters.subscribe("a"), server.waiters.subscribe("here"):
        assert (server.ends.take(), server.wakes) == (["a"], 1)
        with server.waiters.subscribe("a"):
            assert not server.ends.some_are_to_be_watched


async def test_function_has_its_job_watched_as_a_task_has() -> None:
    server = Server(owned={"here"})

    server.waiters.call("a", server.tell)
    server.waiters.call("here", server.tell)

    assert server.ends.take() == ["a"]


async def test_job_for_which_nothing_waits_any_more_is_not_watched() -> None:
    server = Server()
    with server.waiters.subscribe("a"):
        pass
    server.waiters.call("b", server.tell)
    server.waiters.forget_call("b", server.tell)

    assert server.ends.take() == []


async def test_all_who_wait_are_handed_the_job_that_another_server_has_ended() -> None:
    server = Server(stored={"a": ended("a")})
    server.waiters.call("a", server.tell)

    with server.waiters.subscribe("a") as completion:
        server.ends.note_over(["a", "unknown"])
        await server.settle()
        await completion.wait()

        assert completion.job == ended("a")
    assert server.told == [("a", ended("a"))]
    assert list(map(list, server.reads)) == [["a"]]


async def test_job_whose_end_was_told_is_not_watched_while_its_waiter_has_not_run() -> None:
    server = Server(owned={"a"})

    with server.waiters.subscribe("a") as completion:
        server.owned.clear()
        server.waiters.notify(ended("a"))

        server.ends.watch("a")
        server.ends.watch_all()

        assert server.ends.take() == []
        assert completion.job == ended("a")


async def test_job_that_is_gone_wakes_who_waits_without_it() -> None:
    server = Server()
    server.waiters.call("a", server.tell)

    with server.waiters.subscribe("a") as completion:
        server.ends.note_over(["a"])
        await server.settle()
        await completion.wait()

        assert completion.job is None
    assert server.told == [("a", None)]


async def test_job_is_watched_again_while_the_database_is_away() -> None:
    server = Server(stored={"a": ended("a")}, is_away=True)
    server.waiters.call("a", server.tell)
    server.ends.take()

    server.ends.note_over(["a"])
    await server.settle()
    assert (server.ends.take(), server.told) == (["a"], [])

    server.is_away = False
    server.ends.note_over(["a"])  # as the round says
    await server.settle()
    assert server.told == [("a", ended("a"))]


async def test_notification_of_a_job_that_goes_on_watches_it_again() -> None:
    server = Server(stored={"a": make_job("a")})
    server.waiters.call("a", server.tell)
    server.ends.take()

    server.ends.note_over(["a"])
    await server.settle()

    assert (server.ends.take(), server.told) == (["a"], [])


async def test_all_awaited_jobs_of_others_are_watched_anew_after_a_break() -> None:
    server = Server(owned={"here"})
    with server.waiters.subscribe("a"), server.waiters.subscribe("here"):
        server.waiters.call("b", server.tell)
        server.ends.take()

        server.ends.watch_all()
        assert sorted(server.ends.take()) == ["a", "b"]

        server.owned.clear()  # given back, or lost with the membership
        server.ends.watch("here")
        assert server.ends.take() == ["here"]


async def test_watches_of_a_round_without_effect_are_in_the_next_one() -> None:
    server = Server()
    server.waiters.call("a", server.tell)

    taken = server.ends.take()
    server.ends.put_back(taken)

    assert server.ends.take() == taken == ["a"]


@pytest.mark.parametrize("number", [99, 100, 101, 250])
async def test_many_ends_are_read_in_pieces(number: int) -> None:
    job_ids = [f"{n:03}" for n in range(number)]
    server = Server(stored={job_id: ended(job_id) for job_id in job_ids})
    for job_id in job_ids:
        server.waiters.call(job_id, server.tell)

    server.ends.note_over(job_ids)
    await server.settle()

    assert [job_id for job_id, _ in server.told] == job_ids
    assert max(map(len, server.reads)) <= 100
