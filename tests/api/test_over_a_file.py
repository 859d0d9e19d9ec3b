"""The API over a file whose commits the test makes: nothing is told before its commit."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.api.support import SUBMISSION, accept, assert_problem
from tests.asgi import Answer, Client
from tests.durable import TIMEOUT, DurableParts, make_durable_parts, start_pool
from tests.support import SUCCEEDED, HttpSettings
from trio_jobs import Ending, Handler, Outcome
from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.app import create_app

LINE = SUBMISSION + b"\n"
ITEMS = b"[%b,%b]" % (SUBMISSION, SUBMISSION)
REQUESTS = [("/jobs", SUBMISSION), ("/jobs/batch", ITEMS), ("/jobs/stream", LINE * 2)]


class DurableApi:
    """The application over a pool that does not run."""

    def __init__(self, parts: DurableParts | None = None) -> None:
        self.parts = parts or make_durable_parts({"default": Handler.of(accept)})
        self.context = ApiContext(pool=self.parts.pool, http=HttpSettings(), shutdown_retry_after=7)
        self.client = Client(create_app(self.context))

    def post(self, nursery: trio.Nursery, path: str, body: bytes, **headers: str) -> list[Answer]:
        """Submit in a task; the list has the answer once it is there."""
        answers: list[Answer] = []

        async def submit() -> None:
            answers.append(await self.client.post(path, body, **headers))

        nursery.start_soon(submit)
        return answers

    async def submitted(self, body: bytes = SUBMISSION) -> str:
        """The id of a job that is on the disk."""
        async with trio.open_nursery() as nursery:
            answers = self.post(nursery, "/jobs", body)
            await wait_all_tasks_blocked()
            self.parts.journal.commit()
        return str(answers[0].json()["id"])


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_201_comes_after_the_commit(path: str, body: bytes) -> None:
    api = DurableApi()

    async with trio.open_nursery() as nursery:
        answers = api.post(nursery, path, body)
        await wait_all_tasks_blocked()
        before = list(answers)
        api.parts.journal.commit()

    assert before == []
    assert answers[0].status == 201
    assert len(api.parts.file) == (1 if path == "/jobs" else 2)


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_507_keeps_nothing_and_the_next_try_succeeds(path: str, body: bytes) -> None:
    api = DurableApi()

    async with trio.open_nursery() as nursery:
        refused = api.post(nursery, path, body)
        await wait_all_tasks_blocked()
        api.parts.journal.refuse()
        await wait_all_tasks_blocked()
        problem = assert_problem(refused[0], 507)
        taken = api.post(nursery, path, body)
        await wait_all_tasks_blocked()
        api.parts.journal.commit()

    assert problem["retry_after"] == 5
    assert refused[0].headers["retry-after"] == "5"
    assert "disk is full" in problem["detail"]
    assert problem.get("accepted") == (0 if path == "/jobs/stream" else None)
    assert taken[0].status == 201
    assert api.parts.pool.capacity.free == 100 - len(api.parts.file)


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_504_says_that_it_is_unknown_and_the_job_comes_in_later(
    path: str, body: bytes, autojump_clock: MockClock
) -> None:
    api = DurableApi()

    async with trio.open_nursery() as nursery:
        answers = api.post(nursery, path, body)

    assert trio.current_time() == TIMEOUT
    problem = assert_problem(answers[0], 504)
    assert "repeat it with the same key" in problem["detail"]
    api.parts.journal.commit()
    assert api.parts.admission.buffered == len(api.parts.file) > 0


@pytest.mark.parametrize("asked", ["cancel", "rerun", "delete"])
async def test_504_of_what_has_no_key_asks_for_none(asked: str, autojump_clock: MockClock) -> None:
    api = DurableApi()
    store, journal = api.parts.store, api.parts.journal
    job_id = await api.submitted()
    if asked != "cancel":
        store.claim(job_id)
        store.complete(job_id, Ending(outcome=Outcome.FAILED))
        await wait_all_tasks_blocked()
        journal.commit()
        await wait_all_tasks_blocked()

    answer = (
        await api.client.request("DELETE", f"/jobs/{job_id}")
        if asked == "delete"
        else await api.client.post(f"/jobs/{job_id}/{asked}")
    )

    assert assert_problem(answer, 504)["detail"].endswith("has been carried out; repeat it")


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_503_while_the_disk_hangs(path: str, body: bytes) -> None:
    api = DurableApi()
    api.parts.journal.oldest_unwritten_seconds = TIMEOUT + 1

    problem = assert_problem(await api.client.post(path, body), 503)

    assert problem["reason"] == "store_away"
    assert api.parts.journal.entries == []


async def test_repetition_of_a_keyed_submission_waits_for_the_commit_of_the_first() -> None:
    api = DurableApi()

    async with trio.open_nursery() as nursery:
        answers = [api.post(nursery, "/jobs", SUBMISSION, idempotency_key="k") for _ in range(5)]
        await wait_all_tasks_blocked()
        assert len(api.parts.journal.entries) == 1
        api.parts.journal.commit()

    assert len({answer.body for [answer] in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for [answer] in answers) == 4
    assert len(api.parts.file) == 1


async def test_repetition_of_a_keyed_submission_is_unknown_while_the_disk_hangs(
    autojump_clock: MockClock,
) -> None:
    api = DurableApi()
    first = await api.client.post("/jobs", SUBMISSION, idempotency_key="k")
    api.parts.journal.oldest_unwritten_seconds = TIMEOUT + 1

    again = await api.client.post("/jobs", SUBMISSION, idempotency_key="k")
    other = await api.client.post("/jobs", SUBMISSION, idempotency_key="other")

    assert assert_problem(again, 504) == assert_problem(first, 504)
    assert assert_problem(other, 503)["reason"] == "store_away"
    api.parts.journal.commit()
    last = await api.client.post("/jobs", SUBMISSION, idempotency_key="k")
    assert (last.status, last.headers["idempotent-replayed"]) == (201, "true")
    assert len(api.parts.file) == 1


@pytest.mark.parametrize("what", ["cancel", "delete"])
async def test_507_of_a_cancel_says_that_it_takes_effect_and_a_deletion_keeps_the_job(
    what: str,
) -> None:
    api = DurableApi()
    store, journal = api.parts.store, api.parts.journal
    job_id = await api.submitted()
    path = f"/jobs/{job_id}"
    if what == "delete":
        store.claim(job_id)
        store.complete(job_id, SUCCEEDED)
        journal.commit()

    answers = []

    async def ask() -> None:
        ask_for = (
            api.client.request("DELETE", path)
            if what == "delete"
            else api.client.post(f"{path}/cancel")
        )
        answers.append(await ask_for)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        journal.refuse()

    problem = assert_problem(answers[0], 507)
    assert problem["retry_after"] == 5
    kept = "the job is being cancelled" if what == "cancel" else "nothing has changed"
    assert kept in problem["detail"]
    assert (await api.client.get(path)).status == 200


async def test_accepted_of_a_stream_that_a_stop_ends_counts_what_is_on_its_way() -> None:
    api = DurableApi()

    async with trio.open_nursery() as nursery:
        answers = api.post(nursery, "/jobs/stream", LINE * 3)
        await wait_all_tasks_blocked()
        api.parts.admission.close()
        await wait_all_tasks_blocked()
        assert answers == []
        api.parts.journal.commit()

    assert assert_problem(answers[0], 503)["accepted"] == 3 == len(api.parts.file)


async def test_waiter_gets_the_job_when_its_end_is_on_the_disk() -> None:
    api = DurableApi()

    async with trio.open_nursery() as nursery:
        answers = api.post(nursery, "/jobs", SUBMISSION, prefer="wait=50")
        await wait_all_tasks_blocked()
        api.parts.journal.commit()
        job_id = api.parts.receive.receive_nowait()
        api.parts.pool.workers.claim(job_id)
        api.parts.pool.workers.complete(job_id, SUCCEEDED)
        await wait_all_tasks_blocked()
        shown = await api.client.get(f"/jobs/{job_id}")
        before = (list(answers), shown.json()["status"])
        api.parts.journal.commit()

    assert before == ([], "processing")
    assert answers[0].json()["status"] == "completed"
    assert (await api.client.get(f"/jobs/{job_id}")).json()["outcome"] == "succeeded"


async def test_health_tells_the_state_of_the_disk() -> None:
    api = DurableApi()

    async with trio.open_nursery() as nursery:
        api.post(nursery, "/jobs/batch", ITEMS)
        await wait_all_tasks_blocked()
        ready = (await api.client.get("/health/ready")).json()
        api.parts.journal.commit()
    api.parts.journal.failing = (0.0, "disk full")
    failing = (await api.client.get("/health/ready")).json()

    assert (ready["unwritten"], ready["store_failing_seconds"]) == (2, None)
    assert (failing["unwritten"], failing["store_failing_seconds"] > 0) == (0, True)


async def test_pool_names_the_jobs_whose_handlers_run_and_none_whose_end_is_unwritten() -> None:
    go_on = trio.Event()

    async def wait(_payload: object) -> None:
        await go_on.wait()

    api = DurableApi(make_durable_parts({"default": Handler.of(wait)}))
    states = []
    async with trio.open_nursery() as nursery:
        start_pool(api.parts, nursery)
        answers = api.post(nursery, "/jobs", SUBMISSION)
        await wait_all_tasks_blocked()
        api.parts.journal.commit()
        await wait_all_tasks_blocked()
        states.append((await api.client.get("/pool")).json())
        go_on.set()
        await wait_all_tasks_blocked()
        states.append((await api.client.get("/pool")).json())
        api.parts.journal.commit()
        await wait_all_tasks_blocked()
        states.append((await api.client.get("/pool")).json())
        nursery.cancel_scope.cancel()

    job_id = answers[0].json()["id"]
    assert [[slot["id"] for slot in state["slots"]] for state in states] == [[job_id], [], []]
    assert [state["unwritten"] > 0 for state in states] == [True, True, False]
