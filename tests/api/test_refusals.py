"""Which refusals are counted, and under which reason."""

from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest
import trio

from tests.api.support import Api, FakeMetrics
from tests.support import Parts, make_parts
from trio_jobs.pool.refusals import (
    StoreTimeoutError,
    StoreUnavailableError,
    StoreWriteError,
)

JOB = {"type": "email", "payload": 1}
LATER = {**JOB, "delay": 60}


def counting(parts: Parts) -> tuple[Api, Counter[str]]:
    """An API, and what it counts."""
    metrics = FakeMetrics()
    return Api(parts=parts, metrics=metrics), metrics.refusals


async def submit(api: Api, *jobs: object) -> int:
    """By one way for each number of jobs: single, by Quart with a key, batch, stream."""
    lines = b"\n".join(map(msgspec.json.encode, jobs))
    answers = [
        await api.client.post("/jobs", json=jobs[0]),
        await api.client.post("/jobs", json=jobs[0], idempotency_key="a"),
        await api.client.post("/jobs/batch", json=jobs),
        await api.client.post("/jobs/stream", lines),
    ]
    [status] = {each.status for each in answers}
    return status


async def test_full_buffer_counts_each_refused_request_once() -> None:
    api, refusals = counting(make_parts(buffer_size=1, workers=1))
    assert (await api.client.post("/jobs", json=JOB)).status == 201

    for body in (JOB, JOB):
        assert (await api.client.post("/jobs", json=body)).status == 429
    assert (await api.client.post("/jobs", json=JOB, idempotency_key="a")).status == 429
    assert (await api.client.post("/jobs/batch", json=[JOB])).status == 429

    assert refusals == {"full": 4}


async def test_closed_pool_counts_by_every_way() -> None:
    api, refusals = counting(make_parts())
    api.parts.admission.close()

    assert await submit(api, JOB) == 503
    assert refusals == {"closed": 4}


async def test_too_many_delayed_jobs_count_apart_from_a_full_buffer() -> None:
    api, refusals = counting(make_parts(max_waiting=0))

    assert (await api.client.post("/jobs", json=LATER)).status == 429
    assert (await api.client.post("/jobs/stream", msgspec.json.encode(LATER))).status == 429
    assert refusals == {"waiting_full": 2}


@pytest.mark.parametrize(
    "error", [StoreWriteError("full"), StoreUnavailableError(), StoreTimeoutError(1)]
)
async def test_disk_that_fails_counts(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> Sequence[object]:
        raise error

    api, refusals = counting(make_parts())
    for name in ("admit", "admit_all", "admit_up_to"):
        monkeypatch.setattr(api.parts.admission, name, fail)
    monkeypatch.setattr(api.parts.admission, "admit_up_to_nowait", lambda _: [])

    assert (await api.client.post("/jobs", json=JOB, idempotency_key="a")).status > 500
    assert (await api.client.post("/jobs/batch", json=[JOB])).status > 500
    assert (await api.client.post("/jobs/stream", msgspec.json.encode(JOB))).status > 500
    assert refusals == {"disk": 3}


async def test_faults_of_clients_and_unknown_jobs_are_no_refusals_of_the_pool() -> None:
    api, refusals = counting(make_parts())

    assert (await api.client.post("/jobs", json={})).status == 400
    assert (await api.client.post("/jobs/stream", b"{")).status == 400
    assert (await api.client.get("/jobs/00000000-0000-0000-0000-000000000000")).status == 404
    await trio.lowlevel.checkpoint()
    assert refusals == {}


async def test_paused_intake_counts_by_every_way() -> None:
    api, refusals = counting(make_parts())
    api.parts.admission.intake.pause()

    assert await submit(api, JOB) == 503
    assert refusals == {"paused": 4}
