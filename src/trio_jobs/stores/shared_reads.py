"""`SharedReads`: what clients ask of the jobs in a database, whichever server has them."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import TypeVar

import trio

from trio_jobs.job import Job, Outcome
from trio_jobs.pool.job_query import ALL_JOBS, JobQuery, Order
from trio_jobs.pool.refusals import (
    NO_ANSWER,
    StoreTimeoutError,
    StoreUnavailableError,
    StoreWriteError,
)
from trio_jobs.pool.store import InvalidTransitionError, JobNotFoundError
from trio_jobs.stores.database_port import ReadersPort, RequestsPort
from trio_jobs.stores.postgres.columns import brief_job, whole_job
from trio_jobs.stores.postgres.count_query import count_query, counts_of
from trio_jobs.stores.postgres.job_filters import is_uuid, storable
from trio_jobs.stores.postgres.look_ups import FIND_KEYS, FIND_MANY, page_query
from trio_jobs.stores.postgres.requests import CANCEL, DELETE, MAKE_DUE
from trio_jobs.stores.transitions import COMPLETED, cancel_requested, made_due

_T = TypeVar("_T")


class SharedReads(ABC):
    """The awaited methods of `SharedStore`, as `trio_jobs.pool.store.KeepingStore` describes them.

    They read the database, and ask it for changes. A job that this server owns is shown as it is
    here, which is newer; one that has completed in the database is shown as it is there.

    Those that read raise StoreUnavailableError if the database does not answer in time.

    Attributes:
        timeout: See `trio_jobs.pool.store.KeepingStore`.
        seeks_cancelled: Whether the next fetch is for jobs whose cancel was requested, even if no
            others may begin here: at each heartbeat, and after a cancel at this server.
    """

    timeout: float
    seeks_cancelled = True
    _readers: ReadersPort
    _pump: RequestsPort
    _now: Callable[[], datetime]

    @property
    @abstractmethod
    def hangs(self) -> bool:
        """See `trio_jobs.pool.store.KeepingStore.hangs`."""

    @abstractmethod
    def _owned_job(self, job_id: str) -> Job | None:
        """The job as clients see it, if this server owns it: fetched, running, or ended unwritten.

        A job whose end is not in the database yet is shown as processing.
        """

    @abstractmethod
    def _cancel_owned(self, job_id: str) -> Job:
        """Record here, and not in the database, that a client wants an owned job cancelled.

        Raises:
            InvalidTransitionError: The job has ended here.
        """

    @abstractmethod
    async def settled(self) -> None:
        """See `trio_jobs.pool.store.Disk.settled`."""

    # Look-ups.

    def shown_nowait(self, job_id: str) -> Job:
        """The job as clients see it, if this server owns it.

        Raises:
            JobNotFoundError: This server does not own it; the database may have it.
        """
        if (job := self._owned_job(job_id)) is None:
            raise JobNotFoundError(f"no unfinished job {job_id!r} here")
        return job

    async def find(self, job_id: str) -> Job:
        for job in await self.find_many([job_id]):
            return job
        raise JobNotFoundError(f"no job {job_id!r}")

    async def find_many(self, job_ids: Collection[str]) -> list[Job]:
        read: dict[str, Job | None] = {job_id: None for job_id in job_ids if not is_uuid(job_id)}
        # Again, if this server has given a job up since the last turn.
        while unread := [each for each in job_ids if each not in read and not self._owns(each)]:
            rows = await self._readers.fetch(FIND_MANY, {"ids": unread})
            read |= dict.fromkeys(unread)
            read |= {job.id: job for job in map(whole_job, rows)}
        jobs = [self._newest(job_id, read.get(job_id)) for job_id in job_ids]
        return [job for job in jobs if job is not None]

    async def find_keys(self, texts: Iterable[str]) -> dict[str, Job]:
        if not (keys := storable(texts)):
            return {}
        jobs = map(whole_job, await self._readers.fetch(FIND_KEYS, {"keys": keys}))
        return {job.key.text: job for job in self.now_of(jobs) if job.key is not None}

    async def page(
        self, query: JobQuery = ALL_JOBS, *, after: str | None = None, limit: int
    ) -> list[Job]:
        text, values = page_query(query, after=after, limit=limit)
        jobs = list(map(brief_job, await self._readers.fetch(text, values)))
        return jobs if query.order is Order.ENDED else self.now_of(jobs)

    async def count(self, query: JobQuery) -> tuple[Mapping[tuple[str, Outcome], int], list[Job]]:
        text, values = count_query(query)
        return counts_of(await self._readers.fetch(text, values))

    def now_of(self, jobs: Iterable[Job]) -> list[Job]:
        return [self._newest(job.id, job) or job for job in jobs]

    def _newest(self, job_id: str, read: Job | None) -> Job | None:
        """The job as clients see it: as it was read, if it has completed or is another server's."""
        if read is not None and read.outcome is not None:
            return read
        return self._owned_job(job_id) or read

    def _owns(self, job_id: str) -> bool:
        return self._owned_job(job_id) is not None

    # Requests.

    async def request_cancel(
        self, job_id: str, *, noted: Callable[[str], None] | None = None
    ) -> Job:
        while True:
            takes_effect = self._note_cancel(job_id, noted)
            try:
                is_changed = await self._request(CANCEL, job_id)
            except StoreWriteError as error:
                if not takes_effect:
                    raise
                kept = "the job is being cancelled, but a crash can take that back"
                raise StoreWriteError(str(error), kept=kept) from error
            if is_changed:
                self.seeks_cancelled = True
                break
            # This raises, unless the job came in after the request.
            cancel_requested(await self.find(job_id), self._now())
        with suppress(InvalidTransitionError):
            self._note_cancel(job_id, noted)  # this server may have fetched the job meanwhile
        return await self._find_changed(job_id)

    def _note_cancel(self, job_id: str, noted: Callable[[str], None] | None) -> bool:
        """Cancel the job here; return whether this server owns it."""
        if not self._owns(job_id):
            return False
        self._cancel_owned(job_id)
        if noted is not None:
            noted(job_id)
        return True

    async def make_due(self, job_id: str, *, noted: Callable[[str], None]) -> Job:
        while (job := self._owned_job(job_id)) is None or made_due(job, self._now()) != job:
            if job is not None:
                await self._wait(self.settled())  # it was just postponed: the database has it soon
            elif await self._request(MAKE_DUE, job_id):
                noted(job_id)
                return await self._find_changed(job_id)
            else:
                made_due(await self.find(job_id), self._now())  # raises, unless it has just come in
        return job  # it is in the channel

    async def delete(self, job_id: str) -> None:
        await self.find(job_id)
        while not await self._request(DELETE, job_id):
            if not (found := await self.find_many([job_id])):
                return  # it is gone: the answer to this request was lost, and it was repeated
            [job] = found
            if job.status is not COMPLETED:
                raise InvalidTransitionError(
                    f"job {job_id!r} is {job.status}; only a completed job can be deleted"
                )

    async def _request(self, statement: str, job_id: str) -> bool:
        """Ask the database for a change of a job; return whether the job allows it.

        Raises:
            JobNotFoundError: No job can have this id.
            StoreUnavailableError: The database has not answered for a long time.
            StoreTimeoutError: It has not answered in time; it is unknown what it does.
            StoreWriteError: It refuses to write.
        """
        if not is_uuid(job_id):
            raise JobNotFoundError(f"no job {job_id!r}")
        if self.hangs:
            raise StoreUnavailableError(NO_ANSWER)
        [(is_changed,)] = await self._wait(self._pump.request(statement, {"id": job_id}))
        return bool(is_changed)

    async def _find_changed(self, job_id: str) -> Job:
        """The job after a change that was made: an error must not say that nothing has changed."""
        try:
            return await self.find(job_id)
        except StoreUnavailableError:
            raise StoreTimeoutError(self.timeout, "the database") from None

    async def _wait(self, answer: Awaitable[_T]) -> _T:
        with trio.move_on_after(self.timeout):
            return await answer
        raise StoreTimeoutError(self.timeout, "the database")
