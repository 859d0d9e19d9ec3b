"""What a client sees of jobs: all, or not what is hidden, or neither payloads nor messages."""

import json
from collections.abc import Sequence
from typing import Any, Literal

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.api.support import MAX_BODY_BYTES, accept, answer_now
from tests.api.test_openapi import validator
from tests.asgi import Answer, Client
from tests.support import (
    NOON,
    AccessControl,
    HandlerRegistry,
    HttpSettings,
    Later,
    Parts,
    TokenTable,
    make_parts,
)
from trio_jobs import Ending, Handler, HandlerError, JobError, Outcome, Progress, open_jobs
from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.fast_path import FastPath
from trio_jobs.handlers.progress_report import ProgressReport
from trio_jobs.handlers.running_job import RunningJob
from trio_jobs.job import Left
from trio_jobs.server.access_middleware import AccessMiddleware

TOKENS = TokenTable.of(["submit s-token", "read r-token", "control c-token"])
SECRET = "5ecret"  # noqa: S105
PAYLOAD = b'{"card":{"number":"5ecret"},"amount":1.10}'
RESULT = b'[{"number":"5ecret"},{"card":{"number":"5ecret"},"sent":true}]'
LEFT = Left(progress=Progress(done=1, total=3, message=SECRET, at=NOON), lines=(SECRET,))
ERROR = JobError(type="ValueError", message=SECRET)
HIDE = ("card.number", "number")

Payloads = Literal["read", "control"]


@pytest.fixture
def fast_path() -> None:
    """The tests ask both ways."""


class TwoWays:
    """One pool behind access control: with the fast path and without it.

    Attributes:
        ids: A job in each state, by its name.
    """

    def __init__(self, payloads: Payloads = "read", hide: Sequence[str] = ()) -> None:
        handlers = {"default": Handler.of(accept, hide=hide), "other": Handler.of(accept)}
        self.parts: Parts = make_parts(HandlerRegistry(handlers))
        http = HttpSettings(payloads=payloads, max_body_bytes=MAX_BODY_BYTES)
        context = ApiContext(pool=self.parts.pool, http=http, shutdown_retry_after=7)
        self.fast = FastPath(context, find=self.parts.store.find_nowait)
        self.client = Client(AccessMiddleware(self.fast.app, AccessControl(tokens=TOKENS)))
        self.ids = {
            "succeeded": self._end(Ending(outcome=Outcome.SUCCEEDED, result=RESULT)),
            "failed": self._end(Ending(outcome=Outcome.FAILED, error=ERROR, left=LEFT)),
            "timed out": self._end(Ending(outcome=Outcome.TIMED_OUT, error=ERROR)),
            "cancelled": self._end(Ending(outcome=Outcome.CANCELLED)),
            "retrying": self._end(Later(seconds=60, error=ERROR, left=LEFT)),
            "processing": self._end(None),
            "pending": self.parts.admission.submit("email", PAYLOAD).id,
        }

    def _end(self, how: Ending | Later | None) -> str:
        job = self.parts.admission.submit("email", PAYLOAD)
        self.parts.receive.receive_nowait()
        self.parts.workers.claim(job.id)
        if isinstance(how, Ending):
            self.parts.workers.complete(job.id, how, duration=0.5)
        elif how is not None:
            self.parts.workers.postpone(job.id, how)
        return job.id

    async def get(self, target: str, token: str, **headers: str) -> Answer:
        """The answer of the ordinary way, after a check that the fast path has the same."""
        access = TOKENS.find(token.encode())
        assert access is not None
        answer = await self.client.get(target, authorization=f"Bearer {token}", **headers)
        fast = answer_now(self.fast, "GET", target, headers, b"", access)
        assert (fast is not None) == (target.startswith("/jobs/") and not headers)
        if fast is not None:
            assert (fast.status, fast.body, fast.headers) == (
                answer.status,
                answer.body,
                answer.headers,
            )
        return answer


STATES = ["succeeded", "failed", "timed out", "cancelled", "retrying", "processing", "pending"]


@pytest.mark.parametrize("state", STATES)
async def test_read_role_sees_neither_payload_nor_messages_if_they_are_for_control(
    state: str,
) -> None:
    api = TwoWays("control")
    whole = (await api.get(f"/jobs/{api.ids[state]}", "c-token")).json()

    answer = await api.get(f"/jobs/{api.ids[state]}", "r-token")

    assert SECRET not in answer.body.decode()
    wanted = {"withheld": True} | whole
    for name in ("payload", "result", "log"):
        wanted.pop(name, None)
    for name in ("error", "last_error", "progress"):
        if name in wanted:
            del wanted[name]["message"]
    assert answer.json() == wanted
    waited = await api.get(f"/jobs/{api.ids[state]}", "r-token", prefer="wait=0")
    assert waited.body == answer.body


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    ("payloads", "token"),
    [("read", "r-token"), ("control", "c-token"), ("read", "s-token"), ("control", "s-token")],
)
async def test_others_see_all(state: str, payloads: Payloads, token: str) -> None:
    api = TwoWays(payloads)

    job = (await api.get(f"/jobs/{api.ids[state]}", token)).json()

    assert job["payload"] == json.loads(PAYLOAD)
    assert "withheld" not in job
    if state == "succeeded":
        assert job["result"] == json.loads(RESULT)
    if state in ("failed", "retrying"):
        assert job["progress"]["message"] == SECRET
        assert job["log"] == [SECRET]
        assert job["error" if state == "failed" else "last_error"]["message"] == SECRET


@pytest.mark.parametrize("query", ["", "?limit=1000", "?limit=9&order=ended&rerun=no"])
async def test_lists_have_no_messages_where_they_are_withheld(query: str) -> None:
    api = TwoWays("control")

    shown = await api.get(f"/jobs{query}", "c-token")
    answer = await api.get(f"/jobs{query}", "r-token")

    assert SECRET in shown.body.decode()
    assert SECRET not in answer.body.decode()
    for job, whole in zip(answer.json(), shown.json(), strict=True):
        has_message = "error" in whole or "last_error" in whole
        for name in {"error", "last_error"} & whole.keys():
            del whole[name]["message"]
        assert job == whole | ({"withheld": True} if has_message else {})


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("token", ["s-token", "r-token", "c-token"])
async def test_nobody_sees_what_the_handler_hides_and_the_job_is_untouched(
    state: str, token: str
) -> None:
    api = TwoWays(hide=HIDE)
    before = api.parts.store.find_nowait(api.ids[state])

    answer = await api.get(f"/jobs/{api.ids[state]}", token)

    job = answer.json()
    assert job["payload"] == {"card": {"number": "•••"}, "amount": 1.1}
    assert b'"amount":1.10' in answer.body
    if state == "succeeded":
        assert job["result"] == [{"number": "•••"}, {"card": {"number": "•••"}, "sent": True}]
    assert before is api.parts.store.find_nowait(api.ids[state])
    assert before.payload == PAYLOAD


async def test_type_without_hidden_values_is_shown_as_it_is() -> None:
    api = TwoWays(hide=HIDE)
    job = api.parts.admission.submit("other", PAYLOAD)

    answer = await api.get(f"/jobs/{job.id}", "c-token")

    assert PAYLOAD in answer.body


@pytest.mark.parametrize("state", STATES)
async def test_answers_are_as_described(state: str) -> None:
    api = TwoWays("control", HIDE)
    described = (await api.client.get("/openapi.json", authorization="Bearer r-token")).json()

    for token in ("r-token", "c-token", "s-token"):
        job = (await api.get(f"/jobs/{api.ids[state]}", token)).json()
        validator(described, "Job").validate(job)
    for job in (await api.get("/jobs", "r-token")).json():
        validator(described, "BriefJob").validate(job)
    del job["created_at"]
    assert not validator(described, "BriefJob").is_valid(job)
    without: dict[str, Any] = (await api.get(f"/jobs/{api.ids[state]}", "r-token")).json()
    del without["withheld"]
    assert not validator(described, "Job").is_valid(without)


async def test_submitter_who_waits_gets_the_result_without_what_is_hidden() -> None:
    async def charge(_payload: object) -> dict[str, object]:
        return {"card": {"number": SECRET}, "paid": True}

    handlers = {"charge": Handler.of(charge, hide=HIDE)}
    async with open_jobs(handlers, workers=1) as jobs:
        client = Client(jobs.asgi(token=TOKENS, payloads="control"))
        body = b'{"type":"charge","payload":%b}' % PAYLOAD
        headers = {"authorization": "Bearer s-token", "prefer": "wait=9"}

        answers = [await client.post("/jobs", body, **headers)]
        job_id = answers[0].json()["id"]
        answers.append(await client.get(f"/jobs/{job_id}", **headers))

        for answer in answers:
            assert answer.json()["result"] == {"card": {"number": "•••"}, "paid": True}
            assert SECRET not in answer.body.decode()
        assert jobs.get(job_id).payload == PAYLOAD
        shown = await client.get(f"/jobs/{job_id}", authorization="Bearer r-token")
        assert "result" not in shown.json()


async def test_cancel_and_rerun_show_the_job_without_what_is_hidden() -> None:
    api = TwoWays("control", HIDE)
    pending, failed = api.ids["pending"], api.ids["failed"]

    cancelled = await api.client.post(f"/jobs/{pending}/cancel", authorization="Bearer s-token")
    done = await api.client.post(
        f"/jobs/{api.ids['cancelled']}/cancel", authorization="Bearer c-token"
    )
    rerun = await api.client.post(
        f"/jobs/{failed}/rerun", b"", authorization="Bearer c-token", prefer="wait=0"
    )

    assert [cancelled.status, done.status, rerun.status] == [202, 200, 201]
    for answer in (cancelled, done, rerun):
        assert answer.json()["payload"] == {"card": {"number": "•••"}, "amount": 1.1}


async def test_payload_that_a_handler_gets_has_what_is_hidden() -> None:
    seen = []

    async def charge(payload: dict[str, object]) -> None:
        seen.append(payload)

    async with open_jobs({"charge": Handler.of(charge, hide="card")}, workers=1) as jobs:
        jobs.submit("charge", {"card": {"number": SECRET}})
        await wait_all_tasks_blocked()

    assert seen == [{"card": {"number": SECRET}}]


@pytest.mark.parametrize("hide", ["", "a..b", ["a", "b."], [7], "a\n"])
def test_what_is_no_path_is_refused(hide: Any) -> None:  # noqa: ANN401
    with pytest.raises(HandlerError, match=r"must have paths like 'card.number' as hide, got "):
        Handler.of(accept, hide=hide)


async def test_value_of_payloads_is_checked() -> None:
    async with open_jobs({"a": accept}) as jobs:
        with pytest.raises(ValueError, match="payloads must be one of 'control', 'read'"):
            jobs.asgi(payloads="nobody")  # type: ignore[arg-type]


async def test_message_of_a_running_job_is_withheld_as_that_of_an_ended_one() -> None:
    api = TwoWays("control")
    pool, job_id = api.parts.pool, api.ids["processing"]
    running = RunningJob(pool.store.find_nowait(job_id), trio.current_time())
    running.note_report(trio.current_time, ProgressReport.of(1, 3, SECRET))
    pool.executor.running[job_id] = running

    for target in ("/pool", f"/jobs/{job_id}"):
        assert SECRET in (await api.get(target, "c-token")).body.decode()
        answer = await api.get(target, "r-token")
        assert b'"progress":{"done":1,"total":3,"at":' in answer.body
        assert SECRET not in answer.body.decode()
