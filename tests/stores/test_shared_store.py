"""What tasks wait for at `SharedStore`, and what rounds it makes of what waits."""

import pytest
import trio
from trio.testing import assert_checkpoints, assert_no_checkpoints, wait_all_tasks_blocked

from tests.stores.fake_rounds import FakeDatabase, Server
from tests.support import NOON
from trio_jobs import Ending, Outcome
from trio_jobs.job import Job, Later
from trio_jobs.pool.store import InvalidTransitionError, JobNotFoundError
from trio_jobs.stores import outbox, shared_store
from trio_jobs.stores.postgres.round import NewJobs

SUCCEEDED = Ending(outcome=Outcome.SUCCEEDED, result=b"1")


@pytest.fixture
def server() -> Server:
    return Server(FakeDatabase(), workers=3)


def submit(server: Server, *ids: str, payload: bytes = b"1") -> NewJobs:
    jobs = [Job(id=id_, type="t", payload=payload, created_at=NOON) for id_ in ids]
    return server.store.submit(jobs, landed=lambda: None, refused=lambda _: None)


def start(server: Server, *ids: str) -> list[Job]:
    """Submit jobs, and claim them."""
    submit(server, *ids)
    server.send()
    jobs = [server.claim() for _ in ids]
    return [job for job in jobs if job is not None]


async def test_settled_returns_when_all_moves_so_far_are_recorded(server: Server) -> None:
    start(server, "a", "b")
    with assert_no_checkpoints():
        await server.store.settled()
    server.store.complete("a", SUCCEEDED)
    settled = trio.Event()

    async def settle() -> None:
        await server.store.settled()
        settled.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(settle)
        await wait_all_tasks_blocked()
        server.store.complete("b", SUCCEEDED)
        server.refuse()
        await wait_all_tasks_blocked()
        assert not settled.is_set()
        server.send()

    assert server.database.rows["a"].job.outcome is Outcome.SUCCEEDED


async def test_settled_waits_for_the_round_that_is_under_way_and_not_for_later_ones(
    server: Server,
) -> None:
    start(server, "a", "b")
    server.store.complete("a", SUCCEEDED)
    server.send(answered=False)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.store.settled)
        await wait_all_tasks_blocked()
        server.store.complete("b", SUCCEEDED)
        server.send()

    assert server.store.unwritten_ends() == ["b"]


async def test_workers_wait_while_too_many_ends_are_unrecorded(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_store, "MAX_UNRECORDED_ENDS", 1)
    start(server, "a", "b")
    server.store.complete("a", SUCCEEDED)
    with assert_no_checkpoints():
        await server.store.caught_up()
    server.store.complete("b", SUCCEEDED)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.store.caught_up)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        server.send()


async def test_begin_of_a_job_that_another_server_has_meanwhile_is_the_last_of_it_here(
    server: Server,
) -> None:
    server.database.repeatable = lambda _: False
    server = Server(server.database)
    [job] = start(server, "a")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.store.begun, job)
        await wait_all_tasks_blocked()
        server.database.rows["a"].fetches += 1
        server.send()

    assert not server.store.is_here("a")


async def test_lost_lease_ends_the_wait_for_a_begin(server: Server) -> None:
    server.database.repeatable = lambda _: False
    server = Server(server.database)
    [job] = start(server, "a")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.store.begun, job)
        await wait_all_tasks_blocked()
        server.lose()

    assert not server.store.is_here("a")


async def test_job_whose_worker_is_cancelled_before_its_begin_goes_back(server: Server) -> None:
    server.database.repeatable = lambda _: False
    server = Server(server.database)
    [job] = start(server, "a")

    with trio.move_on_after(0):
        with assert_checkpoints():
            await server.store.begun(job)
    server.store.release("a")
    server.send()

    row = server.database.rows["a"]
    assert (row.owner, row.job.outcome, row.job.attempts) == (0, None, 0)


async def test_repeatable_job_begins_at_once(server: Server) -> None:
    [job] = start(server, "a")

    with assert_no_checkpoints():
        assert await server.store.begun(job) == job


def test_round_takes_no_more_bytes_than_a_statement_should_have(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_MAX_BYTES", 2_000)
    for number in range(5):
        submit(server, f"{number}", payload=b"1" * 600)

    sizes = []
    while batch := server.store.take(may_fetch=False):
        sizes.append(len(batch.new))
        server.store.landed(batch, server.database.round(server.member, batch))

    assert sizes == [2, 2, 1]


def test_moves_of_one_job_go_into_the_database_in_rounds_of_their_own(server: Server) -> None:
    start(server, "a")
    lost = server.member
    server.lose()
    server.database.sweep(lost)
    server.rejoin()
    server.send()  # fetches it anew, while it still runs
    server.store.complete("a", SUCCEEDED)
    assert server.claim() is not None
    server.store.complete("a", SUCCEEDED)

    batch = server.store.take(may_fetch=False)

    assert batch is not None
    assert [moved.owned.member for moved in batch.moves] == [lost]
    server.store.landed(batch, server.database.round(server.member, batch))
    assert server.store.unwritten == 1
    assert server.store.shown_nowait("a").outcome is None
    server.send()
    assert server.database.rows["a"].job.outcome is Outcome.SUCCEEDED


def test_round_that_gives_a_job_back_and_fetches_it_again_is_taken_up_after_a_cut(
    server: Server,
) -> None:
    [job] = start(server, "a")
    server.store.postpone(job.id, Later(seconds=0.0))
    server.hint(None)
    server.send(answered=False)

    server.send()

    assert server.claim() is not None


def test_job_is_shown_as_it_was_until_its_move_is_recorded(server: Server) -> None:
    [job] = start(server, "a")
    server.store.complete("a", SUCCEEDED)

    assert server.store.shown_nowait("a") == job
    server.send()

    with pytest.raises(JobNotFoundError):
        server.store.shown_nowait("a")


def test_who_waits_for_a_job_that_was_here_is_told_of_its_end_elsewhere(server: Server) -> None:
    other = Server(server.database)
    [job] = start(server, "a")
    server.waiters.call(job.id, lambda *_: None)
    server.store.postpone(job.id, Later(seconds=0.0))
    while server.send():
        pass

    other.send()
    assert other.claim() is not None
    other.store.complete("a", SUCCEEDED)
    other.send()
    server.hear()

    assert list(server.store.remote_ends._over) == ["a"]


def test_job_that_has_ended_here_can_not_be_cancelled(server: Server) -> None:
    start(server, "a")
    server.store.complete("a", SUCCEEDED)

    with pytest.raises(InvalidTransitionError):
        server.store.request_cancel_nowait("a")


def test_second_claim_and_moves_of_a_job_that_is_not_here_are_refused(server: Server) -> None:
    start(server, "a")

    with pytest.raises(InvalidTransitionError):
        server.store.claim("a")
    with pytest.raises(JobNotFoundError):
        server.store.claim("b")
    with pytest.raises(JobNotFoundError):
        server.store.complete("b", SUCCEEDED)
    with pytest.raises(TypeError):
        server.store.add(Job(id="c", type="t", payload=b"1", created_at=NOON))


def test_cancel_that_overtakes_the_answer_of_a_fetch_is_not_forgotten(server: Server) -> None:
    submit(server, "a")
    batch = server.store.take(may_fetch=True)
    assert batch is not None
    answer = server.database.round(server.member, batch)
    server.store.note_cancel("a")

    server.store.landed(batch, answer)

    job = server.claim()
    assert job is not None
    assert job.cancel_requested


@pytest.mark.parametrize("word", ["complete", "postpone", "release", "give_back"])
def test_refused_end_of_a_run_is_logged(
    server: Server, caplog: pytest.LogCaptureFixture, word: str
) -> None:
    submit(server, "a")
    server.send()
    if word != "give_back":
        server.claim()
    if word == "complete":
        server.store.complete("a", SUCCEEDED)
    elif word == "postpone":
        server.store.postpone("a", Later(seconds=1))
    else:
        getattr(server.store, word)("a")
    server.database.rows["a"].fetches += 1
    server.send()

    refused = [each for each in caplog.messages if each == "end_refused"]
    assert len(refused) == (word != "give_back")
