"""`FakeServer`: what the client needs of a server, in the memory and the virtual time of a test."""

import itertools
import json
import re

import anyio
import httpx

from tests.client.support import job_answer, problem


class FakeServer(httpx.AsyncBaseTransport):
    """Keeps jobs that complete by the clock.

    Attributes:
        jobs: When each job completes, by id, and its payload.
        peak: The most requests at a time.
        looks: The ids of the jobs that clients have looked at, in order.
        lose: For each answer, whether the client gets a lost connection instead.
        max_waiters: How many looks may wait at a time.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, tuple[float, object]] = {}
        self.keys: dict[str, str] = {}
        self.peak = 0
        self.looks: list[str] = []
        self.lose: itertools.repeat[bool] | itertools.cycle[bool] = itertools.repeat(False)
        self.max_waiters = 10_000
        self._numbers = itertools.count(1)
        self._requests = 0
        self._waiters = 0

    def add(self, seconds: float, payload: object = None) -> str:
        """A new job that completes after so many seconds; its id."""
        job_id = f"job-{next(self._numbers)}"
        self.jobs[job_id] = anyio.current_time() + seconds, payload
        return job_id

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._requests += 1
        self.peak = max(self.peak, self._requests)
        try:
            answer = await self._answer(request)
        finally:
            self._requests -= 1
        if next(self.lose):
            raise httpx.ReadError("the connection is lost")
        return answer

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        await anyio.sleep(0.001)
        method, path = request.method, request.url.path
        if (method, path) == ("POST", "/jobs/batch"):
            jobs = [self._admit(item) for item in json.loads(request.content)]
            return httpx.Response(201, json=jobs)
        job_id = path.removeprefix("/jobs/")
        self.looks.append(job_id)
        return await self._look(job_id, request.headers.get("Prefer", ""))

    def _admit(self, item: dict[str, object]) -> object:
        key = str(item["key"])
        if key not in self.keys:
            self.keys[key] = self.add(0, item["payload"])
        return job_answer(id=self.keys[key], type=item["type"]).json()

    async def _look(self, job_id: str, prefer: str) -> httpx.Response:
        if job_id not in self.jobs:
            return problem(404, f"no job {job_id!r}")
        wait = re.fullmatch(r"wait=(\d+)", prefer)
        left = self.jobs[job_id][0] - anyio.current_time()
        if wait and left > 0 and self._waiters < self.max_waiters:
            self._waiters += 1
            try:
                await anyio.sleep(min(left, int(wait[1])))
            finally:
                self._waiters -= 1
        if job_id not in self.jobs:
            return problem(404, f"no job {job_id!r}")
        end, payload = self.jobs[job_id]
        if anyio.current_time() < end:
            return job_answer(200, {"Retry-After": "1"}, id=job_id)
        return job_answer(
            id=job_id, status="completed", outcome="succeeded", payload=payload, result=payload
        )
