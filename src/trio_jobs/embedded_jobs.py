"""`Jobs` and `DurableJobs`: a program's access to the pool that `open_jobs` runs for it."""

import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any, TypedDict, TypeVar, Unpack, overload

import trio
from msgspec.structs import replace

from trio_jobs.access import RoleFunction
from trio_jobs.api.due import check_due
from trio_jobs.api.keys import make_key
from trio_jobs.api.validation import check_submission, check_type, encode_payload
from trio_jobs.handlers.reports import with_reports
from trio_jobs.handlers.value_type import decode_as
from trio_jobs.job import Job, JobStatus, Outcome
from trio_jobs.opened_store import MemoryStore
from trio_jobs.pool import idempotency
from trio_jobs.pool.cancels import cancel_all, cancel_query
from trio_jobs.pool.idempotency import KeyReusedError
from trio_jobs.pool.job_counts import JobCounts, count_jobs
from trio_jobs.pool.job_pages import Page, read_page
from trio_jobs.pool.job_query import JobQuery
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.page_options import PageOptions, place_of, query_of
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.reruns import Selection, rerun, rerun_all, rerun_nowait
from trio_jobs.pool.run_now import run_now
from trio_jobs.pool.statistics import PoolStatistics
from trio_jobs.pool.store import JobNotFoundError
from trio_jobs.settings import HttpSettings, Payloads, PoolSettings
from trio_jobs.tokens import TokenTable

_Result = TypeVar("_Result")

# The defaults.
_POOL, _HTTP = PoolSettings(), HttpSettings()


class JobUnsuccessfulError(Exception):
    """A job has no result: it failed, timed out, was cancelled, or was never completed.

    Attributes:
        job: The job.
    """

    def __init__(self, job: Job) -> None:
        if job.ending is None:
            text = f"job {job.id!r} is {job.status}, and the pool has ended"
        else:
            error = job.ending.error
            why = "" if error is None else f": {error.type}: {error.message}"
            text = f"job {job.id!r} {job.ending.outcome}{why}"
        super().__init__(text)
        self.job = job


class ApiOptions(TypedDict, total=False):
    """The arguments of `BaseJobs.asgi`, for type checkers."""

    token: str | TokenTable | None
    payloads: Payloads
    allowed_hosts: Iterable[str]
    max_wait_seconds: float
    stream_idle_timeout: float
    max_event_streams: int
    max_pipes: int
    shutdown_retry_after: int
    ui: bool
    role: RoleFunction | None


class BaseJobs:
    """What `Jobs` and `DurableJobs` have in common.

    The awaited methods make a checkpoint unless they raise. A cancelled call leaves nothing behind;
    the jobs go on. Methods that are given a job's id raise JobNotFoundError if there is no such job
    (any more).
    """

    def __init__(self, pool: Pool, *, now: Callable[[], datetime], max_payload_bytes: int) -> None:
        self._pool = pool
        self._token = trio.lowlevel.current_trio_token()  # for what reads it from other threads
        self._now = now
        self._max_payload_bytes = max_payload_bytes

    async def submit_when_possible(self, type: str, payload: object = None) -> Job:  # noqa: A002
        """Wait in turn for room in the buffer, then submit a job.

        Raises:
            ShuttingDownError: As in `submit`, also during the wait. Other errors as in `submit`,
                without QueueFullError.
        """
        [job] = await self._pool.admission.admit_up_to([self._check(type, payload)])
        return job

    async def wait(self, job_id: str) -> Job:
        """Wait for a job to complete.

        Returns:
            The completed job, even if it has been dropped since; or, if the
            pool ends without completing it, the job as it is then.

        Raises:
            TooManyWaitersError: ``max_waiters`` tasks wait for jobs already.
        """
        # `find` makes no checkpoint after it has seen that the job is unfinished.
        job = await self._pool.store.find(job_id)
        if job.status is JobStatus.COMPLETED:
            await trio.lowlevel.checkpoint()
            return job
        with self._pool.waiters.subscribe(job_id) as completion:
            await completion.wait()
            return completion.job or await self._pool.store.find(job_id)

    @overload
    async def result(self, job_id: str, *, type: type[_Result]) -> _Result: ...

    @overload
    async def result(self, job_id: str, *, type: Any = Any) -> Any: ...  # noqa: ANN401

    async def result(self, job_id: str, *, type: Any = Any) -> Any:  # noqa: A002
        """Wait for a job to succeed, and take its result.

        Args:
            job_id: The job's id.
            type: Anything that msgspec can read, such as a ``Struct`` or ``list[int]``, or that
                Pydantic can, such as a model; plain JSON values by default.

        Raises:
            trio_jobs.JobUnsuccessfulError: It did not succeed.
            msgspec.ValidationError: The result is not of this type.
            TooManyWaitersError: See `wait`.
        """
        job = await self.wait(job_id)
        if job.ending is None or job.ending.outcome is not Outcome.SUCCEEDED:
            raise JobUnsuccessfulError(job)
        return decode_as(job.ending.result or b"null", type)

    async def rerun_all(
        self,
        *,
        outcome: Iterable[str] | None = None,
        type: Iterable[str] | None = None,  # noqa: A002
        limit: int | None = None,
    ) -> list[Job]:
        """Submit all jobs once more that these filters select and `rerun` takes: all or none.

        The new jobs need no room in the buffer: they wait, are due now, and count against
        ``max_waiting``.

        Args:
            outcome: Outcomes other than ``succeeded``; None for ``failed`` and ``timed_out``.
            type: Job types; None for all.
            limit: How many at the most, those submitted first.

        Returns:
            The new jobs, in the order in which the old ones were submitted.

        Raises:
            ValueError: A filter is empty, or no such value.
            QueueFullError: Too many jobs wait for so many more.
            ShuttingDownError: As in `submit`.
        """
        return await rerun_all(self._pool, Selection.of(outcome, type, limit))

    async def run_now(self, job_id: str) -> Job:
        """Let a job begin that is delayed, or is between two attempts: it is due now.

        It begins in turn with other due jobs. If it is due already, nothing changes.

        Returns:
            The job as it is now.

        Raises:
            InvalidTransitionError: The job has begun, or was to begin as soon as it can.
            ShuttingDownError: As in `submit`.
        """
        job = await run_now(self._pool, job_id)
        await trio.lowlevel.checkpoint()
        return job

    async def cancel_all(
        self,
        *,
        type: Iterable[str] | None = None,  # noqa: A002
        status: Iterable[str] | None = None,
    ) -> int:
        """Ask for the cancel of all unfinished jobs that these filters select; see `cancel`.

        Args:
            type: Job types; None for all.
            status: ``pending``, ``processing`` or both; None for both.

        Returns:
            How many jobs were asked for. Jobs that come in meanwhile may be among them.

        Raises:
            ValueError: Both filters are None, or one is empty or no such value.
            StoreTimeoutError: With a file: the disk has not answered in time. The requests have
                taken effect, and it is unknown whether all are on the disk.
        """
        return await cancel_all(self._pool, cancel_query(type, status))

    async def counts(self) -> JobCounts:
        """How many jobs the pool keeps, by status, outcome and type.

        In memory, a job that stays is counted once while others come and go; with a file the counts
        are those of one moment.
        """
        return await count_jobs(self._pool.store, JobQuery(holds=self._pool.schedule.holds))

    async def drain(self) -> None:
        """Take no more jobs, and wait for those already accepted, as at the end of the block.

        With a file this waits for those that run; ``drain="all"`` of `open_jobs` changes that.

        Returns:
            When all of them have completed or wait for a later time, or the cancelled pool has
            ended. Then `unfinished` names the rest.

        Raises:
            TooManyWaitersError: See `wait`.
        """
        self._pool.admission.close()
        await trio.lowlevel.checkpoint()
        jobs = self._pool.store.unfinished()
        # A job that waits for a later time gets its answer when the pool ends. A due
        # job in the buffer counts as waiting as well, and runs.
        for job in (*jobs.begun, *jobs.not_begun, *jobs.waiting, *jobs.held):
            # A job that has completed meanwhile may have been dropped as well.
            with suppress(JobNotFoundError):
                await self.wait(job.id)

    def unfinished(self) -> tuple[list[str], list[str]]:
        """The ids of the jobs that have not completed: those begun, and those that wait."""
        return self._pool.unfinished().ids

    def statistics(self) -> PoolStatistics:
        """The state of the pool now."""
        return self._pool.statistics()

    def asgi(
        self,
        *,
        token: str | TokenTable | None = None,
        payloads: Payloads = _HTTP.payloads,
        allowed_hosts: Iterable[str] = (),
        max_wait_seconds: float = _HTTP.max_wait_seconds,
        stream_idle_timeout: float = _HTTP.stream_idle_timeout,
        max_event_streams: int = _HTTP.max_event_streams,
        max_pipes: int = _HTTP.max_pipes,
        shutdown_retry_after: int = _POOL.retry_after,
        ui: bool = False,
        role: RoleFunction | None = None,
    ) -> Callable[[Any, Any, Any], Awaitable[None]]:
        """The HTTP API as an ASGI application, for any server and any framework that run on Trio.

        Below a mount, the paths in its answers begin with the mount's ``root_path``. As in the
        command, web pages of other origins may not write. Once the pool takes no more jobs,
        submissions get a 503; lookups go on.

        Args:
            token: The bearer token of every request but ``GET /health``, or several in a
                `TokenTable`, with roles and names; None asks for no token.
            payloads: ``"control"`` leaves out payloads, results, messages and log lines for a token
                with the role ``read``; with ``"read"`` it sees them.
            allowed_hosts: Names that a ``Host`` header may have at a loopback address, beside the
                names of the loopback interface; ``*`` allows any name.
            max_wait_seconds: The longest time, in seconds, that a client may
                wait for a job.
            stream_idle_timeout: The longest time, in seconds, that the client
                of a stream may send nothing while the server is reading.
            max_event_streams: How many clients may have ``GET /events`` open at the same time, if
                the pool counts its jobs (``max_types``); 0 for none.
            max_pipes: How many clients may have ``POST /jobs/pipe`` open at the same time.
            shutdown_retry_after: The ``Retry-After``, in whole seconds, of that 503.
            ui: Whether ``/ui`` is the page for operators. Without ``role`` each visitor has the
                role ``control``. If the pool does not count its jobs, the page has no rates and no
                table of types.
            role: Says who makes a request: a plain function of its ASGI scope, with all that
                middleware has put there. It is called once for each request that no page of
                another origin makes, in the server's event loop. It returns a `Role`, an `Access`
                with a role and perhaps a name for the log and for ``submitted_by``, or None: that
                is a 401 everywhere but at ``GET /health``. An exception of it leaves the
                application, so the server answers 500.

        Raises:
            ValueError: A number is out of range, ``payloads`` is another text, no client could
                send the token, or there is a token beside ``role`` or ``ui``.
            TypeError: ``role`` is no plain function.
        """
        from trio_jobs.mounted_api import MountedApi  # a program without HTTP needs none of it

        api = MountedApi(
            token=token,
            payloads=payloads,
            allowed_hosts=allowed_hosts,
            max_wait_seconds=max_wait_seconds,
            stream_idle_timeout=stream_idle_timeout,
            max_event_streams=max_event_streams,
            max_pipes=max_pipes,
            shutdown_retry_after=shutdown_retry_after,
            ui=ui,
            role=role,
        )
        return api.over(self._pool, max_payload_bytes=self._max_payload_bytes)

    def _check(self, type_: str, payload: object) -> JobSpec:
        check_type(type_)
        encoded = encode_payload(payload, max_bytes=self._max_payload_bytes)
        check_submission(type_, encoded, self._pool.handlers)
        return JobSpec(type_, encoded)

    def _spec(
        self,
        type_: str,
        payload: object,
        delay: float | None,
        run_at: datetime | None,
        key: str | None,
    ) -> JobSpec:
        spec = self._check(type_, payload)
        if delay is None and run_at is None and key is None:
            return spec
        spec = replace(spec, due=check_due(delay, run_at, now=self._now()))
        if key is None:
            return spec
        return replace(spec, key=make_key(key, spec, delay if run_at is None else run_at))


class Jobs(BaseJobs):
    """A running pool with its jobs in memory; made by `open_jobs`.

    Its plain methods are atomic between tasks. Its awaited methods make a checkpoint unless they
    raise. A cancelled call leaves nothing behind; the jobs go on. Methods that are given a job's id
    raise JobNotFoundError if there is no such job (any more).
    """

    def __init__(
        self,
        pool: Pool,
        store: MemoryStore,
        *,
        now: Callable[[], datetime],
        max_payload_bytes: int,
    ) -> None:
        super().__init__(pool, now=now, max_payload_bytes=max_payload_bytes)
        self._store = store

    def submit(
        self,
        type: str,  # noqa: A002  (the field's name)
        payload: object = None,
        *,
        delay: float | None = None,
        run_at: datetime | None = None,
        key: str | None = None,
    ) -> Job:
        """Submit a job. It is accepted or refused at once; of a refused job nothing is kept.

        Args:
            type: Which handler processes it.
            payload: Anything that msgspec can write as JSON. It is written in this call: later
                changes to the object have no effect.
            delay: After how many seconds the job may begin, by Trio's clock; at most ten years.
            run_at: The time, with a time zone, at which it may begin. A past time is now.
            key: A name of 1 to 255 visible ASCII characters. As long as the pool keeps the job,
                the same submission with this key makes no second one.

        Returns:
            The job as it is at its submission; or, for a known key, the first job as it is now.

        Raises:
            UnknownTypeError: There is no handler for the type.
            PayloadError: The payload cannot be JSON, is too large, or is not what the handler
                takes; the type is no text; or ``delay``, ``run_at`` or ``key`` is no such value.
            KeyReusedError: The key was used with another submission.
            QueueFullError: There is no room in the buffer, or too many jobs wait for a time.
            ShuttingDownError: The block has been left, `drain` was called, or the pool was
                cancelled.
        """
        spec = self._spec(type, payload, delay, run_at, key)
        known = None if spec.key is None else self._store.find_key_nowait(spec.key.text)
        if known is not None and spec.key is not None:
            if known.key != spec.key:
                raise KeyReusedError(spec.key.text)
            return known
        return self._pool.admission.submit(spec.type, spec.payload, spec.due, spec.key)

    def submit_all(self, submissions: Iterable[tuple[str, object]]) -> list[Job]:
        """Submit jobs, each a type and a payload, in this order: all of them or none.

        Raises:
            QueueFullError: There is not room for all. Other errors as in `submit`.
        """
        return self._pool.admission.submit_all(
            [self._check(type_, payload) for type_, payload in submissions]
        )

    def get(self, job_id: str) -> Job:
        """The job as it is now; while it runs, with the progress that its handler has reported."""
        return with_reports(
            self._store.find_nowait(job_id), self._pool.executor.running.get(job_id)
        )

    def cancel(self, job_id: str) -> Job:
        """Ask for a job to be cancelled; see `Pool.cancel`. `wait` for its end.

        Returns:
            The job as it is now.

        Raises:
            InvalidTransitionError: The job has completed.
        """
        job = self._store.request_cancel_nowait(job_id)
        self._pool.note_cancel(job_id)
        return job

    def rerun(self, job_id: str) -> Job:
        """Submit a job that did not succeed once more, as a new job of the same type and payload.

        ``rerun_of`` of the new job is the old one's id, and ``rerun_as`` of the old one the new
        one's. The new job has no key.

        Returns:
            The new job as it is at its submission.

        Raises:
            InvalidTransitionError: The job has not completed, has succeeded, or was re-run
                already.
            QueueFullError: There is no room in the buffer.
            ShuttingDownError: As in `submit`.
        """
        return rerun_nowait(self._pool, self._store.find_nowait(job_id))

    def delete(self, job_id: str) -> None:
        """Forget a completed job.

        Raises:
            InvalidTransitionError: The job has not completed.
        """
        self._store.delete_nowait(job_id)

    def page(
        self,
        *,
        after: str | Job | None = None,
        limit: int = 100,
        **options: Unpack[PageOptions],
    ) -> list[Job]:
        """Up to ``limit`` jobs in an order, from the first one behind ``after``.

        In the orders ``oldest`` and ``newest`` without filters, and in the order ``ended``, a page
        costs the same however many jobs there are. Otherwise this method looks at each job up to
        the end of the page, and in the order ``next`` at all: a million take half a second.

        Args:
            after: The last job of the page before, even if it is gone. In the orders ``oldest`` and
                ``newest`` its id is enough.
            limit: How many jobs at the most.
            options: ``order``: ``oldest`` (the default) or ``newest`` by submission; ``ended``,
                which has only jobs that ended without success, the last end first; or ``next``,
                which has only jobs that wait for a time, the first time first. ``type``,
                ``status``, ``outcome`` and ``waiting``: iterables of values; the job has one of
                each. ``since`` and ``until``: times with a time zone; the job was submitted, or in
                the order ``ended`` has ended, at the first or later, and before the second.
                ``rerun=False``: without jobs that were re-run.

        Raises:
            ValueError: ``limit`` is no integer from 0 on, or another argument is no such value.
        """
        query = query_of(self._pool.schedule.holds, **options)
        _check_limit(limit)
        walk, page = query.walk, Page(query, after=place_of(query, after), limit=limit)
        while True:
            if page.add(self._store.page_nowait(walk, after=page.place, limit=page.stride)):
                return page.jobs


class DurableJobs(BaseJobs):
    """A running pool with its jobs in a file or a database; made by `open_jobs`.

    It has the methods of `Jobs`, and those that need the disk or the database are awaited. A job
    that `submit` has returned is there: it survives the end of the process, and a power cut. If the
    task that submits is cancelled while it waits, it is unknown whether the job is in; submit it
    again with the same key. With a database, methods that are given a job's id take the ids of all
    jobs in it; `unfinished`, `statistics` and `drain` are about those that this program has.

    The awaited methods make a checkpoint unless they raise. Methods that are given a job's id raise
    JobNotFoundError if there is no such job (any more). Those that write raise StoreTimeoutError if
    the disk or database does not answer within ``timeout``: then it is unknown whether the change
    was made. They raise StoreWriteError if it cannot be written: then nothing has changed, except
    that a cancel of a job that is here takes effect, and is written as soon as it can be. With a
    database, all raise StoreUnavailableError if it does not answer and nothing has changed.
    """

    async def submit(
        self,
        type: str,  # noqa: A002  (the field's name)
        payload: object = None,
        *,
        delay: float | None = None,
        run_at: datetime | None = None,
        key: str | None = None,
    ) -> Job:
        """Submit a job, and wait until it is stored; of a refused job nothing is kept.

        Args:
            type: See `Jobs.submit`, as for the others.
            payload: See there.
            delay: See there.
            run_at: See there.
            key: See there; it is kept over restarts, as long as the job is kept.

        Returns:
            The job as it is at its submission; or, for a known key, the first job as it is now.

        Raises:
            StoreWriteError: It cannot be written: the disk is full, for example.
            StoreUnavailableError: There has been no answer for longer than ``timeout``.
            StoreTimeoutError: It has not answered in time; it is unknown whether the job is in.
            QueueFullError: As in `Jobs.submit`, and other errors as there.
        """
        spec = self._spec(type, payload, delay, run_at, key)
        pool = self._pool
        submitted = await idempotency.admit(spec, pool.admission, pool.store)
        return submitted.job

    async def submit_all(self, submissions: Iterable[tuple[str, object]]) -> list[Job]:
        """Submit jobs, each a type and a payload, in this order: all of them or none.

        Raises:
            QueueFullError: There is not room for all. Other errors as in `submit`.
        """
        specs = [self._check(type_, payload) for type_, payload in submissions]
        return await self._pool.admission.admit_all(specs)

    async def get(self, job_id: str) -> Job:
        """The job as it is now; see `Jobs.get`."""
        job = await self._pool.store.find(job_id)
        await trio.lowlevel.checkpoint()
        return with_reports(job, self._pool.executor.running.get(job_id))

    async def cancel(self, job_id: str) -> Job:
        """Ask for a job to be cancelled; see `Pool.cancel`. `wait` for its end.

        Returns:
            The job as it is now, and on the disk.

        Raises:
            InvalidTransitionError: The job has completed.
        """
        return await self._pool.cancel(job_id)

    async def rerun(self, job_id: str) -> Job:
        """Submit a job that did not succeed once more; see `Jobs.rerun`.

        Raises:
            InvalidTransitionError: As there, and other errors as in `submit`.
        """
        return await rerun(self._pool, await self._pool.store.find(job_id))

    async def delete(self, job_id: str) -> None:
        """Forget a completed job.

        Raises:
            InvalidTransitionError: The job has not completed.
        """
        await self._pool.store.delete(job_id)

    async def page(
        self,
        *,
        after: str | Job | None = None,
        limit: int = 100,
        **options: Unpack[PageOptions],
    ) -> list[Job]:
        """Jobs in an order; see `Jobs.page`. They lack their payloads and results.

        Raises:
            ValueError: As there.
        """
        query = query_of(self._pool.schedule.holds, **options)
        _check_limit(limit)
        after = place_of(query, after)
        jobs, _ = await read_page(self._pool.store, query, after=after, limit=limit)
        await trio.lowlevel.checkpoint()
        return jobs


def _check_limit(limit: int) -> None:
    if not isinstance(limit, int) or not 0 <= limit <= sys.maxsize:
        raise ValueError(f"limit must be an integer from 0 to {sys.maxsize}, got {limit!r}")
