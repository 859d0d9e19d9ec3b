"""`open_jobs`: a pool of workers inside any Trio program. `Jobs`: the program's access to it."""

import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import datetime
from typing import Any, TypeVar, overload

import msgspec
import trio

from trio_jobs.api.due import check_due
from trio_jobs.api.keys import make_key
from trio_jobs.api.validation import check_submission, check_type, encode_payload
from trio_jobs.handlers.nurseries import GeneratorEnds
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.job import Job, JobStatus, Outcome
from trio_jobs.opened_store import MemoryStore, StoreInMemory
from trio_jobs.pool.idempotency import KeyReusedError
from trio_jobs.pool.ids import is_id
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.pool import Pool, PoolStatistics, make_pool
from trio_jobs.pool.reruns import Selection, rerun_all, rerun_nowait
from trio_jobs.pool.store import JobNotFoundError
from trio_jobs.pool.unfinished import unfinished_lines
from trio_jobs.pool.wall_clock import wall_clock
from trio_jobs.settings import (
    RETRY_AFTER,
    SETTINGS,
    HttpSettings,
    PoolSettings,
    StoreSettings,
    build,
)

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

# The defaults.
_POOL, _STORE, _HTTP = PoolSettings(), StoreSettings(), HttpSettings()


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


class Jobs:
    """A running pool; made by `open_jobs`.

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
        self._pool = pool
        self._store = store
        self._now = now
        self._max_payload_bytes = max_payload_bytes

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
        spec = self._check(type, payload)
        if delay is None and run_at is None and key is None:
            return self._pool.admission.submit(spec.type, spec.payload)
        spec = spec._replace(due=check_due(delay, run_at, now=self._now()))
        named = None if key is None else make_key(key, spec, delay if run_at is None else run_at)
        if named is not None and (first := self._store.find_key_nowait(named.text)) is not None:
            if first.key != named:
                raise KeyReusedError(named.text)
            return first
        return self._pool.admission.submit(spec.type, spec.payload, spec.due, named)

    def submit_all(self, submissions: Iterable[tuple[str, object]]) -> list[Job]:
        """Submit jobs, each a type and a payload, in this order: all of them or none.

        Raises:
            QueueFullError: There is not room for all. Other errors as in `submit`.
        """
        return self._pool.admission.submit_all(
            [self._check(type_, payload) for type_, payload in submissions]
        )

    async def submit_when_possible(self, type: str, payload: object = None) -> Job:  # noqa: A002
        """Wait in turn for room in the buffer, then submit a job.

        Raises:
            ShuttingDownError: As in `submit`, also during the wait. Other errors as in `submit`,
                without QueueFullError.
        """
        [job] = await self._pool.admission.admit_up_to([self._check(type, payload)])
        return job

    def get(self, job_id: str) -> Job:
        """The job as it is now."""
        return self._store.find_nowait(job_id)

    async def wait(self, job_id: str) -> Job:
        """Wait for a job to complete.

        Returns:
            The completed job, even if it has been dropped since; or, if the
            pool ends without completing it, the job as it is then.

        Raises:
            TooManyWaitersError: ``max_waiters`` tasks wait for jobs already.
        """
        job = self._store.find_nowait(job_id)
        if job.status is JobStatus.COMPLETED:
            await trio.lowlevel.checkpoint()
            return job
        with self._pool.waiters.subscribe(job_id) as completion:
            await completion.wait()
            return completion.job or self._store.find_nowait(job_id)

    @overload
    async def result(self, job_id: str, *, type: type[_Result]) -> _Result: ...

    @overload
    async def result(self, job_id: str, *, type: Any = Any) -> Any: ...  # noqa: ANN401

    async def result(self, job_id: str, *, type: Any = Any) -> Any:  # noqa: A002
        """Wait for a job to succeed, and take its result.

        Args:
            job_id: The job's id.
            type: Anything that msgspec can read, such as a ``Struct`` or ``list[int]``; plain
                JSON values by default.

        Raises:
            JobUnsuccessfulError: It did not succeed.
            msgspec.ValidationError: The result is not of this type.
            TooManyWaitersError: See `wait`.
        """
        job = await self.wait(job_id)
        if job.ending is None or job.ending.outcome is not Outcome.SUCCEEDED:
            raise JobUnsuccessfulError(job)
        return msgspec.json.decode(job.ending.result or b"null", type=type)

    async def drain(self) -> None:
        """Take no more jobs, and wait for those already accepted, as at the end of the block.

        Returns:
            When all of them have completed or wait for a later time, or the cancelled pool has
            ended. Then `unfinished` names the rest.

        Raises:
            TooManyWaitersError: See `wait`.
        """
        self._pool.admission.close()
        await trio.lowlevel.checkpoint()
        jobs = self._store.unfinished()
        for job in (*jobs.begun, *jobs.not_begun):
            # A job that has completed meanwhile may have been dropped as well.
            with suppress(JobNotFoundError):
                await self.wait(job.id)

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

    def delete(self, job_id: str) -> None:
        """Forget a completed job.

        Raises:
            InvalidTransitionError: The job has not completed.
        """
        self._store.delete_nowait(job_id)

    def page(self, *, after: str | None = None, limit: int = 100) -> list[Job]:
        """Up to ``limit`` jobs in order of submission, from the first after the job ``after``.

        Args:
            after: A job's id; the job need not be there any more.
            limit: How many jobs at the most.

        Raises:
            ValueError: ``limit`` is no integer from 0 on, or ``after`` is no id.
        """
        if not isinstance(limit, int) or not 0 <= limit <= sys.maxsize:
            raise ValueError(f"limit must be an integer from 0 to {sys.maxsize}, got {limit!r}")
        # Any text has a place among the sorted ids, mostly behind the last: a wrong id would give
        # an empty page, and no error.
        if after is not None and not is_id(after):
            raise ValueError(f"after must be the id of a job, got {after!r}")
        return self._store.page_nowait(after=after, limit=limit)

    def unfinished(self) -> tuple[list[str], list[str]]:
        """The ids of the jobs that have not completed: those begun, and those that wait."""
        return self._pool.unfinished().ids

    def statistics(self) -> PoolStatistics:
        """The state of the pool now."""
        return self._pool.statistics()

    def asgi(
        self,
        *,
        token: str | None = None,
        allowed_hosts: Iterable[str] = (),
        max_wait_seconds: float = _HTTP.max_wait_seconds,
        stream_idle_timeout: float = _HTTP.stream_idle_timeout,
        shutdown_retry_after: int = _POOL.retry_after,
    ) -> Callable[[Any, Any, Any], Awaitable[None]]:
        """The HTTP API as an ASGI application, for any server and any framework that run on Trio.

        Below a mount, the paths in its answers begin with the mount's ``root_path``. As in the
        command, web pages of other origins may not write. Once the pool takes no more jobs,
        submissions get a 503; lookups go on.

        Args:
            token: The bearer token of every request but ``GET /health``; None
                asks for no token.
            allowed_hosts: Names that a ``Host`` header may have at a loopback address, beside the
                names of the loopback interface; ``*`` allows any name.
            max_wait_seconds: The longest time, in seconds, that a client may
                wait for a job.
            stream_idle_timeout: The longest time, in seconds, that the client
                of a stream may send nothing while the server is reading.
            shutdown_retry_after: The ``Retry-After``, in whole seconds, of that 503.

        Raises:
            ValueError: A number is out of range, or no client could send the token.
        """
        # Imported here: a program without HTTP needs none of it.
        from trio_jobs.api.api_context import ApiContext
        from trio_jobs.api.app import create_app
        from trio_jobs.server.access_control import AccessControl, parse_token
        from trio_jobs.server.access_middleware import AccessMiddleware

        http = build(
            HttpSettings,
            max_body_bytes=self._max_payload_bytes,
            max_wait_seconds=max_wait_seconds,
            stream_idle_timeout=stream_idle_timeout,
        )
        RETRY_AFTER.convert(shutdown_retry_after, where="shutdown_retry_after")
        access_control = AccessControl(
            allowed_hosts=allowed_hosts,
            token=None if token is None else parse_token(token),
            open_path="/health",
        )
        context = ApiContext(pool=self._pool, http=http, shutdown_retry_after=shutdown_retry_after)
        return AccessMiddleware(create_app(context), access_control)

    def _check(self, type_: str, payload: object) -> JobSpec:
        check_type(type_)
        encoded = encode_payload(payload, max_bytes=self._max_payload_bytes)
        check_submission(type_, encoded, self._pool.handlers)
        return JobSpec(type_, encoded)


@asynccontextmanager
async def open_jobs(
    handlers: Mapping[str, object],
    *,
    workers: int = _POOL.workers,
    buffer_size: int = _POOL.buffer_size,
    max_waiting: int = _POOL.max_waiting,
    processes: int | None = None,
    keep_completed: int = _STORE.keep_completed,
    keep_failed: int = _STORE.keep_failed,
    keep_completed_bytes: int = _STORE.keep_completed_bytes,
    max_payload_bytes: int = _HTTP.max_body_bytes,
    max_result_bytes: int = _STORE.max_result_bytes,
    max_waiters: int = _HTTP.max_waiters,
) -> AsyncIterator[Jobs]:
    """A pool of workers for the length of an ``async with`` block.

    Leaving the block drains: no more jobs are taken, and those already accepted are completed. A
    job that waits for a later time, or fails and wants another attempt, stays pending; the log
    names it.
    An exception that leaves the block cancels these jobs, and so does the cancellation of a scope
    around the block; the log names the jobs that are unfinished then. For a drain of bounded
    length, set that scope's deadline before leaving.

    A child process imports the file of its handler. If that is the program's own file, the program
    must start its work below ``if __name__ == "__main__":``.

    Args:
        handlers: A function for each job type, or a `Handler` made with `Handler.of` for more
            choices; ``default`` takes every type that has no entry of its own.
        workers: How many jobs run at the same time.
        buffer_size: How many jobs may wait for a worker.
        max_waiting: How many new jobs may wait for a later time, or for others of a type with a
            ``max_running``. A retry is never refused.
        processes: How many child processes there are at the most, if handlers ask for them;
            None for as many as there are processors.
        keep_completed: How many jobs that succeeded are kept; the oldest are dropped.
        keep_failed: How many jobs with another outcome are kept, apart from the former.
        keep_completed_bytes: How many bytes all completed jobs may hold together. Beyond that,
            the oldest are dropped, of those that hold more: the successes or the others.
        max_payload_bytes: The largest payload, as JSON, and over HTTP the longest body, in bytes.
        max_result_bytes: The largest result, as JSON; a job with a larger one fails.
        max_waiters: How many tasks may wait for jobs at the same time, with those of HTTP requests.

    Raises:
        HandlerError: A function cannot be a handler; the text says for which type.
        ValueError: A number is out of its range, which is that of the setting of this name.

    Cancellation:
        Cancels the jobs, and waits until async handlers have unwound and processes are killed.
        A thread cannot be interrupted: it goes on after the block (``thread_still_running`` in
        the log).

    Checkpoints:
        At the end of the block.
    """
    settings = build(
        PoolSettings,
        workers=workers,
        buffer_size=buffer_size,
        max_waiting=max_waiting,
        processes=processes,
    )
    bounds = build(
        StoreSettings,
        keep_completed=keep_completed,
        keep_failed=keep_failed,
        keep_completed_bytes=keep_completed_bytes,
        max_result_bytes=max_result_bytes,
    )
    http = build(HttpSettings, max_waiters=max_waiters)
    SETTINGS["http.max_body_bytes"].convert(max_payload_bytes, where="max_payload_bytes")
    # The channel holds an item for each slot: a job that has a slot never meets a full channel.
    send, receive = trio.open_memory_channel[str](buffer_size + workers)
    now = wall_clock()
    store = StoreInMemory(bounds, now=now).store
    pool = make_pool(HandlerRegistry.of(handlers), send, store, settings, bounds, http, now=now)
    left_by: BaseException | None = None
    alone = False
    generator_ends = GeneratorEnds()
    trio.lowlevel.add_instrument(generator_ends)
    try:
        # The child processes are entered first: they must outlive the workers.
        async with pool.processes or nullcontext(), trio.open_nursery() as nursery:
            for n in range(workers):
                nursery.start_soon(pool.workers.run, receive.clone(), name=f"worker-{n}")
            receive.close()  # the workers hold the clones
            nursery.start_soon(pool.run_schedule, name="schedule")
            left = trio.Event()
            nursery.start_soon(_close_when_left_or_cancelled, pool, left)
            try:
                yield Jobs(pool, store, now=now, max_payload_bytes=max_payload_bytes)
            except BaseException as error:
                left_by = error
                raise
            left.set()
    except BaseExceptionGroup as group:
        # The nursery has put the block's own exception into a group: raise it without that group,
        # unless a worker has crashed too. Compare the leaves: Trio may have made new groups.
        alone = left_by is not None and _leaves(group) <= _leaves(left_by)
        if not alone:
            raise
    finally:
        trio.lowlevel.remove_instrument(generator_ends)
        for event, fields in unfinished_lines(pool.unfinished()):
            log.warning(event, extra=fields)
    if alone and left_by is not None:
        raise left_by  # here, where it does not get the group as its context


# The clean-up of a cancelled block may wait for room or for a job. If the admission closed only
# when the block is left, the clean-up would wait forever. Protected from Ctrl-C, as a worker is.
@trio.lowlevel.enable_ki_protection
async def _close_when_left_or_cancelled(pool: Pool, left: trio.Event) -> None:
    """Close the admission as soon as the pool is cancelled, also while its handlers unwind."""
    try:
        await left.wait()
    finally:
        pool.admission.close()  # the only send end: the workers drain and end


def _leaves(error: BaseException) -> set[int]:
    """The identities of the exceptions in a group, or of a single exception."""
    if isinstance(error, BaseExceptionGroup):
        return {leaf for inner in error.exceptions for leaf in _leaves(inner)}
    return {id(error)}
