"""The client in an application, beside a pool in the same process."""

import httpx
import pytest
import trio
from fastapi import FastAPI

from tests.on_asyncio import on_asyncio
from trio_jobs import Handler, JobQueue, Jobs
from trio_jobs.client import AsyncClient


async def area(width: int, height: int) -> int:
    return width * height


@on_asyncio
async def test_application_talks_to_a_queue_in_the_same_process() -> None:
    queue = JobQueue({"area": Handler.of(area, run="asyncio")})
    app = FastAPI()

    @app.get("/area/{width}")
    async def ask(width: int) -> int:
        return await jobs.run("area", {"width": width, "height": 4}, result=int)

    async with (
        queue.lifespan(),
        httpx.AsyncClient(transport=httpx.ASGITransport(queue)) as http,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://web") as browser,
    ):
        jobs = AsyncClient("http://localhost", http=http)
        assert (await browser.get("/area/3")).json() == 12


async def nap(seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


@pytest.mark.trio_jobs({"nap": nap})
async def test_map_talks_to_a_pool_in_the_same_process(jobs: Jobs) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(jobs.asgi())) as http:
        client = AsyncClient("http://localhost", http=http)
        async with client.map("nap", [3600] * 25, in_flight=10) as results:
            assert [result.value() async for result in results] == [3600] * 25


@on_asyncio
async def test_map_talks_to_a_queue_in_the_same_process() -> None:
    queue = JobQueue({"area": Handler.of(area, run="asyncio")})
    sizes = [{"width": number, "height": 2} for number in range(200)]

    async with queue.lifespan(), httpx.AsyncClient(transport=httpx.ASGITransport(queue)) as http:
        client = AsyncClient("http://localhost", http=http)
        async with client.map("area", sizes, ordered=True, result=int) as results:
            assert [result.value() async for result in results] == [*range(0, 400, 2)]
