"""`EndedJobs`: the jobs that ended last, numbered, so that a reader knows what it has missed."""

from collections.abc import Callable, Collection

import trio
from msgspec.structs import replace

from trio_jobs.job import Job

# How many ended jobs are kept. A reader that comes later than after so many has missed some.
KEPT = 1_000

# After so many ended jobs they are counted; each reader has them counted too. One call for all of
# them costs half of what a call for each one does.
BATCH = 500

# Bytes. What the clients and the handler of a larger job have chosen is not kept: a thousand
# results of a megabyte would take a gigabyte, beyond the store's bounds.
_MAX_SIZE = 4_096

# Characters of the type of such a job.
_MAX_TYPE = 200


class EndedJobs:
    """The last `KEPT` jobs that ended, in the order in which clients could see it.

    Args:
        count: Called after each `BATCH` of jobs. It counts those that `since` has for it.

    Attributes:
        note: Notes a job; see `beside`.
        changed: Set by `touch`, and when a job ends. None while nobody waits for a change.
    """

    def __init__(self, count: Callable[[], None]) -> None:
        self._count = count
        self._jobs: list[Job] = []  # at most `KEPT` and `BATCH`
        self._forgotten = 0  # how many jobs ended before them
        # The lengths at which the jobs are counted, and something is done: 0 while somebody waits
        # for a change.
        self._count_at = self._look_at = BATCH
        self.changed: trio.Event | None = None
        self.note = self.beside(_nothing)

    @property
    def last(self) -> int:
        """The number of the job that ended last; 0 before the first, which is number 1."""
        return self._forgotten + len(self._jobs)

    def beside(
        self,
        notify: Callable[[Job], object],
        completions: Collection[str] = (),
        calls: Collection[str] = (),
    ) -> Callable[[Job], None]:
        """A function that notes a job that has just ended, and wakes those that wait for a change.

        A job of more than 4 KiB is noted without payload and result, and a long type is cut.

        Args:
            notify: Called with the job before that, unless nothing waits for any job.
            completions: See `CompletionWaiters`.
            calls: See there.
        """
        jobs, append = self._jobs, self._jobs.append

        def note(job: Job) -> None:
            if completions or calls:
                notify(job)
            size, ending = len(job.payload) + len(job.type), job.ending
            if ending is not None and ending.result is not None:
                size += len(ending.result)
            append(job if size <= _MAX_SIZE else _brief(job))
            if len(jobs) >= self._look_at:
                self._look()

        return note

    def _look(self) -> None:
        self.touch()
        if len(self._jobs) >= self._count_at:
            self._count()
            over = max(len(self._jobs) - KEPT, 0)
            self._forgotten += over
            del self._jobs[:over]
            self._count_at = self._look_at = len(self._jobs) + BATCH

    def since(self, number: int) -> tuple[int, list[Job]]:
        """The jobs that ended after the one with this number, in order.

        Args:
            number: From 0 to ``last``.

        Returns:
            How many of them are not kept any more, and the others.
        """
        new = max(self.last - number, 0)
        kept = min(new, len(self._jobs), KEPT)
        return new - kept, self._jobs[len(self._jobs) - kept :]

    def next_change(self) -> trio.Event:
        """An event that is set once the next job has ended, or `touch` is called."""
        if self.changed is None:
            self.changed = trio.Event()
            self._look_at = 0
        return self.changed

    def touch(self) -> None:
        """Wake the tasks that wait for a change: something that they show has changed."""
        if self.changed is not None:
            self.changed.set()
            self.changed = None
            self._look_at = self._count_at


def _nothing(job: Job) -> None:
    """Do nothing with a job that is noted alone."""


def _brief(job: Job) -> Job:
    """The job without payload and result, and with a type of bounded length."""
    type_ = job.type if len(job.type) <= _MAX_TYPE else job.type[:_MAX_TYPE] + "…"
    ending = None if job.ending is None else replace(job.ending, result=None)
    return replace(job, type=type_, payload=b"", ending=ending)
