"""`trio_jobs.asyncio.open_jobs` in asyncio programs, and a `JobQueue` in the tests of its users."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx
import pytest
import trio
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response

from tests.command import PATIENCE
from tests.on_asyncio import cancelled_at, on_asyncio
from trio_jobs import Handler, JobContext, JobQueue, Outcome, ShuttingDownError, trio_thread
from trio_jobs.asyncio import AsyncioJobs, open_jobs


async def double(number: int) -> int:
    await trio.lowlevel.checkpoint()
    return number * 2


async def stuck(_payload: object) -> None:
    await trio.sleep_forever()


async def triple(number: int) -> int:
    await asyncio.sleep(0.001)
    return number * 3


HANDLERS = {"double": double, "triple": Handler.of(triple, run="asyncio"), "stuck": stuck}


@on_asyncio
async def test_block_has_a_pool_and_its_api() -> None:
    async with open_jobs(HANDLERS, workers=1) as jobs:
        job = await jobs.submit("double", 21)
        assert await jobs.result(job.id, type=int) == 42

        transport = httpx.ASGITransport(jobs.asgi(token="sesame"))  # noqa: S106
        client = httpx.AsyncClient(transport=transport, base_url="http://localhost")
        assert (await client.get("/jobs")).status_code == 401
        client.headers["Authorization"] = "Bearer sesame"
        assert [each["id"] for each in (await client.get("/jobs")).json()] == [job.id]

    refused = await client.get("/jobs")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "25")
    with pytest.raises(ShuttingDownError, match="shutting down"):
        await jobs.get(job.id)


@on_asyncio
async def test_wait_may_have_a_time_limit() -> None:
    async with open_jobs(HANDLERS, max_waiters=1) as jobs:
        job = await jobs.submit("stuck")
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(jobs.wait(job.id), 0.01)
        await jobs.cancel(job.id)
        assert (await jobs.wait(job.id)).outcome is Outcome.CANCELLED


@on_asyncio
async def test_program_that_is_cancelled_while_it_drains_cuts_its_jobs_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs = job = None
    draining = asyncio.Event()

    async def program() -> None:
        nonlocal jobs, job
        async with open_jobs(HANDLERS, workers=1, buffer_size=1, grace_period=1000) as jobs:
            job = await jobs.submit("stuck")
            await jobs.submit_when_possible("stuck")  # a worker has taken the first one
            draining.set()

    task = asyncio.create_task(program())
    await draining.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert jobs is not None
    assert job is not None
    assert [each.message for each in caplog.records] == ["jobs_interrupted", "jobs_not_started"]
    begun, waiting = jobs.unfinished()
    assert (begun, len(waiting)) == ([job.id], 1)


def test_handler_that_blocks_trio_holds_up_neither_the_end_nor_cancelled_calls(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor the end of the program's loop, where calls still wait. The log names the jobs."""
    monkeypatch.setattr(trio_thread, "_UNWINDING", 0.05)
    blocking, release, ended = threading.Event(), threading.Event(), threading.Event()

    async def block(_payload: object) -> None:
        blocking.set()
        release.wait()
        ended.set()

    jobs: AsyncioJobs | None = None
    calls: list[asyncio.Task[Any]] = []

    async def program() -> None:
        nonlocal jobs
        async with open_jobs({"block": block}, grace_period=0.01) as jobs:
            job = await jobs.submit("block")
            await asyncio.to_thread(blocking.wait)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(jobs.get(job.id), 0.01)
            calls.append(asyncio.create_task(jobs.get(job.id)))
            await asyncio.sleep(0)  # it waits for Trio now

    asyncio.run(program())

    assert [each.message for each in caplog.records] == ["pool_still_running", "jobs_interrupted"]
    assert calls[0].cancelled()
    assert jobs is not None
    assert vars(caplog.records[1])["job_ids"] == jobs.unfinished()[0][0]
    release.set()
    assert ended.wait(PATIENCE)


@on_asyncio
async def test_task_that_waits_for_a_job_in_the_drain_gets_its_result() -> None:
    async with open_jobs(HANDLERS, grace_period=1000) as jobs:
        job = await jobs.submit("double", 21)
        result = asyncio.create_task(jobs.result(job.id))
        await asyncio.sleep(0)

    assert await result == 42


@on_asyncio
async def test_grace_period_has_the_range_of_its_setting() -> None:
    with pytest.raises(ValueError, match=r"^grace_period must be a number of seconds"):
        async with open_jobs(HANDLERS, grace_period=math.nan):
            pytest.fail("the block is entered")


@on_asyncio
async def test_program_may_be_cancelled_at_each_step(tmp_path: Path) -> None:
    """The file shows that its pool has ended: another one could not open it before."""
    path = tmp_path / "jobs.db"
    returned: list[str] = []

    async def program(key: str) -> None:
        async with open_jobs(HANDLERS, path=path, grace_period=1000) as jobs:
            job = await jobs.submit("double", 21, key=key)
            returned.append(job.id)
            assert await jobs.result(job.id) == 42
            [other] = await jobs.submit_all([("triple", 1)])
            returned.append(other.id)
            await jobs.wait(other.id)

    steps = 0
    for step in range(1000):
        key = f"key-{step}"
        task = asyncio.create_task(whole(cancelled_at(step, program(key))))
        await asyncio.wait([task])
        async with open_jobs(HANDLERS, path=path, grace_period=1000) as jobs:
            # Whether the job is in is unknown: with its key it is once.
            again = await jobs.submit("double", 21, key=key)
            assert await jobs.result(again.id) == 42
            ids = [job.id for job in await jobs.page(limit=10_000)]
            assert set(returned) <= set(ids)
            for job_id in ids:
                assert (await jobs.wait(job_id)).outcome is Outcome.SUCCEEDED
        if not task.cancelled():
            steps = await task
            break
    assert steps > 5


async def whole(steps: Awaitable[int]) -> int:
    return await steps


# A FastAPI application, and its tests. --------------------------------------------------------


class Order(BaseModel):
    """What the route below takes."""

    number: int


def make_app() -> FastAPI:
    queue = JobQueue({"double": Handler.of(double, timeout=10)}, workers=2)
    app = FastAPI(lifespan=queue.lifespan)
    app.mount("/queue", queue)

    @app.post("/plain-orders")
    def plain_order(order: Order) -> dict[str, str]:
        return {"job": anyio.from_thread.run(queue.submit, "double", order.number).id}

    @app.post("/orders")
    async def order(order: Order) -> dict[str, str]:
        return {"job": (await queue.submit("double", order.number)).id}

    return app


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_users_test_client_opens_it_as_often_as_it_likes(
    backend: Literal["asyncio", "trio"],
) -> None:
    app = make_app()
    for _ in range(2):
        with TestClient(app, base_url="http://localhost", backend=backend) as client:
            for path in ("/orders", "/plain-orders"):
                job_id = client.post(path, json={"number": 21}).json()["job"]
                answer = client.get(f"/queue/jobs/{job_id}", headers={"Prefer": "wait=30"})
                assert answer.json()["result"] == 42
    assert TestClient(app).get("/queue/health").status_code == 503


def test_handler_uses_what_the_applications_own_lifespan_has_opened() -> None:
    async def fetch(path: str, context: JobContext[httpx.AsyncClient]) -> str:
        return (await context.state.get(path)).text

    queue = JobQueue({"fetch": Handler.of(fetch, run="asyncio")})

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, text=str(request.url)))
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
            queue.lifespan(state={"asyncio": client}),
        ):
            yield

    app = FastAPI(lifespan=lifespan)
    app.mount("/queue", queue)
    for _ in range(2):
        with TestClient(app, base_url="http://localhost") as users_client:
            job = {"type": "fetch", "payload": "/stock"}
            answer = users_client.post("/queue/jobs", json=job, headers={"Prefer": "wait=30"})
            assert answer.json()["result"] == "http://shop/stock"


def test_middleware_of_the_application_sees_the_mounted_api() -> None:
    class Stamp(BaseHTTPMiddleware):
        async def dispatch(
            self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
        ) -> Response:
            answer = await call_next(request)
            answer.headers["X-Stamp"] = request.url.path
            return answer

    app: Any = make_app()
    app.add_middleware(Stamp)
    with TestClient(app, base_url="http://localhost") as client:
        line = b'{"type": "double", "payload": 1}\n'
        answer = client.post("/queue/jobs/stream", content=line * 300)
        assert answer.json() == {"accepted": 300}
        assert answer.headers["x-stamp"] == "/queue/jobs/stream"
