"""The API of two servers over one database: each answers for the jobs that the other one runs.

`front` runs nothing, since an operator has paused all of its types; `back` runs all.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import trio

from tests.api.piping import PIPE, decoded, line, lines_of, outcomes
from tests.api.support import assert_problem
from tests.asgi import Client
from tests.postgres.databases import Database
from trio_jobs import DurableJobs, Handler, Job, open_jobs

WAIT = {"prefer": "wait=60"}


@dataclass(kw_only=True)
class Work:
    """The handlers of both servers.

    Attributes:
        runs: How often each number was run.
        some_run: Set when a job has come to the gate.
        gate: Jobs wait for it.
    """

    runs: Counter[int] = field(default_factory=Counter)
    some_run: trio.Event = field(default_factory=trio.Event)
    gate: trio.Event = field(default_factory=trio.Event)

    async def quick(self, number: int) -> int:
        self.runs[number] += 1
        return -number

    async def fail(self, number: int) -> None:
        self.runs[number] += 1
        raise ValueError("no")

    async def wait(self, number: int) -> int:
        self.runs[number] += 1
        self.some_run.set()
        await self.gate.wait()
        return -number

    def handlers(self, *, paused: bool) -> dict[str, Handler]:
        functions: Mapping[str, Callable[..., Any]] = {
            "quick": self.quick,
            "fail": self.fail,
            "wait": self.wait,
        }
        return {type_: Handler.of(each, paused=paused) for type_, each in functions.items()}


@dataclass(frozen=True, kw_only=True)
class Site:
    """Two servers over one database.

    Attributes:
        front: A client of the one that takes jobs in and runs none.
        back: A client of the one that runs all.
        work: Their handlers.
        jobs: The pool of the former, and that of the latter.
        database: The database.
    """

    front: Client
    back: Client
    work: Work
    jobs: tuple[DurableJobs, DurableJobs]
    database: Database

    async def submit(self, type_: str, number: int = 1, **more: object) -> str:
        """Submit a job to the front; its id."""
        answer = await self.front.post("/jobs", body(type_, number, **more))
        assert answer.status == 201, answer
        return str(answer.json()["id"])


@pytest.fixture
async def site(database: Database) -> AsyncIterator[Site]:
    work = Work()
    async with (
        open_jobs(work.handlers(paused=True), url=database.url) as front,
        open_jobs(work.handlers(paused=False), url=database.url, workers=4) as back,
    ):
        yield Site(
            front=Client(front.asgi()),
            back=Client(back.asgi()),
            work=work,
            jobs=(front, back),
            database=database,
        )
        work.gate.set()


def body(type_: str, number: int = 1, **more: object) -> bytes:
    return msgspec.json.encode({"type": type_, "payload": number, **more})


async def together(*requests: Callable[[], Any]) -> list[Any]:
    """Their answers, in their order, of requests that are made at the same time."""
    answers: dict[int, Any] = {}

    async def ask(number: int, request: Callable[[], Any]) -> None:
        answers[number] = await request()

    async with trio.open_nursery() as nursery:
        for number, request in enumerate(requests):
            nursery.start_soon(ask, number, request)
    return [answers[number] for number in range(len(requests))]


# Waits.


async def test_client_that_waits_gets_the_result_of_the_other_server(site: Site) -> None:
    answer = await site.front.post("/jobs", body("quick", 3), **WAIT)

    assert (answer.status, answer.headers["preference-applied"]) == (201, "wait=60")
    assert (answer.json()["outcome"], answer.json()["result"]) == ("succeeded", -3)
    assert site.work.runs == {3: 1}


async def test_clients_of_both_servers_wait_for_one_job(site: Site) -> None:
    job_id = await site.submit("wait")

    async def open_the_gate() -> None:
        await site.work.some_run.wait()
        site.work.gate.set()

    def wait(client: Client) -> Callable[[], Any]:
        return lambda: client.get(f"/jobs/{job_id}", **WAIT)

    *answers, _ = await together(wait(site.front), wait(site.back), wait(site.front), open_the_gate)

    assert [answer.json()["outcome"] for answer in answers] == ["succeeded"] * 3
    assert answers[0].json() == answers[1].json()


async def test_wait_for_a_job_that_was_over_before_is_answered(site: Site) -> None:
    job_id = await site.submit("quick")
    await site.jobs[1].wait(job_id)

    assert (await site.jobs[0].wait(job_id)).outcome == "succeeded"
    answer = await site.front.get(f"/jobs/{job_id}", **WAIT)
    assert answer.json()["outcome"] == "succeeded"


async def test_many_clients_of_one_server_are_told_by_the_other(site: Site) -> None:
    numbers = range(200)

    def submit(number: int) -> Callable[[], Any]:
        return lambda: site.front.post("/jobs", body("quick", number), **WAIT)

    answers = await together(*map(submit, numbers))

    assert [answer.json()["result"] for answer in answers] == [-number for number in numbers]
    assert site.work.runs == dict.fromkeys(numbers, 1)


@pytest.mark.parametrize("connection", ["listener", "pump", "reader"])
async def test_client_that_waits_is_answered_although_connections_are_cut(
    site: Site, connection: str
) -> None:
    cut = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = %s"
    )
    jobs = [await site.submit("wait", number) for number in range(3)]
    await site.work.some_run.wait()
    await site.front.get(f"/jobs/{jobs[0]}")  # the first read makes the reader's connection

    async def cut_and_open() -> None:
        [(number,)] = await site.database.fetch(cut, f"trio-jobs {connection}")
        assert number >= 1
        site.work.gate.set()
        await site.database.fetch(cut, f"trio-jobs {connection}")

    *answers, _ = await together(
        *[lambda job=job: site.front.get(f"/jobs/{job}", **WAIT) for job in jobs],
        cut_and_open,
    )

    assert [answer.json()["outcome"] for answer in answers] == ["succeeded"] * 3
    assert site.work.runs == {0: 1, 1: 1, 2: 1}


async def test_job_that_a_statement_has_submitted_runs_and_is_waited_for(site: Site) -> None:
    [(job_id,)] = await site.database.fetch("select trio_jobs.submit('quick', '5', 'k')::text")

    answer = await site.front.get(f"/jobs/{job_id}", **WAIT)

    assert (answer.json()["outcome"], answer.json()["result"]) == ("succeeded", -5)


# Pipes, streams, batches.


async def test_pipe_answers_each_line_with_what_the_other_server_made_of_it(site: Site) -> None:
    count = 300
    lines = b"".join(
        line(number, "fail" if number % 5 == 4 else "quick") for number in range(count)
    )

    answers = lines_of(await site.front.post(PIPE, lines))

    assert outcomes(answers) == {
        number + 1: "failed" if number % 5 == 4 else "succeeded" for number in range(count)
    }
    assert site.work.runs == dict.fromkeys(range(count), 1)
    results = {each["line"]: each.get("result") for each in answers[:-1]}
    assert all(results[number + 1] == -number for number in range(count) if number % 5 != 4)


async def test_pipe_finds_by_their_keys_the_jobs_of_another_pipe_elsewhere(site: Site) -> None:
    lines = b"".join(line(number, "quick", key=f"k{number}") for number in range(50))

    first, second, third = await together(
        lambda: site.front.post(PIPE, lines),
        lambda: site.back.post(PIPE, lines),
        lambda: site.front.post(PIPE, lines),
    )

    for answer in (first, second, third):
        assert set(outcomes(lines_of(answer)).values()) == {"succeeded"}
    assert site.work.runs == dict.fromkeys(range(50), 1)


async def test_pipe_cancels_its_jobs_at_the_other_server(site: Site) -> None:
    lines = b"".join(line(number, "wait") for number in range(20))
    async with site.front.open("POST", PIPE) as pipe:
        await together(lambda: pipe.send(lines), pipe.head, site.work.some_run.wait)
        await pipe.send(b'{"cancel":true}\n', last=True)
        answers = decoded(b"".join([piece async for piece in pipe.pieces()]))

    assert set(outcomes(answers).values()) == {"cancelled"}
    assert answers[-1]["cancelled"] == 20


@pytest.mark.parametrize("path", ["/jobs/batch", "/jobs/stream"])
async def test_jobs_of_a_batch_or_a_stream_are_listed_and_counted_elsewhere(
    site: Site, path: str
) -> None:
    bodies = [body("quick", number) for number in range(100)]
    together_ = b"[%b]" % b",".join(bodies) if path == "/jobs/batch" else b"\n".join(bodies)

    assert (await site.front.post(path, together_)).status == 201
    listed = (await site.back.get("/jobs")).json()
    for job in listed:
        await site.jobs[1].wait(job["id"])

    assert len(listed) == 100
    for client in (site.front, site.back):
        jobs = (await client.get("/jobs?outcome=succeeded")).json()
        assert [job["id"] for job in jobs] == [job["id"] for job in listed]
        counts = (await client.get("/jobs/counts?type=quick")).json()
        assert (counts["total"], counts["outcome"]["succeeded"]) == (100, 100)
        newest = (await client.get("/jobs?order=newest&limit=3")).json()
        assert [job["id"] for job in newest] == [job["id"] for job in listed[:-4:-1]]


# Keys.


async def test_key_makes_one_job_of_simultaneous_submissions_at_both_servers(site: Site) -> None:
    def submit(client: Client) -> Callable[[], Any]:
        return lambda: client.post("/jobs", body("quick"), idempotency_key="k", **WAIT)

    answers = await together(*[submit(client) for client in (site.front, site.back) * 5])

    assert {answer.status for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 9
    assert {answer.json()["result"] for answer in answers} == {-1}
    assert site.work.runs == {1: 1}
    other = await site.front.post("/jobs", body("quick", 2), idempotency_key="k")
    assert_problem(other, 422)


async def test_batches_with_the_same_keys_at_both_servers_make_each_job_once(site: Site) -> None:
    def items(numbers: range) -> bytes:
        return b"[%b]" % b",".join(body("quick", n, key=f"k{n}") for n in numbers)

    answers = await together(
        lambda: site.front.post("/jobs/batch", items(range(30))),
        lambda: site.back.post("/jobs/batch", items(range(20, 50))),
        lambda: site.front.post("/jobs/batch", items(range(40))),
    )
    for answer in answers:
        assert answer.status == 201
        for job in answer.json():
            await site.jobs[0].wait(job["id"])

    assert site.work.runs == dict.fromkeys(range(50), 1)


# Cancels.


async def test_running_job_is_cancelled_at_the_other_server(site: Site) -> None:
    job_id = await site.submit("wait")
    await site.work.some_run.wait()

    # It may be over by the time of the answer.
    assert (await site.front.post(f"/jobs/{job_id}/cancel")).status in (200, 202)

    for client in (site.front, site.back):
        assert (await client.get(f"/jobs/{job_id}", **WAIT)).json()["outcome"] == "cancelled"
    assert (await site.front.post(f"/jobs/{job_id}/cancel")).status == 200


async def test_cancel_of_many_reaches_those_that_run_wait_and_are_delayed(site: Site) -> None:
    for number in range(150):
        await site.submit("wait", number)
    for number in range(150, 155):
        await site.submit("wait", number, delay=3_600)
    kept = await site.submit("quick", 1_000, delay=3_600)
    await site.work.some_run.wait()

    answer = await site.front.post("/jobs/cancel", b'{"type":["wait"]}')

    assert (answer.status, answer.json()) == (202, {"accepted": 155})
    for job in (await site.front.get("/jobs?type=wait")).json():
        assert (await site.jobs[0].wait(job["id"])).outcome == "cancelled"
    counts = (await site.back.get("/jobs/counts")).json()
    assert (counts["outcome"]["cancelled"], counts["status"]["pending"]) == (155, 1)
    assert (await site.front.get(f"/jobs/{kept}")).json()["status"] == "pending"
    assert site.work.runs.keys() <= set(range(150))


# Re-runs, times, deletions.


async def test_job_that_failed_at_one_server_is_run_again_once_from_both(site: Site) -> None:
    job_id = await site.submit("fail")
    await site.jobs[0].wait(job_id)

    answers = await together(
        *[
            lambda client=client: client.post(f"/jobs/{job_id}/rerun")
            for client in (site.front, site.back) * 3
        ]
    )

    assert Counter(answer.status for answer in answers) == {201: 1, 409: 5}
    [again] = [answer.json() for answer in answers if answer.status == 201]
    assert (await site.jobs[0].wait(again["id"])).rerun_of == job_id
    for client in (site.front, site.back):
        assert (await client.get(f"/jobs/{job_id}")).json()["rerun_as"] == again["id"]
    assert site.work.runs == {1: 2}


async def test_all_that_failed_run_again_once_if_both_servers_are_asked(site: Site) -> None:
    for number in range(40):
        await site.submit("fail", number)
    for job in (await site.front.get("/jobs")).json():
        await site.jobs[0].wait(job["id"])

    answers = await together(
        lambda: site.front.post("/jobs/rerun", b"{}"),
        lambda: site.back.post("/jobs/rerun", b"{}"),
    )
    for job in (await site.front.get("/jobs?limit=200")).json():
        await site.jobs[0].wait(job["id"])

    assert {answer.status for answer in answers} <= {201, 409}
    # The second one may find some of the first one's re-runs, which have failed as well.
    accepted = sum(answer.json().get("accepted", 0) for answer in answers)
    assert 40 <= accepted <= 80
    assert sum(site.work.runs.values()) == 40 + accepted
    assert set(site.work.runs.values()) <= {2, 3}


async def test_delayed_job_is_let_run_at_once_from_the_other_server(site: Site) -> None:
    job_id = await site.submit("quick", delay=3_600)
    waiting = await site.back.get("/jobs?order=next&limit=10")
    assert [job["id"] for job in waiting.json()] == [job_id], waiting

    answer = await site.front.post(f"/jobs/{job_id}/run-now")

    assert answer.status == 202
    assert (await site.jobs[0].wait(job_id)).outcome == "succeeded"


async def test_job_is_deleted_for_all_servers(site: Site) -> None:
    job_id = await site.submit("quick")
    await site.jobs[0].wait(job_id)

    assert (await site.front.request("DELETE", f"/jobs/{job_id}")).status == 204

    for client in (site.front, site.back):
        assert_problem(await client.get(f"/jobs/{job_id}"), 404)


async def test_job_of_a_server_that_stops_goes_on_at_the_other_and_its_waiter_is_told(
    database: Database,
) -> None:
    work = Work()
    handlers = work.handlers(paused=False)
    ended: list[Job] = []
    async with open_jobs(handlers, url=database.url) as one, trio.open_nursery() as nursery:

        async def wait(job_id: str) -> None:
            ended.append(await one.wait(job_id))

        async with open_jobs(handlers, url=database.url, workers=1) as other:
            for number in range(30):
                nursery.start_soon(wait, (await other.submit("wait", number)).id)
            await work.some_run.wait()
            nursery.start_soon(other.drain)
            work.gate.set()
    assert [job.outcome for job in ended] == ["succeeded"] * 30
    assert work.runs == dict.fromkeys(range(30), 1)
