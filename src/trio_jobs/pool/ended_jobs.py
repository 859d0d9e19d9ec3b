"""`EndedJobs`: the jobs that ended last, numbered, so that a reader knows what it has missed."""

from collections import deque
from collections.abc import Callable
from itertools import islice

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
        last: The number of the job that ended last; 0 before the first, which is number 1.
        changed: Set by `touch`, and when a job ends. None while nobody waits for a change.
    """

    def __init__(self, count: Callable[[], None]) -> None:
        self.last = 0
        self._count = count
        self._count_at = BATCH
        self._look_at = BATCH  # 0 while somebody waits for a change
        self._jobs: deque[Job] = deque(maxlen=KEPT)
        self.changed: trio.Event | None = None
        self.note = self.beside(_nothing)

    def beside(self, notify: Callable[[Job], object]) -> Callable[[Job], None]:
        """A function that calls ``notify`` with a job that has just ended, and notes the job.

        It wakes the tasks that wait for a change. A job of more than 4 KiB is noted without payload
        and result, and a long type is cut.
        """
        append = self._jobs.append

        def note(job: Job) -> None:
            notify(job)
            size, ending = len(job.payload) + len(job.type), job.ending
            if ending is not None and ending.result is not None:
                size += len(ending.result)
            append(job if size <= _MAX_SIZE else _brief(job))
            self.last = last = self.last + 1
            if last >= self._look_at:
                self._look()

        return note

    def _look(self) -> None:
        self.touch()
        if self.last >= self._count_at:
            self._count_at = self._look_at = self.last + BATCH
            self._count()

    def since(self, number: int) -> tuple[int, list[Job]]:
        """The jobs that ended after the one with this number, in order.

        Args:
            number: From 0 to ``last``.

        Returns:
            How many of them are not kept any more, and the others.
        """
        new = max(self.last - number, 0)
        kept = min(new, len(self._jobs))
        return new - kept, list(islice(self._jobs, len(self._jobs) - kept, None))

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
