"""The ring of the jobs that ended last."""

from functools import partial

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.support import NOON, SUCCEEDED, make_parts, take
from trio_jobs import Job, JobStatus, Outcome
from trio_jobs.job import Ending
from trio_jobs.pool.ended_jobs import BATCH, KEPT, EndedJobs


def nothing() -> None:
    pass


def ended_job(
    job_id: str,
    *,
    type: str = "email",  # noqa: A002
    payload: bytes = b"null",
    ending: Ending = SUCCEEDED,
) -> Job:
    return Job(
        id=job_id,
        type=type,
        payload=payload,
        created_at=NOON,
        status=JobStatus.COMPLETED,
        ending=ending,
    )


@given(number=st.integers(0, 2 * KEPT + 7), since=st.integers(0, 2 * KEPT + 7))
def test_reader_gets_what_ended_since_its_number_and_knows_what_it_missed(
    number: int, since: int
) -> None:
    ended = EndedJobs(nothing)
    for n in range(1, number + 1):
        ended.note(ended_job(f"j{n}"))

    missed, jobs = ended.since(min(since, number))

    wanted = [f"j{n}" for n in range(min(since, number) + 1, number + 1)]
    assert ended.last == number
    assert [job.id for job in jobs] == wanted[-KEPT:]
    assert missed == max(len(wanted) - KEPT, 0)


def test_it_has_them_counted_in_batches() -> None:
    counted: list[int] = []
    ended = EndedJobs(lambda: counted.append(ended.last))

    for n in range(2 * BATCH + 1):
        ended.note(ended_job(f"j{n}"))

    assert counted == [BATCH, 2 * BATCH]


def test_large_job_is_noted_without_what_clients_and_handlers_chose() -> None:
    ended = EndedJobs(nothing)
    small = ended_job("a", payload=b"1" * 4_000)
    big = Ending(outcome=Outcome.SUCCEEDED, result=b"1" * 4_000)

    for job in (
        small,
        ended_job("b", payload=b"1" * 100, ending=big),
        ended_job("c", payload=b"1" * 4_097, type="ä" * 201),
        ended_job("d", payload=b"1" * 4_097, type="ä" * 200),
        ended_job("e", type="e" * 5_000),
    ):
        ended.note(job)

    noted = ended.since(0)[1]
    assert noted[0] is small
    for job in noted[1:]:
        assert job.ending is not None
        assert (job.payload, job.ending.result) == (b"", None)
    assert [(job.id, job.type, job.outcome) for job in noted[1:]] == [
        ("b", "email", Outcome.SUCCEEDED),
        ("c", "ä" * 200 + "…", Outcome.SUCCEEDED),
        ("d", "ä" * 200, Outcome.SUCCEEDED),
        ("e", "e" * 200 + "…", Outcome.SUCCEEDED),
    ]


async def test_end_and_touch_wake_those_who_wait_for_a_change_and_nobody_later() -> None:
    ended = EndedJobs(nothing)
    woken: list[int] = []

    async def wait(number: int) -> None:
        await ended.next_change().wait()
        woken.append(number)

    async with trio.open_nursery() as nursery:
        for change in (partial(ended.note, ended_job("a")), ended.touch):
            woken.clear()
            for n in range(3):
                nursery.start_soon(wait, n)
            await wait_all_tasks_blocked()
            assert woken == []
            change()
            await wait_all_tasks_blocked()
            assert sorted(woken) == [0, 1, 2]
        nursery.start_soon(wait, 3)
        await wait_all_tasks_blocked()
        assert 3 not in woken
        nursery.cancel_scope.cancel()
    ended.touch()


async def test_pool_notes_each_ended_job_if_it_is_asked_to() -> None:
    parts = make_parts()
    observation = parts.pool.observation
    assert observation is not None
    first, second = (parts.admission.submit("email", b"null") for _ in range(2))

    take(parts)
    assert [job.id for job in observation.ended.since(0)[1]] == [first.id]
    take(parts)
    assert observation.ended.since(1) == (0, [parts.store.find_nowait(second.id)])


async def test_pool_notes_nothing_unless_it_is_asked_to() -> None:
    parts = make_parts(ui=False)
    parts.admission.submit("email", b"null")

    take(parts)

    assert parts.pool.observation is None
    assert parts.workers._show == parts.waiters.notify
