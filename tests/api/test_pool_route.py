"""`GET /pool`: what the pool does now."""

import re
import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.api.support import SUBMISSION, Api
from tests.api.test_openapi import document, validator
from tests.support import make_parts, running_pool
from trio_jobs import Handler, Outcome
from trio_jobs.api.drain_state import DrainState
from trio_jobs.api.pool_route import MAX_SLOTS
from trio_jobs.handlers.handler import Run

NOTHING = {
    "submitted": 0,
    "pending": 0,
    "retrying": 0,
    "processing": 0,
    "outcomes": {},
    "attempts_failed": 0,
    "interruptions": 0,
    "run_p50_seconds": None,
    "run_p95_seconds": None,
    "wait_p50_seconds": None,
    "wait_p95_seconds": None,
}


async def test_idle_pool_has_the_members_of_ready_and_no_slots() -> None:
    api = Api()
    await api.client.post("/jobs", SUBMISSION)
    ready = (await api.client.get("/health/ready")).json()

    answer = await api.client.get("/pool")

    assert answer.status == 200
    state = answer.json()
    assert state.pop("now") == "2026-11-25T12:00:00.000000Z"
    assert state.pop("started_at") == "2026-11-25T12:00:00.000000Z"
    assert re.fullmatch("[0-9a-f]{8}", state.pop("boot"))
    counted = {name: state.pop(name) for name in state.keys() - ready.keys() - {"slots"}}
    assert state == {**ready, "slots": []}
    assert (state["peak_buffered"], state["pending"], state["kept"]) == (1, 1, 0)
    assert counted == {
        "oldest_pending_seconds": 0,
        "totals": dict.fromkeys(Outcome, 0),
        "ended_per_second": [[0, 0]] * 60,
        "types": {"email": NOTHING | {"submitted": 1, "pending": 1}},
    }


async def test_pool_that_counts_nothing_has_no_counts() -> None:
    api = Api(parts=make_parts(ui=False))
    ready = (await api.client.get("/health/ready")).json()

    state = (await api.client.get("/pool")).json()

    assert state.keys() == ready.keys() | {"now", "boot", "started_at", "slots"}


async def test_slots_are_the_running_jobs_longest_first(autojump_clock: trio.abc.Clock) -> None:
    assert autojump_clock
    leave = threading.Event()

    async def sleep(_payload: object) -> None:
        await trio.sleep_forever()

    def block(_payload: object) -> None:
        leave.wait()

    handlers = {"sleep": Handler.of(sleep), "block": Handler.of(block)}
    async with running_pool(handlers, workers=2) as running:
        api = Api(parts=running.parts)
        first = running.submit("sleep")
        await trio.sleep(2)
        second = running.submit("block")
        running.submit("sleep")
        while len(running.executor.running) < 2:
            await trio.lowlevel.checkpoint()
        await running.parts.pool.cancel(second.id)

        state = (await api.client.get("/pool")).json()
        running.parts.admission.close()
        closed = await api.client.get("/pool")
        leave.set()
        running.scope.cancel()

    assert (state["status"], state["busy"], state["pending"]) == ("ready", 2, 1)
    common = {"attempt": 1, "begun": True}
    assert state["slots"] == [
        {
            "id": first.id,
            "type": "sleep",
            "running_seconds": 2,
            "run": "trio",
            "cancel": False,
            **common,
        },
        {
            "id": second.id,
            "type": "block",
            "running_seconds": 0,
            "run": "thread",
            "cancel": True,
            **common,
        },
    ]
    assert (closed.status, closed.json()["status"]) == (200, "shutting down")
    assert len(closed.json()["slots"]) == 2


async def test_at_most_200_slots_are_named() -> None:
    async def sleep(_payload: object) -> None:
        await trio.sleep_forever()

    async with running_pool({"sleep": sleep}, workers=300, buffer_size=300) as running:
        api = Api(parts=running.parts)
        jobs = [running.submit("sleep") for _ in range(300)]
        await wait_all_tasks_blocked()
        state = (await api.client.get("/pool")).json()
        running.scope.cancel()

    assert state["busy"] == 300
    begun = {job.id for job in jobs}
    assert len({slot["id"] for slot in state["slots"]} & begun) == MAX_SLOTS


@pytest.mark.parametrize(("keeps_pending", "left"), [(False, 5), (True, 2)])
async def test_state_in_a_stop_says_what_is_left_and_for_how_long(
    keeps_pending: bool, left: int
) -> None:
    async def sleep(_payload: object) -> None:
        await trio.sleep_forever()

    grace = iter([20.5, -1.0])
    drain = DrainState(keeps_pending=keeps_pending, grace_left=lambda: next(grace))
    limited = Handler.of(sleep, max_running=1)
    async with running_pool(
        {"sleep": sleep, "limited": limited, "paused": sleep}, workers=2
    ) as running:
        api = Api(parts=running.parts, drain=drain)
        running.parts.pool.paused.pause(["paused"])
        # Of these, one each is running, and the others are held: one by the limit of its type, and
        # one by an operator.
        for type_ in ("paused", "limited", "limited", "sleep"):
            running.submit(type_)
            await wait_all_tasks_blocked()
        before = (await api.client.get("/pool")).json()
        for type_ in ("sleep", "sleep"):  # in the buffer
            running.submit(type_)
        running.parts.admission.close()

        stopping = (await api.client.get("/pool")).json()
        over = (await api.client.get("/pool")).json()
        running.scope.cancel()

    assert "stop" not in before
    assert (before["busy"], before["held"]) == (2, 2)
    assert stopping["stop"] == {"jobs_left": left, "grace_seconds_left": 20.5}
    assert over["stop"]["grace_seconds_left"] == 0


async def test_answer_is_as_the_document_says() -> None:
    async def sleep(_payload: object) -> None:
        await trio.sleep_forever()

    async with running_pool({"sleep": sleep}) as running:
        drain = DrainState(keeps_pending=False, grace_left=lambda: 20.5)
        api = Api(parts=running.parts, drain=drain)
        running.submit("sleep")
        await wait_all_tasks_blocked()
        running.parts.admission.close()
        state = (await api.client.get("/pool")).json()
        counts = (await api.client.get("/jobs/counts")).json()
        described = await document(api)
        running.scope.cancel()

    validator(described, "PoolState").validate(state)
    validator(described, "JobCounts").validate(counts)
    assert state["stop"] == {"jobs_left": 1, "grace_seconds_left": 20.5}
    assert [slot["run"] for slot in state["slots"]] == [Run.TRIO]
