"""`BaseJobs`: what a program may do with its pool, wherever the jobs are kept."""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import datetime
from threading import get_ident
from typing import Any, TypedDict, TypeVar, overload

import trio
from msgspec.structs import replace

from trio_jobs.access import RoleFunction
from trio_jobs.api.due import check_due
from trio_jobs.api.keys import make_key
from trio_jobs.api.validation import check_submission, check_type, encode_payload
from trio_jobs.handlers.value_type import decode_as
from trio_jobs.job import Job, JobStatus, Outcome
from trio_jobs.pool.cancels import cancel_all, cancel_query
from trio_jobs.pool.job_counts import JobCounts, count_jobs
from trio_jobs.pool.job_query import JobQuery
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.reruns import Selection, rerun_all
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
    (any more). Methods that change something, or wait, raise RuntimeError in another thread than
    that of the block.
    """

    def __init__(self, pool: Pool, *, now: Callable[[], datetime], max_payload_bytes: int) -> None:
        self._pool = pool
        self._thread = get_ident()
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
        self._check_thread()
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
        self._check_thread()
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
        self._check_thread()
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
        self._check_thread()
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
        self._check_thread()
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

    def _check_thread(self) -> None:
        # Trio wakes tasks in its own thread alone. Elsewhere a submission would take the idle
        # worker that it cannot wake out of the channel, and that worker would be lost.
        if get_ident() != self._thread:
            raise RuntimeError(
                "the pool runs in another thread; call it there, as in"
                " trio.from_thread.run_sync(jobs.submit, 'email', payload)"
            )

    def _check(self, type_: str, payload: object) -> JobSpec:
        self._check_thread()
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
