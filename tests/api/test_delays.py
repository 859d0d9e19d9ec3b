"""`delay` and `run_at` over HTTP: when a job begins, what its client sees, and what is refused."""

import random
from collections import Counter
from datetime import datetime, timedelta

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.api.support import Api, assert_problem
from tests.asgi import Answer
from tests.support import NOON, SUCCEEDED, make_parts, start_workers
from trio_jobs import Ending, Handler, Job, JobError, JobStatus, Outcome, RetryPolicy
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.job import Later
from trio_jobs.pool.job_spec import JobSpec

LATER = b'{"type":"a","delay":90.5}'
IN_90_SECONDS = "2026-11-25T12:01:30.500000Z"

SECONDS = "$.delay must be a number of seconds from 0 to 315619200 (ten years), got "
A_TIME = "$.run_at must be a time of RFC 3339 with a time zone, such as 2026-12-01T08:00:00Z, got "


def mock_now() -> datetime:
    """A wall clock that goes with Trio's mock clock."""
    return NOON + timedelta(seconds=trio.current_time())


def stored(api: Api) -> list[Job]:
    return api.parts.store.page_nowait(limit=1000)


REFUSED = {
    b'"delay":-1': SECONDS + "-1",
    b'"delay":315619200.5': SECONDS + "315619200.5",
    b'"delay":%s' % (b"9" * 400): SECONDS + "9999",
    b'"delay":%s' % (b"9" * 5000): "$.delay: integer value out of range",
    b'"delay":1e400': "$.delay: number out of range",
    b'"delay":true': SECONDS + "True",
    b'"delay":false': SECONDS + "False",
    b'"delay":null': SECONDS + "null",
    b'"delay":"5"': SECONDS + "'5'",
    b'"delay":""': SECONDS + "''",
    b'"delay":[5]': SECONDS + "[5]",
    b'"delay":{"seconds":5}': SECONDS + "{'seconds': 5}",
    b'"delay":"\xff"': "$.delay is not valid JSON",
    b'"delay":' + b"[" * 2000 + b"]" * 2000: "the JSON is nested deeper than 64 levels",
    b'"delay":NaN': "the body is not valid JSON",
    b'"delay":Infinity': "the body is not valid JSON",
    b'"run_at":null': A_TIME + "null",
    b'"run_at":1800000000': A_TIME + "1800000000",
    b'"run_at":true': A_TIME + "True",
    b'"run_at":""': A_TIME + "''",
    b'"run_at":"tomorrow"': A_TIME + "'tomorrow'",
    b'"run_at":"2026-12-01"': A_TIME,
    b'"run_at":"2026-12-01T08:00:00"': A_TIME,
    b'"run_at":"2026-12-01T08:00Z"': A_TIME,
    b'"run_at":"2026-12-01T08:00:00+0100"': A_TIME,
    b'"run_at":"2026-12-01T08:00:00+01"': A_TIME,
    b'"run_at":"2026-12-01T08:00:00+24:00"': A_TIME,
    b'"run_at":"2026-12-01T08:00:00 Europe/Berlin"': A_TIME,
    b'"run_at":"20261201T080000Z"': A_TIME,
    b'"run_at":"2026-W49-2T08:00:00Z"': A_TIME,
    b'"run_at":"2026-12-01T08:00:00,5Z"': A_TIME,
    b'"run_at":"2026-12-31T23:59:60Z"': A_TIME,
    b'"run_at":"2026-12-01T24:00:00Z"': A_TIME,
    b'"run_at":"2026-02-30T08:00:00Z"': A_TIME,
    b'"run_at":"0000-12-01T08:00:00Z"': A_TIME,
    b'"run_at":"12026-12-01T08:00:00Z"': A_TIME,
    b'"run_at":"-026-12-01T08:00:00Z"': A_TIME,
    b'"run_at":"9999-12-31T23:59:59.9999999Z"': A_TIME,
    b'"run_at":"%s"' % (b"2" * 5000): A_TIME,
    '"run_at":"\uff12026-12-01T08:00:00Z"'.encode(): A_TIME,
    b'"run_at":"2036-11-25T12:00:01Z"': "$.run_at must be within ten years, got 2036-11-25T12:0",
    b'"run_at":"9999-12-31T23:59:59-23:59"': "$.run_at must be within ten years, got 9999-12-31",
    b'"delay":1,"run_at":"2026-12-01T08:00:00Z"': "$.delay and $.run_at exclude each other",
    b'"run_at":"2020-12-01T08:00:00Z","delay":0': "$.delay and $.run_at exclude each other",
    b'"delay":"x","run_at":1': A_TIME + "1",
    b'"Delay":1': "$: object contains unknown field Delay",
    b'"runat":1': "$: object contains unknown field runat",
}


@pytest.mark.parametrize(("member", "detail"), REFUSED.items(), ids=range(len(REFUSED)))
async def test_what_is_no_time_is_refused_by_name_and_nothing_is_kept(
    member: bytes, detail: str
) -> None:
    api = Api()
    body = b'{"type":"a","payload":{"delay":"x"},%b}' % member

    for path, sent in (("/jobs", body), ("/jobs/batch", b"[%b]" % body), ("/jobs/stream", body)):
        answer = await api.client.post(path, sent)

        problem = assert_problem(answer, 400)
        if b"\xff" not in member and b"N" not in member and b"I" not in member:
            assert problem["detail"].removeprefix("item 0: ").startswith(detail)
        assert len(answer.body) < 1500
    assert stored(api) == []
    assert api.parts.pool.schedule.count == 0


@pytest.mark.parametrize(
    ("member", "run_at"),
    [
        (b'"delay":90.5', NOON + timedelta(seconds=90.5)),
        (b'"delay":1e1', NOON + timedelta(seconds=10)),
        (b'"delay":315619200', NOON + timedelta(seconds=315619200)),
        (b'"delay":0', None),
        (b'"delay":-0.0', None),
        (b'"delay":1e-400', None),
        (b'"run_at":"2026-11-25T12:00:01Z"', NOON + timedelta(seconds=1)),
        (b'"run_at":"2026-11-25t14:00:00.000001+01:00"', NOON + timedelta(hours=1, microseconds=1)),
        (b'"run_at":"2026-11-25 12:00:00-00:01"', NOON + timedelta(minutes=1)),
        (b'"run_at":"2026-11-25T12:00:00Z"', None),
        (b'"run_at":"0001-01-01T00:00:00+23:59"', None),
    ],
)
async def test_time_is_taken_on_every_route(member: bytes, run_at: datetime | None) -> None:
    api = Api()
    body = b'{%b,"type":"a"}' % member

    one = await api.client.post("/jobs", body)
    many = await api.client.post("/jobs/batch", b"[%b]" % body)
    streamed = await api.client.post("/jobs/stream", body)

    assert (one.status, many.status, streamed.status) == (201, 201, 201)
    jobs = stored(api)
    assert [job.run_at for job in jobs] == [run_at] * 3
    assert api.parts.admission.buffered == (0 if run_at else 3)
    shown = None if run_at is None else run_at.isoformat(timespec="microseconds")[:-6] + "Z"
    assert [answer.get("run_at") for answer in (one.json(), many.json()[0])] == [shown] * 2
    assert (await api.client.get("/jobs")).json()[0].get("run_at") == shown


async def test_waiting_job_says_when_to_look_again() -> None:
    api = Api()
    job_id = (await api.client.post("/jobs", LATER)).json()["id"]
    in_two = (await api.client.post("/jobs", b'{"type":"a","delay":1.2}')).json()["id"]

    answer = await api.client.get(f"/jobs/{job_id}")

    assert answer.json() == {
        "id": job_id,
        "type": "a",
        "status": "pending",
        "created_at": "2026-11-25T12:00:00.000000Z",
        "run_at": IN_90_SECONDS,
        "payload": None,
    }
    assert answer.headers["retry-after"] == "60"
    assert (await api.client.get(f"/jobs/{in_two}")).headers["retry-after"] == "2"


async def test_job_between_two_attempts_shows_its_last_error() -> None:
    api = Api()
    job_id = (await api.client.post("/jobs", b'{"type":"a"}')).json()["id"]
    api.parts.workers.claim(job_id)
    error = JobError(type="OSError", message="away")
    api.parts.workers.postpone(job_id, Later(seconds=10, error=error))

    between = await api.client.get(f"/jobs/{job_id}")
    [listed] = (await api.client.get("/jobs")).json()
    api.parts.workers.claim(job_id)
    second = await api.client.get(f"/jobs/{job_id}")
    api.parts.workers.complete(job_id, SUCCEEDED)
    ended = await api.client.get(f"/jobs/{job_id}")

    assert between.headers["retry-after"] == "10"
    job = between.json()
    assert (job["status"], job["attempts"]) == ("pending", 1)
    assert job["last_error"] == {"type": "OSError", "message": "away"}
    assert job["run_at"] == listed["run_at"] == "2026-11-25T12:00:10.000000Z"
    assert "started_at" not in job
    assert (listed["attempts"], listed["last_error"]) == (1, job["last_error"])
    assert (second.json()["attempts"], "run_at" in second.json()) == (2, False)
    assert second.json()["last_error"] == job["last_error"]
    assert second.headers["retry-after"] == "1"
    assert (ended.json()["attempts"], "last_error" in ended.json()) == (2, False)


async def test_cancel_of_a_waiting_job_makes_it_due_now() -> None:
    api = Api()
    job_id = (await api.client.post("/jobs", LATER)).json()["id"]

    for _ in range(2):
        answer = await api.client.post(f"/jobs/{job_id}/cancel")

        assert answer.status == 202
        assert answer.json()["run_at"] == "2026-11-25T12:00:00.000000Z"
    assert (await api.client.get(f"/jobs/{job_id}")).headers["retry-after"] == "1"
    assert_problem(await api.client.request("DELETE", f"/jobs/{job_id}"), 409)


async def test_repetition_of_a_delayed_submission_gets_its_first_answer() -> None:
    api = Api()

    async def submit(body: bytes) -> Answer:
        return await api.client.post("/jobs", body, idempotency_key="k")

    first = await submit(LATER)
    job_id = first.json()["id"]
    assert first.json()["run_at"] == IN_90_SECONDS
    assert (await submit(LATER)).body == first.body
    api.parts.workers.claim(job_id)
    assert (await submit(LATER)).body == first.body
    api.parts.workers.postpone(job_id, Later(seconds=5, error=None))
    assert (await submit(LATER)).body == first.body
    assert_problem(await submit(b'{"type":"a","delay":90}'), 422)
    assert len(stored(api)) == 1


async def test_repetition_gets_its_first_answer_when_the_date_is_past() -> None:
    time = NOON
    api = Api(parts=make_parts(now=lambda: time))
    body = b'{"type":"a","run_at":"2026-11-25T12:01:00Z"}'

    first = await api.client.post("/jobs", body, idempotency_key="k")
    time += timedelta(hours=1)
    second = await api.client.post("/jobs", body, idempotency_key="k")

    assert second.body == first.body
    assert second.json()["run_at"] == "2026-11-25T12:01:00.000000Z"


async def test_batch_of_both_kinds_is_taken_in_order() -> None:
    api = Api(parts=make_parts(buffer_size=2, max_waiting=3, workers=1))
    items = [b'{"type":"now"}', LATER, b'{"type":"now"}', LATER, LATER]

    answer = await api.client.post("/jobs/batch", b"[%b]" % b",".join(items))

    assert answer.status == 201
    assert [job["type"] for job in answer.json()] == ["now", "a", "now", "a", "a"]
    assert [job.get("run_at") for job in answer.json()] == [
        None,
        IN_90_SECONDS,
        None,
        IN_90_SECONDS,
        IN_90_SECONDS,
    ]
    ready = (await api.client.get("/health/ready")).json()
    assert (ready["buffered"], ready["waiting"]) == (2, 3)


@pytest.mark.parametrize(
    ("now", "later", "limit", "reason"),
    [
        (3, 0, 2, "as many as the buffer holds"),
        (3, 3, 2, "as many as the buffer holds"),
        (2, 4, 3, "as many as may wait for a later time"),
        (0, 4, 3, "as many as may wait for a later time"),
    ],
)
async def test_batch_that_can_never_fit_names_the_limit(
    now: int, later: int, limit: int, reason: str
) -> None:
    api = Api(parts=make_parts(buffer_size=2, max_waiting=3))
    items = [LATER] * min(later, 3) + [b'{"type":"now"}'] * now + [LATER] * max(later - 3, 0)

    problem = assert_problem(await api.client.post("/jobs/batch", b"[%b]" % b",".join(items)), 400)

    assert problem["limit"] == limit
    assert problem["detail"] == (
        f"a batch must have at most {limit} jobs, {reason}, got {now + later}"
    )
    assert stored(api) == []


@pytest.mark.parametrize("full", ["buffer", "waiting"])
async def test_batch_without_room_for_one_kind_is_refused_as_a_whole(full: str) -> None:
    api = Api(parts=make_parts(buffer_size=2, max_waiting=2))
    fill = b'[{"type":"now"}]' if full == "buffer" else b'[{"type":"a","delay":7}]'
    await api.client.post("/jobs/batch", fill)
    batch = b'[{"type":"now"},%b,{"type":"now"},%b]' % (LATER, LATER)

    answer = await api.client.post("/jobs/batch", batch)

    problem = assert_problem(answer, 429)
    assert len(stored(api)) == 1
    if full == "waiting":
        assert problem["detail"] == (
            "too many jobs wait for a later time; nothing was kept; try again in 7 s"
        )
        assert answer.headers["retry-after"] == "7"


async def test_bad_times_of_a_batch_are_named_and_none_is_kept() -> None:
    api = Api()
    body = b'[%b,{"type":"a","delay":"x"},%b,{"type":"a","run_at":1}]' % (LATER, LATER)

    problem = assert_problem(await api.client.post("/jobs/batch", body), 400)

    assert problem["index"] == [1, 3]
    assert "item 1: $.delay must be" in problem["detail"]
    assert "item 3: $.run_at must be" in problem["detail"]
    assert stored(api) == []


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize(
    ("member", "detail"),
    [(b'"run_at":"tomorrow"', A_TIME + "'tomorrow'"), (b'"delay":-1', SECONDS + "-1")],
)
async def test_bad_time_in_a_stream_is_named_and_what_came_before_it_is_in(
    member: bytes, detail: str, *, in_pieces: bool
) -> None:
    api = Api()
    lines = [LATER, b'{"type":"now"}', b'{"type":"a",%b}' % member, LATER, b'{"type":"now"}']
    pieces = [line + b"\n" for line in lines]

    answer = await api.client.post("/jobs/stream", pieces if in_pieces else b"".join(pieces))

    problem = assert_problem(answer, 400)
    assert (problem["accepted"], problem["line"]) == (2, 3)
    assert problem["detail"] == detail
    assert [job.type for job in stored(api)] == ["a", "now"]
    assert (api.parts.pool.schedule.count, api.parts.admission.buffered) == (1, 1)


async def test_full_waiting_room_refuses_delayed_jobs_and_takes_others() -> None:
    api = Api(parts=make_parts(max_waiting=1))
    await api.client.post("/jobs", b'{"type":"a","delay":90}')

    answer = await api.client.post("/jobs", LATER)

    problem = assert_problem(answer, 429)
    assert problem["retry_after"] == 60
    assert answer.headers["retry-after"] == "60"
    assert (await api.client.post("/jobs", b'{"type":"a"}')).status == 201
    assert len(stored(api)) == 2


async def test_delayed_lines_of_a_stream_take_no_slot() -> None:
    api = Api(parts=make_parts(buffer_size=1))
    body = b"\n".join([LATER] * 50 + [b'{"type":"now"}'] + [LATER] * 50)

    answer = await api.client.post("/jobs/stream", body)

    assert (answer.status, answer.json()) == (201, {"accepted": 101})
    assert api.parts.admission.buffered == 1
    assert api.parts.pool.schedule.count == 100


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_stream_beyond_the_waiting_room_is_refused_with_what_it_has_got_in(
    *, in_pieces: bool
) -> None:
    api = Api(parts=make_parts(max_waiting=3))
    lines = [b'{"type":"now"}\n', LATER + b"\n", LATER + b"\n", b'{"type":"a","delay":3}\n']
    lines += [b'{"type":"now"}\n', b"\n", LATER + b"\n", b'{"type":"now"}\n', b"no JSON\n"]

    answer = await api.client.post("/jobs/stream", lines if in_pieces else b"".join(lines))

    problem = assert_problem(answer, 429)
    assert problem["accepted"] == 5 == len(stored(api))
    assert problem["detail"] == (
        "too many jobs wait for a later time; 5 jobs are in; try again in 3 s"
    )
    assert (problem["retry_after"], answer.headers["retry-after"]) == (3, "3")


async def test_stream_that_waits_for_room_goes_on_to_its_delayed_lines(
    autojump_clock: MockClock,
) -> None:
    api = Api(parts=make_parts(buffer_size=1, workers=1, max_waiting=2, now=mock_now))
    lines = [b'{"type":"now"}', b'{"type":"now"}', b'{"type":"now"}', LATER, LATER, LATER]

    async def process(job: Job) -> Ending:
        await trio.sleep(1)
        return SUCCEEDED

    async with trio.open_nursery() as nursery:
        start_workers(api.parts, nursery, process)
        answer = await api.client.post("/jobs/stream", b"\n".join(lines))
        api.parts.admission.close()

    assert assert_problem(answer, 429)["accepted"] == 5


async def test_closed_pool_refuses_delayed_jobs() -> None:
    api = Api()
    api.parts.admission.close()

    assert_problem(await api.client.post("/jobs", LATER), 503)
    assert_problem(await api.client.post("/jobs/batch", b"[%b]" % LATER), 503)
    assert assert_problem(await api.client.post("/jobs/stream", LATER), 503)["accepted"] == 0
    assert stored(api) == []


async def test_client_waits_over_delay_and_retries(autojump_clock: MockClock) -> None:
    began: list[float] = []

    async def flaky(payload: object) -> int:
        began.append(trio.current_time())
        if len(began) < 3:
            raise OSError("away")
        return len(began)

    policy = RetryPolicy(attempts=3, backoff="constant", base=10, jitter=False)
    handlers = HandlerRegistry({"a": Handler.of(flaky, retry=policy)})
    api = Api(parts=make_parts(handlers, now=mock_now))
    got: list[Answer] = []

    async def submit() -> None:
        got.append(await api.client.post("/jobs", b'{"type":"a","delay":5}', prefer="wait=60"))

    async with trio.open_nursery() as nursery:
        for _ in range(api.parts.pool.worker_tasks.number):
            nursery.start_soon(api.parts.workers.run, api.parts.receive.clone())
        api.parts.receive.close()
        nursery.start_soon(api.parts.pool.run_schedule)
        await wait_all_tasks_blocked()
        await submit()
        api.parts.admission.close()

    job = got[0].json()
    assert began == [5, 15, 25]
    assert (job["outcome"], job["attempts"], job["result"]) == (Outcome.SUCCEEDED, 3, 3)
    assert got[0].headers["preference-applied"] == "wait=60"


async def test_client_that_waits_for_a_waiting_job_is_answered_when_the_pool_ends(
    autojump_clock: MockClock,
) -> None:
    api = Api(parts=make_parts(now=mock_now))
    job_id = (await api.client.post("/jobs", LATER)).json()["id"]
    got: list[Answer] = []

    async def wait() -> None:
        got.append(await api.client.get(f"/jobs/{job_id}", prefer="wait=60"))

    async def process(job: Job) -> Ending:
        raise AssertionError

    async with trio.open_nursery() as nursery:
        start_workers(api.parts, nursery, process)
        nursery.start_soon(api.parts.pool.run_schedule)
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        api.parts.admission.close()

    assert trio.current_time() == 0
    assert got[0].json()["status"] == JobStatus.PENDING
    assert got[0].json()["run_at"] == IN_90_SECONDS


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("number", [5_000, pytest.param(12_000, marks=pytest.mark.proof)])
async def test_very_many_due_at_once_beside_streams_and_single_requests_starve_nobody(
    number: int, autojump_clock: MockClock
) -> None:
    due = 1000.0
    api = Api(
        parts=make_parts(
            workers=10, buffer_size=100, max_waiting=number, keep_completed=0, now=mock_now
        )
    )
    admission, schedule = api.parts.admission, api.parts.pool.schedule
    began: Counter[str] = Counter()
    answers: Counter[int] = Counter()
    chance = random.Random(0)  # noqa: S311 - to be repeated

    async def process(job: Job) -> Ending:
        began[job.type] += 1
        await trio.sleep(chance.uniform(0.005, 0.015))
        return SUCCEEDED

    async def stream() -> None:
        async with api.client.open("POST", "/jobs/stream") as exchange:
            while True:
                await exchange.send(b'{"type":"stream"}\n' * 10)

    async def post() -> None:
        while True:
            asked = trio.current_time()
            answer = await api.client.post("/jobs", b'{"type":"single"}')
            assert trio.current_time() == asked  # accepted or refused at once
            answers[answer.status] += 1
            await trio.sleep(0.0005)

    async def look() -> None:
        job_id = api.parts.store.page_nowait(limit=1)[0].id
        while True:
            asked = trio.current_time()
            assert (await api.client.get(f"/jobs/{job_id}")).status in (200, 404)
            assert trio.current_time() == asked
            await trio.sleep(0.01)

    admission.submit_all([JobSpec("waiting", b"1", due)] * number)
    async with trio.open_nursery() as nursery:
        start_workers(api.parts, nursery, process)
        await trio.sleep(due - 0.5)
        for _ in range(2):
            nursery.start_soon(stream)
        nursery.start_soon(post)
        nursery.start_soon(look)
        await trio.sleep(0.5)
        assert not began["waiting"]
        await trio.sleep(0.5)  # the buffer has had only jobs of the others until they came due
        began.clear()
        answers.clear()
        await trio.sleep(1)  # in which the workers process 1,000 jobs
        shares = dict(began)
        nursery.cancel_scope.cancel()

    # One of three who wait for room, and single submissions alternate with all of them.
    assert sum(shares.values()) == pytest.approx(1000, rel=0.05)
    assert shares["single"] == pytest.approx(500, rel=0.15)
    assert shares["waiting"] == pytest.approx(shares["stream"] / 2, rel=0.2)
    assert answers[201] == pytest.approx(500, rel=0.15)
    assert answers.keys() <= {201, 429}
    # Nobody is lost: what has not run waits, or is in the buffer.
    assert schedule.count > number - 2000
    assert api.parts.pool.unfinished().count == api.parts.store.statistics().pending
