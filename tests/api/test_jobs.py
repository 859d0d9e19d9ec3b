"""One job: cancelled, waited for while it is being cancelled, deleted."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.api.support import Api, assert_problem
from tests.asgi import Answer
from tests.support import SUCCEEDED, make_parts
from trio_jobs import Ending, JobError, JobStatus, Outcome

CANCELLED = Ending(
    outcome=Outcome.CANCELLED, error=JobError(type="Cancelled", message="cancelled on request")
)
UNKNOWN = "01936d3c-0000-7000-8000-000000000000"


class Cancelling:
    """An API with one job."""

    def __init__(self, *, keep_failed: int = 10) -> None:
        self.parts = make_parts(keep_failed=keep_failed)
        self.api = Api(parts=self.parts)
        self.job_id = self.parts.admission.submit("email", b"null").id

    async def cancel(self, **headers: str) -> Answer:
        return await self.api.client.post(f"/jobs/{self.job_id}/cancel", b"", **headers)

    def claim(self) -> None:
        self.parts.workers.claim(self.job_id)

    def complete(self, ending: Ending) -> None:
        self.parts.workers.complete(self.job_id, ending)


async def test_a_pending_job_is_marked_and_keeps_its_place() -> None:
    one = Cancelling()

    answer = await one.cancel()

    assert answer.status == 202
    assert answer.json()["status"] == "pending"
    assert one.parts.store.find_nowait(one.job_id).cancel_requested
    assert one.parts.receive.statistics().current_buffer_used == 1


async def test_a_running_job_is_cancelled_where_it_runs() -> None:
    one = Cancelling()
    one.claim()

    for _ in range(2):  # the second cancel changes nothing
        answer = await one.cancel()

    assert answer.status == 202
    assert answer.json()["status"] == "processing"
    assert one.parts.store.find_nowait(one.job_id).cancel_requested


async def test_a_cancel_that_waits_is_answered_when_the_job_has_unwound() -> None:
    one = Cancelling(keep_failed=0)
    one.claim()
    got: list[Answer] = []

    async def cancel() -> None:
        got.append(await one.cancel(prefer="wait=5"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        await wait_all_tasks_blocked()
        assert one.parts.store.find_nowait(one.job_id).cancel_requested
        one.complete(CANCELLED)

    [answer] = got
    assert answer.status == 200
    assert answer.json()["outcome"] == "cancelled"
    assert answer.headers["preference-applied"] == "wait=5"


async def test_a_cancel_whose_wait_is_over_is_answered_202(autojump_clock: object) -> None:
    one = Cancelling()
    one.claim()

    answer = await one.cancel(prefer="wait=5")

    assert trio.current_time() == 5
    assert answer.status == 202
    assert answer.json()["status"] == "processing"


async def test_a_job_that_is_cancelled_already_is_200() -> None:
    one = Cancelling()
    one.claim()
    one.complete(CANCELLED)

    answer = await one.cancel()

    assert answer.status == 200
    assert answer.json()["outcome"] == "cancelled"
    assert not one.parts.store.find_nowait(one.job_id).cancel_requested


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "timed_out"])
async def test_a_job_that_completed_otherwise_is_409(outcome: str) -> None:
    one = Cancelling()
    one.claim()
    one.complete(Ending(outcome=Outcome(outcome)))

    problem = assert_problem(await one.cancel(), 409)

    assert problem["outcome"] == outcome
    assert not one.parts.store.find_nowait(one.job_id).cancel_requested


async def test_a_cancel_that_waits_for_a_job_that_completes_otherwise_is_409() -> None:
    one = Cancelling()
    one.claim()
    got: list[Answer] = []

    async def cancel() -> None:
        got.append(await one.cancel(prefer="wait=5"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        await wait_all_tasks_blocked()
        one.complete(Ending(outcome=Outcome.TIMED_OUT))

    assert_problem(got[0], 409)


async def test_cancelling_works_during_a_shutdown() -> None:
    one = Cancelling()
    one.claim()
    one.parts.admission.close()

    assert (await one.cancel()).status == 202


async def test_a_completed_job_can_be_deleted_once() -> None:
    one = Cancelling()
    one.claim()
    one.complete(SUCCEEDED)
    target = f"/jobs/{one.job_id}"

    answer = await one.api.client.request("DELETE", target)

    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers == {"cache-control": "no-store"}
    assert_problem(await one.api.client.get(target), 404)
    assert_problem(await one.api.client.request("DELETE", target), 404)
    assert (await one.api.client.get("/jobs")).json() == []


async def test_a_job_that_has_not_completed_cannot_be_deleted() -> None:
    one = Cancelling()

    for status in (JobStatus.PENDING, JobStatus.PROCESSING):
        problem = assert_problem(await one.api.client.request("DELETE", f"/jobs/{one.job_id}"), 409)
        assert status in problem["detail"]
        if status is JobStatus.PENDING:
            one.claim()
    assert len(one.parts.store) == 1


@pytest.mark.parametrize("job_id", [UNKNOWN, "x", "%00", "batch", "stream", "é"])
async def test_an_unknown_job_can_be_neither_cancelled_nor_deleted(job_id: str) -> None:
    api = Api()

    assert_problem(await api.client.post(f"/jobs/{job_id}/cancel"), 404)
    answer = await api.client.request("DELETE", f"/jobs/{job_id}")
    assert_problem(answer, 405 if job_id in ("batch", "stream") else 404)


async def test_an_id_in_capitals_is_the_same_id() -> None:
    one = Cancelling()

    answer = await one.api.client.get(f"/jobs/{one.job_id.upper()}")

    assert answer.json()["id"] == one.job_id


async def test_a_body_sent_with_a_cancel_does_no_harm() -> None:
    one = Cancelling()

    answer = await one.api.client.post(f"/jobs/{one.job_id}/cancel", [b"x" * 100] * 10)

    assert answer.status == 202
