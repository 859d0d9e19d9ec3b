"""The client in an application, beside a pool in the same process."""

import httpx
from fastapi import FastAPI

from tests.on_asyncio import on_asyncio
from trio_jobs import Handler, JobQueue
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
