"""`Jobs` and `DurableJobs`: a program's access to the pool that `open_jobs` runs for it."""

import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Unpack

import trio

from trio_jobs.base_jobs import BaseJobs
from trio_jobs.handlers.reports import with_reports
from trio_jobs.job import Job
from trio_jobs.opened_store import MemoryStore
from trio_jobs.pool import idempotency
from trio_jobs.pool.idempotency import KeyReusedError
from trio_jobs.pool.job_pages import Page, read_page
from trio_jobs.pool.page_options import PageOptions, position_of, query_of
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.reruns import rerun, rerun_nowait


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
        self._check_thread()
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
        self._check_thread()
        return rerun_nowait(self._pool, self._store.find_nowait(job_id))

    def delete(self, job_id: str) -> None:
        """Forget a completed job.

        Raises:
            InvalidTransitionError: The job has not completed.
        """
        self._check_thread()
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
        the end of the page, and in the order ``next`` at all jobs: a million take half a second.

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
        walk, page = query.walk, Page(query, after=position_of(query, after), limit=limit)
        while True:
            if page.add(self._store.page_nowait(walk, after=page.position, limit=page.stride)):
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
            StoreWriteError: The job cannot be written: the disk is full, for example.
            StoreUnavailableError: The store has not answered for longer than ``timeout``.
            StoreTimeoutError: The store has not answered in time; it is unknown whether the job is
                in.
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
        self._check_thread()
        return await self._pool.cancel(job_id)

    async def rerun(self, job_id: str) -> Job:
        """Submit a job that did not succeed once more; see `Jobs.rerun`.

        Raises:
            InvalidTransitionError: As there, and other errors as in `submit`.
        """
        self._check_thread()
        return await rerun(self._pool, await self._pool.store.find(job_id))

    async def delete(self, job_id: str) -> None:
        """Forget a completed job.

        Raises:
            InvalidTransitionError: The job has not completed.
        """
        self._check_thread()
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
        after = position_of(query, after)
        jobs, _ = await read_page(self._pool.store, query, after=after, limit=limit)
        await trio.lowlevel.checkpoint()
        return jobs


def _check_limit(limit: int) -> None:
    if not isinstance(limit, int) or not 0 <= limit <= sys.maxsize:
        raise ValueError(f"limit must be an integer from 0 to {sys.maxsize}, got {limit!r}")
