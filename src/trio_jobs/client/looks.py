"""`Looks`: looks at jobs in the server, each of which waits for the end of its job.

Rule: few looks of a client are under way at a time; if there are more, they take turns.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from urllib.parse import quote

import anyio
import httpx
import msgspec
from anyio.abc import ObjectSendStream

from trio_jobs.client.client_errors import JobForgottenError, RefusedError
from trio_jobs.client.job_view import Job
from trio_jobs.client.patience import retry_after
from trio_jobs.client.server_requests import ServerRequests

# How many looks of a client wait in the server at a time, each with a connection and one of the
# server's `http.max_waiters`; further ones take turns. The pool of httpx has 100 connections: so
# submissions find one.
MOST_LOOKS = 32

# Seconds that a look waits, if no other one waits for its turn. It is half of what a server allows
# by default, and within the time that proxies wait.
LONGEST_LOOK = 30

# Seconds from a look that the server did not let wait to the next one, at the most.
LONGEST_PAUSE = 5.0

_decode_job = msgspec.json.Decoder(Job).decode


class Looks:
    """Looks at jobs.

    Args:
        requests: To the server.

    Attributes:
        limiter: For the looks that wait in the server.
    """

    def __init__(self, requests: ServerRequests) -> None:
        self._requests = requests
        self.limiter = anyio.CapacityLimiter(MOST_LOOKS)

    async def bring_each(
        self, jobs: Iterable[Job | str], seconds: float, send: ObjectSendStream[Job]
    ) -> None:
        """Send each job once it has completed.

        Raises:
            TimeoutError: Not all have completed in so many seconds.
            JobForgottenError: The server does not know one of them; all others were sent.
        """
        waiting = deque(jobs)
        forgotten: list[JobForgottenError] = []
        with anyio.fail_after(seconds):
            async with anyio.create_task_group() as tasks:
                for _ in range(min(len(waiting), MOST_LOOKS)):
                    tasks.start_soon(self._look_at_each, waiting, send, forgotten)
        if forgotten:
            raise forgotten[0]

    async def _look_at_each(
        self,
        waiting: deque[Job | str],
        send: ObjectSendStream[Job],
        forgotten: list[JobForgottenError],
    ) -> None:
        """Look at one job after another; one that has not completed gets another turn."""
        while waiting:
            job = waiting.popleft()
            try:
                answer, begun = await self._look(job, others=len(waiting))
            except JobForgottenError as error:
                forgotten.append(error)
                continue
            found = decode_job(answer)
            if found.completed:
                await send.send(found)
            else:
                waiting.append(job)
                await _pause_after_look(answer, begun)

    async def wait(self, job: Job | str, seconds: float) -> httpx.Response:
        """The answer with the completed job.

        Raises:
            TimeoutError: It has not completed in so many seconds.
            JobForgottenError: As in `ask_about`.
        """
        with anyio.fail_after(seconds):
            while True:
                answer, begun = await self._look(job)
                if decode_job(answer).completed:
                    return answer
                await _pause_after_look(answer, begun)

    async def _look(self, job: Job | str, *, others: int = 0) -> tuple[httpx.Response, float]:
        """One look at a job, which the server answers when it completes, or after a time.

        Args:
            job: The job, or its id.
            others: How many jobs wait for this look to end.

        Returns:
            The answer, and when the look began, by the clock of the event loop.
        """
        async with self.limiter:
            others += self.limiter.statistics().tasks_waiting
            wait = max(1, LONGEST_LOOK * MOST_LOOKS // (MOST_LOOKS + others))
            begun = anyio.current_time()
            return await self.ask_about(job, wait=wait), begun

    async def ask_about(self, job: Job | str, *, wait: int = 0) -> httpx.Response:
        """The answer with the job.

        Args:
            job: The job, or its id.
            wait: For how many seconds the server may wait for the job's end.

        Raises:
            JobForgottenError: The server does not know it (any more).
        """
        headers = {"Prefer": f"wait={wait}"} if wait else {}
        return await self.ask("GET", job, headers=headers, wait=wait)

    async def ask(
        self,
        method: str,
        job: Job | str,
        rest: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        wait: int = 0,
    ) -> httpx.Response:
        """The answer to a request about a job.

        Args:
            method: The method.
            job: The job, or its id.
            rest: Of the path, behind the id.
            headers: Of the request.
            wait: See `ask_about`.

        Raises:
            JobForgottenError: The server does not know the job (any more).
        """
        job_id = job if isinstance(job, str) else job.id
        # A dot would lead to another path by itself: `cancel(".")` to the cancel of many jobs.
        path = f"/jobs/{quote(job_id, safe='').replace('.', '%2E')}{rest}"
        try:
            return await self._requests.ask(method, path, headers=headers, wait=wait)
        except RefusedError as error:
            if error.status == 404:
                raise JobForgottenError(job_id) from error
            raise


def decode_job(answer: httpx.Response) -> Job:
    """The job in an answer.

    Raises:
        RefusedError: There is none: another server has answered.
    """
    try:
        return _decode_job(answer.content)
    except msgspec.DecodeError as error:
        raise RefusedError(answer.status_code, f"the answer is no job: {error}") from error


async def _pause_after_look(answer: httpx.Response, begun: float) -> None:
    """Wait for the next look, by ``Retry-After``; a look that waited is followed by one at once.

    The server lets no look wait if too many clients wait already, and once its pool has ended.
    """
    asked = min(retry_after(answer) or 1.0, LONGEST_PAUSE)
    await anyio.sleep(max(0.0, begun + asked - anyio.current_time()))
