"""`AsyncClient`: submits jobs to a server and waits for them, on Trio and on asyncio."""

import itertools
import math
import re
import uuid
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn, Self, TypeVar, overload
from urllib.parse import quote

import anyio
import httpx
import msgspec
from anyio.abc import ObjectSendStream

from trio_jobs.client.arrivals import AsyncArrivals
from trio_jobs.client.client_errors import JobForgottenError, JobUnsuccessfulError, RefusedError
from trio_jobs.client.job_view import Job
from trio_jobs.client.line_source import LineSource
from trio_jobs.client.patience import TRY_AGAIN, Patience, retry_after
from trio_jobs.client.pipe_lines import Line
from trio_jobs.client.problem_text import problem_text
from trio_jobs.client.result_type import make_decoder
from trio_jobs.client.results import AsyncResults
from trio_jobs.client.server_url import server_token, server_url
from trio_jobs.client.slices import Slices
from trio_jobs.json_encoding import ResultError, encode_result

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# How many looks of a client wait in the server at a time, each with a connection and one of the
# server's `http.max_waiters`; further ones take turns. The pool of httpx has 100 connections: so
# submissions find one.
_MOST_LOOKS = 32

# Seconds that a look waits, if no other one waits for its turn. It is half of what a server allows
# by default, and within the time that proxies wait.
_LONGEST_LOOK = 30

# Seconds from a look that the server did not let wait to the next one, at the most.
_LONGEST_PAUSE = 5.0

# Seconds after which a server that has nothing else to say in an answer sends a blank line.
_LONGEST_SILENCE = 15

_JSON = MappingProxyType({"Content-Type": "application/json"})

_KEY = re.compile(r"[\x21-\x7e]{1,255}")

_decode_job = msgspec.json.Decoder(Job).decode


class _Raw(msgspec.Struct):
    """A job's result, not decoded."""

    result: msgspec.Raw = msgspec.Raw(b"null")


_decode_raw = msgspec.json.Decoder(_Raw).decode
_decode_jobs = msgspec.json.Decoder(list[Job]).decode


class AsyncClient:
    """A client of one server, for Trio and for asyncio alike; any number of tasks may use it.

    It keeps trying for ``retry_for`` seconds while the server is away, has no room or is shutting
    down, so a restart needs no code of the caller's. Every submission carries a key: a repetition
    makes no second job while the server remembers the first one.

    A cancelled call closes its connection, and leaves the job as it is.

    Args:
        url: Of the server, or of the mount of its API; by default TRIO_JOBS_URL, or
            ``http://127.0.0.1:8080``.
        token: Is shown in ``Authorization``; by default TRIO_JOBS_TOKEN. An empty one is none.
        retry_for: For how many seconds a call tries again, from the first failure since the
            server's last proper answer; ``inf`` for ever, 0 not at all.
        http: A client of httpx to use, with its certificates, proxies or transport; the caller
            closes it.

    Raises:
        ValueError: The URL is none, or no header can have the token.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        retry_for: float = 60.0,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._url = server_url(url)
        token = server_token(token)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._retry_for = retry_for
        self._owned = http is None
        self._looks = anyio.CapacityLimiter(_MOST_LOOKS)
        # A request waits for a connection for as long as it takes: others of this client have them.
        self._http = (
            httpx.AsyncClient(timeout=httpx.Timeout(10.0, pool=None)) if http is None else http
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, unless the HTTP client is the caller's."""
        if self._owned:
            await self._http.aclose()

    async def submit(
        self,
        type: str,  # noqa: A002
        payload: object = None,
        *,
        key: str | None = None,
        delay: float | None = None,
        run_at: datetime | None = None,
    ) -> Job:
        """Submit a job.

        Args:
            type: Which handler processes it.
            payload: Anything with a form in JSON: also dataclasses, Structs, models of Pydantic.
            key: Names the submission: with the same key, the same submission makes no second job.
                By default each call has a key of its own.
            delay: Seconds until it may begin.
            run_at: When it may begin, with a time zone.

        Returns:
            The job as it was admitted; with a known key, the job that is there.

        Raises:
            RefusedError: The server refuses it: 400 for an unknown type or a wrong payload, 422 for
                a key that was used with another submission.
            ServerGoneError: See there.
            ValueError: JSON has no form for the payload, or the key is not 1 to 255 visible ASCII
                characters.
        """
        key = make_key() if key is None else checked_key(key)
        item = submission(type, payload, delay=delay, run_at=run_at)
        headers = {**_JSON, "Idempotency-Key": key}
        answer = await self._ask(
            "POST", "/jobs", content=msgspec.json.encode(item), headers=headers
        )
        return decode_job(answer)

    async def submit_many(
        self,
        jobs: Iterable[tuple[str, object]],
        *,
        key: Callable[[int], str] | None = None,
    ) -> list[Job]:
        """Submit jobs together: all or none.

        The server bounds how many these may be, by its buffer and the size of a request; `map` has
        no such bound.

        Args:
            jobs: Types and payloads.
            key: Makes the key of a job of its number, from 1 on; by default each has a key of its
                own. See `submit`.

        Returns:
            The jobs as they were admitted, in this order.

        Raises:
            RefusedError: The server refuses one of them, or so many: none is in.
            ServerGoneError: See there.
            ValueError: As in `submit`.
        """
        made = make_key if key is None else key
        items = [
            submission(type_, payload, key=made(number))
            for number, (type_, payload) in enumerate(jobs, 1)
        ]
        if not items:
            return []
        answer = await self._ask(
            "POST", "/jobs/batch", content=msgspec.json.encode(items), headers=_JSON
        )
        try:
            return _decode_jobs(answer.content)
        except msgspec.DecodeError as error:
            raise RefusedError(answer.status_code, f"the answer is no jobs: {error}") from error

    async def get(self, job: Job | str) -> Job:
        """The job as it is now.

        Args:
            job: The job, or its id.

        Raises:
            JobForgottenError: The server does not know it (any more).
            RefusedError: The token may not read it.
            ServerGoneError: See there.
        """
        return decode_job(await self._ask_about(job))

    async def wait(self, job: Job | str, *, timeout: float = math.inf) -> Job:  # noqa: ASYNC109 - as in `Client`
        """Wait for a job to complete, whatever its outcome.

        Args:
            job: The job, or its id.
            timeout: Seconds.

        Returns:
            The completed job.

        Raises:
            TimeoutError: It had not completed in time; it goes on.
            JobForgottenError: As in `get`, as the others.
        """
        return decode_job(await self._wait(job, timeout))

    @overload
    async def result(
        self,
        job: Job | str,
        *,
        type: type[_Result],
        timeout: float = math.inf,  # noqa: ASYNC109
    ) -> _Result: ...

    @overload
    async def result(
        self,
        job: Job | str,
        *,
        type: Any = Any,  # noqa: ANN401
        timeout: float = math.inf,  # noqa: ASYNC109
    ) -> Any: ...  # noqa: ANN401

    async def result(
        self,
        job: Job | str,
        *,
        type: Any = Any,  # noqa: A002
        timeout: float = math.inf,  # noqa: ASYNC109
    ) -> Any:
        """Wait for a job to succeed, and take its result.

        Args:
            job: The job, or its id.
            type: Anything that msgspec can read, such as a ``Struct`` or ``list[int]``, or a model
                of Pydantic; plain JSON values by default.
            timeout: Seconds.

        Raises:
            JobUnsuccessfulError: It did not succeed.
            msgspec.ValidationError: The result is not of this type.
            RefusedError: The token may not see it.
            TimeoutError: As in `wait`, as the others.
        """
        answer = await self._wait(job, timeout)
        ended = decode_job(answer)
        if ended.outcome != "succeeded":
            raise JobUnsuccessfulError(id=ended.id, outcome=ended.outcome, error=ended.error)
        if ended.withheld:
            text = "the server withholds the result from the role of this token"
            raise RefusedError(answer.status_code, text)
        if type is Any:
            return ended.result
        return make_decoder(type)(_decode_raw(answer.content).result)

    @overload
    async def run(
        self,
        type: str,
        payload: object = None,
        *,
        result: type[_Result],
        key: str | None = None,
        timeout: float = math.inf,  # noqa: ASYNC109
    ) -> _Result: ...

    @overload
    async def run(
        self,
        type: str,
        payload: object = None,
        *,
        result: Any = Any,  # noqa: ANN401
        key: str | None = None,
        timeout: float = math.inf,  # noqa: ASYNC109
    ) -> Any: ...  # noqa: ANN401

    async def run(
        self,
        type: str,  # noqa: A002
        payload: object = None,
        *,
        result: Any = Any,
        key: str | None = None,
        timeout: float = math.inf,  # noqa: ASYNC109
    ) -> Any:
        """Submit a job, wait for it to succeed, and take its result.

        A cancelled call leaves the job in the server, if it was submitted already.

        Args:
            type: Which handler processes it.
            payload: See `submit`.
            result: The type of the result; see `result`.
            key: See `submit`.
            timeout: Seconds for the wait.

        Raises:
            JobUnsuccessfulError: It did not succeed. The others as in `submit` and `result`.
        """
        job = await self.submit(type, payload, key=key)
        return await self.result(job, type=result, timeout=timeout)

    async def cancel(self, job: Job | str, *, wait: bool = False) -> Job:
        """Ask the server to cancel a job.

        Args:
            job: The job, or its id.
            wait: Whether to return only when the job has completed.

        Returns:
            The job as it is then. A running job may also end otherwise.

        Raises:
            RefusedError: 409 for a job that has completed otherwise already.
            JobForgottenError: As in `get`, as the others.
        """
        job_id = job if isinstance(job, str) else job.id
        try:
            answer = await self._ask("POST", f"/jobs/{quote(job_id, safe='')}/cancel")
        except RefusedError as error:
            raise_forgotten(error, job_id)
        found = decode_job(answer)
        return await self.wait(found) if wait and not found.completed else found

    @overload
    def map(
        self,
        type: str,
        payloads: Iterable[object] | AsyncIterable[object],
        *,
        result: type[_Result],
        ordered: bool = False,
        in_flight: int = 200,
        key: Callable[[int], str] | None = None,
    ) -> AsyncResults[_Result]: ...

    @overload
    def map(
        self,
        type: str,
        payloads: Iterable[object] | AsyncIterable[object],
        *,
        result: Any = Any,  # noqa: ANN401
        ordered: bool = False,
        in_flight: int = 200,
        key: Callable[[int], str] | None = None,
    ) -> AsyncResults[Any]: ...

    def map(
        self,
        type: str,  # noqa: A002
        payloads: Iterable[object] | AsyncIterable[object],
        *,
        result: Any = Any,
        ordered: bool = False,
        in_flight: int = 200,
        key: Callable[[int], str] | None = None,
    ) -> AsyncResults[Any]:
        """Make a job of each payload, and bring the results as the jobs end.

            async with client.map("resize", payloads) as results:
                async for result in results:
                    print(result.line, result.value())

        A payload is pulled when there is room for it: an endless iterable takes no more memory
        than ``in_flight`` records. Each payload that was pulled gets one result, also across lost
        connections and restarts of the server. Its job runs once while the server remembers it.

        Args:
            type: Which handler processes the jobs.
            payloads: See `submit`. They are pulled in the event loop, which they must not block.
            result: The type of the results; see `result`.
            ordered: Whether the results come in the order of the payloads: a slow job holds up
                those behind it, and no more than ``in_flight`` of them begin.
            in_flight: How many payloads are pulled whose results the loop is not done with.
            key: Makes the key of a record of its number, which counts from 1. By default the
                records of each call have keys of their own.

        Returns:
            A block, and the loop in it; errors come out of the loop.

        Raises:
            ValueError: ``in_flight`` is less than 1.
        """
        return self._results(
            payloads,
            lambda payload: submission(type, payload),
            result=result,
            ordered=ordered,
            in_flight=in_flight,
            key=key,
        )

    def stream(
        self,
        jobs: Iterable[tuple[str, object]] | AsyncIterable[tuple[str, object]],
        *,
        result: Any = Any,  # noqa: ANN401
        ordered: bool = False,
        in_flight: int = 200,
        key: Callable[[int], str] | None = None,
    ) -> AsyncResults[Any]:
        """As `map`, for jobs of several types.

        Args:
            jobs: Type and payload of each.
            result: As for `map`.
            ordered: As for `map`.
            in_flight: As for `map`.
            key: As for `map`.
        """
        return self._results(
            jobs,
            lambda job: submission(*job),
            result=result,
            ordered=ordered,
            in_flight=in_flight,
            key=key,
        )

    def slices(self, *, in_flight: int = 200) -> Slices:
        """What `map` and `stream` are made of, for lines that are JSON already.

        Args:
            in_flight: How many lines are pulled and not released at the most.
        """
        return Slices(self._open_pipe, lambda: Patience(self._retry_for), in_flight=in_flight)

    def _results(
        self,
        items: Iterable[_Item] | AsyncIterable[_Item],
        encode: Callable[[_Item], dict[str, object]],
        *,
        result: Any,  # noqa: ANN401
        ordered: bool,
        in_flight: int,
        key: Callable[[int], str] | None,
    ) -> AsyncResults[Any]:
        call = uuid.uuid4().hex
        numbers = itertools.count(1)

        def make_line(item: _Item) -> Line:
            number = next(numbers)
            name = f"{call}-{number}" if key is None else checked_key(key(number))
            return Line(number, msgspec.json.encode(encode(item)), name)

        return AsyncResults(
            self.slices(in_flight=in_flight),
            LineSource(items, make_line),
            decode=make_decoder(result),
            ordered=ordered,
        )

    def _open_pipe(
        self, body: bytes, *, window: int | None
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Send lines to the pipe; see `OpenPipe`."""
        query = "" if window is None else f"?window={window}"
        return self._http.stream(
            "POST",
            f"{self._url}/jobs/pipe{query}",
            content=body,
            headers={**self._headers, "Content-Type": "application/x-ndjson"},
            timeout=longer(self._http.timeout, _LONGEST_SILENCE),
        )

    def as_completed(
        self,
        jobs: Iterable[Job | str],
        *,
        timeout: float = math.inf,
    ) -> AsyncArrivals[Job]:
        """Wait for many jobs, and have each as it has completed, whatever its outcome.

        The loop stands in a block::

            async with client.as_completed(jobs) as arrivals:
                async for job in arrivals:
                    ...

        With more than 32 jobs these take turns, so that the client has as many connections at the
        most: of a thousand jobs, one that completes out of turn comes up to half a minute late.

        Args:
            jobs: Jobs, or their ids; one that is named twice comes twice.
            timeout: Seconds for all of them.

        Raises:
            TimeoutError: Out of the loop: some had not completed in time; they go on.
            JobForgottenError: Out of the loop, once all others have come: the server does not know
                this one (any more).
            RefusedError: Out of the loop: the token may not read them.
            ServerGoneError: Out of the loop; see there.
        """
        waiting = deque(jobs)

        async def bring(send: ObjectSendStream[Job]) -> None:
            forgotten: list[JobForgottenError] = []
            with anyio.fail_after(timeout):
                async with anyio.create_task_group() as tasks:
                    for _ in range(min(len(waiting), _MOST_LOOKS)):
                        tasks.start_soon(self._look_at_each, waiting, send, forgotten)
            if forgotten:
                raise forgotten[0]

        return AsyncArrivals(bring)

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

    async def _wait(self, job: Job | str, seconds: float) -> httpx.Response:
        """The answer with the completed job."""
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
        async with self._looks:
            others += self._looks.statistics().tasks_waiting
            wait = max(1, _LONGEST_LOOK * _MOST_LOOKS // (_MOST_LOOKS + others))
            begun = anyio.current_time()
            return await self._ask_about(job, wait=wait), begun

    async def _ask_about(self, job: Job | str, *, wait: int = 0) -> httpx.Response:
        job_id = job if isinstance(job, str) else job.id
        headers = {"Prefer": f"wait={wait}"} if wait else {}
        try:
            return await self._ask(
                "GET", f"/jobs/{quote(job_id, safe='')}", headers=headers, wait=wait
            )
        except RefusedError as error:
            raise_forgotten(error, job_id)

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        wait: float = 0.0,
    ) -> httpx.Response:
        """Make a request, again and again until the server answers it.

        Args:
            method: The method.
            path: Below the server's URL.
            content: The body.
            headers: Beside the token's.
            wait: For how many seconds the server may let it wait.

        Returns:
            A successful answer.

        Raises:
            RefusedError: The answer is an error, and another try would get it again.
            ServerGoneError: See there.
        """
        patience = Patience(self._retry_for)
        why: httpx.Response | httpx.TransportError
        while True:
            try:
                why = answer = await self._http.request(
                    method,
                    f"{self._url}{path}",
                    content=content,
                    headers={**self._headers, **(headers or {})},
                    timeout=longer(self._http.timeout, wait),
                )
            except httpx.UnsupportedProtocol:
                raise
            except httpx.TransportError as error:
                why = error
            else:
                if answer.is_success:
                    return answer
                if answer.status_code not in TRY_AGAIN:
                    raise RefusedError(answer.status_code, problem_text(answer))
            await patience.pause(why)


def submission(
    type_: str,
    payload: object,
    *,
    key: str | None = None,
    delay: float | None = None,
    run_at: datetime | None = None,
) -> dict[str, object]:
    """A job for `msgspec.json.encode`, as the server takes it.

    Raises:
        ValueError: JSON has no form for the payload, or the delay is no number.
    """
    item: dict[str, object] = {"type": type_, "payload": encode_payload(payload)}
    if key is not None:
        item["key"] = checked_key(key)
    if delay is not None:
        if not math.isfinite(delay):
            raise ValueError(f"delay must be a number of seconds, got {delay!r}")
        item["delay"] = delay
    if run_at is not None:
        item["run_at"] = run_at
    return item


def encode_payload(payload: object) -> msgspec.Raw:
    """A payload as JSON, by the rules for results of handlers.

    Raises:
        ValueError: JSON has no form for it.
    """
    try:
        # How long it may be is the server's to say.
        return msgspec.Raw(encode_result(payload, max_bytes=2**40, what="payload"))
    except ResultError as error:
        raise ValueError(str(error)) from error


def make_key(_number: int = 0) -> str:
    """A key of its own."""
    return uuid.uuid4().hex


def checked_key(key: str) -> str:
    """The key.

    Raises:
        ValueError: No header can have it.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"key must be 1 to 255 visible ASCII characters, got {key!r}")
    return key


def decode_job(answer: httpx.Response) -> Job:
    """The job in an answer.

    Raises:
        RefusedError: There is none: another server has answered.
    """
    try:
        return _decode_job(answer.content)
    except msgspec.DecodeError as error:
        raise RefusedError(answer.status_code, f"the answer is no job: {error}") from error


def raise_forgotten(error: RefusedError, job_id: str) -> NoReturn:
    """Raise an error of a request about one job; a 404 means that there is no such job."""
    if error.status == 404:
        raise JobForgottenError(job_id) from error
    raise error


def longer(timeout: httpx.Timeout, seconds: float) -> httpx.Timeout:
    """The limits of a request that the server may let wait for so many seconds."""
    read = None if timeout.read is None else timeout.read + seconds
    return httpx.Timeout(connect=timeout.connect, read=read, write=timeout.write, pool=timeout.pool)


async def _pause_after_look(answer: httpx.Response, begun: float) -> None:
    """Wait for the next look, by ``Retry-After``; a look that waited is followed by one at once.

    The server lets no look wait if too many clients wait already, and once its pool has ended.
    """
    asked = min(retry_after(answer) or 1.0, _LONGEST_PAUSE)
    await anyio.sleep(max(0.0, begun + asked - anyio.current_time()))
