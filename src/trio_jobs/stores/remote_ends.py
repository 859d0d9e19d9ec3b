"""`RemoteEnds`: tells those who wait here of the ends of jobs that other servers run."""

from collections.abc import Awaitable, Callable, Collection, Iterable
from itertools import islice
from typing import Final

import trio

from trio_jobs.job import Job
from trio_jobs.pool.refusals import StoreUnavailableError
from trio_jobs.pool.waiters import CompletionWaiters

# Jobs that are read together: their payloads and results are in memory at the same time.
_AT_ONCE: Final = 100


class RemoteEnds:
    """The ends of jobs that this server does not hold, for the tasks and functions that wait here.

    A job that something waits for is *watched*, unless this server owns it: a round writes into
    the database who is to be told of its end. That round says, too, which of these jobs are over
    already. A late or lost notification delays a waiter at most until `watch_all`, called after
    each break of the connection on which notifications come.

    Args:
        find_many: Reads jobs; see `Store.find_many`.
        is_owned: Whether this server owns the job with this id: then its end is told here anyway.
        wake: Lets a round come, for what `take` has.
    """

    def __init__(
        self,
        find_many: Callable[[Collection[str]], Awaitable[list[Job]]],
        *,
        is_owned: Callable[[str], bool],
        wake: Callable[[], None],
    ) -> None:
        self._find_many = find_many
        self._is_owned = is_owned
        self._wake = wake
        self._waiters: CompletionWaiters | None = None
        # Dicts, for their order: what the next round watches, and what `run` will read.
        self._to_watch: dict[str, None] = {}
        self._over: dict[str, None] = {}
        self._some_are_over = trio.Event()

    def connect(self, waiters: CompletionWaiters) -> None:
        """Say once, before the pool runs, who waits; they call `watch`."""
        self._waiters = waiters

    @property
    def some_are_to_be_watched(self) -> bool:
        """Whether `take` has something for a round."""
        return bool(self._to_watch)

    def watch(self, job_id: str) -> None:
        """Something waits for this job: let the next round watch it, if another server may end it.

        Call this also when this server gives up a job that has not ended.
        """
        if self._awaits(job_id) and not self._is_owned(job_id):
            self._to_watch[job_id] = None
            self._wake()

    def watch_all(self) -> None:
        """Watch all jobs anew: notifications may be lost, or this server has joined anew."""
        if self._waiters is not None:
            for job_id in self._waiters.awaited:
                self.watch(job_id)

    def take(self) -> list[str]:
        """The jobs for the next round to watch; give them to `put_back` if it has no effect."""
        job_ids = [job_id for job_id in self._to_watch if self._awaits(job_id)]
        self._to_watch.clear()
        return job_ids

    def put_back(self, job_ids: Iterable[str]) -> None:
        """Watch these jobs in another round; it need not be woken."""
        self._to_watch |= dict.fromkeys(job_ids)

    def note_over(self, job_ids: Iterable[str]) -> None:
        """These jobs have completed, or are not there: a notification or a round has said so."""
        if new := {job_id: None for job_id in job_ids if self._awaits(job_id)}:
            self._over |= new
            self._some_are_over.set()

    async def run(self) -> None:
        """Read the jobs that are over, and tell who waits for them; for ever."""
        while True:
            await self._some_are_over.wait()
            self._some_are_over = trio.Event()
            while self._over:
                some = list(islice(self._over, _AT_ONCE))
                for job_id in some:
                    del self._over[job_id]
                await self._tell(some)

    async def _tell(self, job_ids: Collection[str]) -> None:
        try:
            found = {job.id: job for job in await self._find_many(job_ids)}
        except StoreUnavailableError:
            # A round says it again, once the database is back.
            for job_id in job_ids:
                self.watch(job_id)
            return
        waiters = self._waiters
        assert waiters is not None  # noqa: S101  (for the type checker: something waits)
        for job_id in job_ids:
            job = found.get(job_id)
            if job is None:
                waiters.notify_gone(job_id)
            elif job.outcome is not None:
                waiters.notify(job)
            else:
                self.watch(job_id)

    def _awaits(self, job_id: str) -> bool:
        return self._waiters is not None and self._waiters.awaits(job_id)
