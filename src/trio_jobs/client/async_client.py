"""`AsyncClient`: submits jobs to a server and waits for them, on Trio and on asyncio."""

import itertools
import math
import uuid
from collections.abc import AsyncIterable, Callable, Iterable
from datetime import datetime
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar, overload

import httpx
import msgspec

from trio_jobs.client.arrivals import AsyncArrivals
from trio_jobs.client.client_errors import JobUnsuccessfulError, RefusedError
from trio_jobs.client.job_view import Job
from trio_jobs.client.line_source import LineSource
from trio_jobs.client.looks import Looks, decode_job
from trio_jobs.client.pipe_lines import Line
from trio_jobs.client.result_type import make_decoder
from trio_jobs.client.results import AsyncResults
from trio_jobs.client.server_requests import ServerRequests
from trio_jobs.client.server_url import server_token, server_url
from trio_jobs.client.slices import Slices
from trio_jobs.client.submissions import checked_key, make_key, submission

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_JSON = MappingProxyType({"Content-Type": "application/json"})


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
            closes it. With no more than 32 connections, waits for jobs may hold up submissions.

    Raises:
        ValueError: The URL is none or names a user, or no header can have the token.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        retry_for: float = 60.0,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        url, token = server_url(url), server_token(token)
        self._owned = http is None
        # A request waits for a connection for as long as it takes: others of this client have them.
        self._http = http or httpx.AsyncClient(timeout=httpx.Timeout(10.0, pool=None))
        self._requests = ServerRequests(self._http, url=url, token=token, retry_for=retry_for)
        self._looks = Looks(self._requests)

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
        answer = await self._requests.ask(
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
        answer = await self._requests.ask(
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
        return decode_job(await self._looks.ask_about(job))

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
        return decode_job(await self._looks.wait(job, timeout))

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
        answer = await self._looks.wait(job, timeout)
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
        found = decode_job(await self._looks.ask("POST", job, "/cancel"))
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

        The loop stands in a block; that of `Client` needs none::

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
        return Slices(self._requests.open_pipe, self._requests.make_patience, in_flight=in_flight)

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
            decode=None if result is Any else make_decoder(result),
            ordered=ordered,
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
        return AsyncArrivals(partial(self._looks.bring_each, [*jobs], timeout))
