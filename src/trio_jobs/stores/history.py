"""`Histories`: which completed jobs are kept, within a number of jobs and of bytes."""

from collections import OrderedDict
from collections.abc import Iterator

from trio_jobs.job import Job, Outcome
from trio_jobs.pool.job_query import end_position, parse_end_position
from trio_jobs.settings import StoreSettings
from trio_jobs.stores.sorted_ids import SortedIds

_SUCCEEDED = Outcome.SUCCEEDED  # looked up once, as in the store


class Histories:
    """The completed jobs that the store keeps: those that succeeded and, apart from them, others.

    Each history has a bound of its own for its jobs. One bound for bytes (`Job.size`) holds for
    both together: the history that holds more bytes drops its oldest job; if both hold as many, a
    success goes. So however many jobs succeed, they push out no failure that fits into half of the
    bytes; nor do failures push out successes.

    Args:
        settings: The bounds.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self._succeeded = _History(settings.keep_completed)
        self._others = _Unsuccessful(settings.keep_failed)
        self._max_bytes = settings.keep_completed_bytes

    def __len__(self) -> int:
        return len(self._succeeded.sizes) + len(self._others.sizes)

    @property
    def bytes(self) -> int:
        """The bytes that all these jobs hold."""
        return self._succeeded.bytes + self._others.bytes

    def add(self, job: Job, outcome: Outcome) -> list[str]:
        """Add a job that has just completed, with this outcome.

        Returns:
            The ids of the jobs that are no longer kept; the job itself may be among them.
        """
        succeeded, others = self._succeeded, self._others
        history: _History = succeeded
        if outcome is not _SUCCEEDED:
            history = others
            others.note_end(job)
        history.sizes[job.id] = size = job.size
        history.bytes += size
        dropped = []
        if len(history.sizes) > history.max_jobs:
            dropped.append(history.drop_oldest())
        while succeeded.bytes + others.bytes > self._max_bytes:
            larger = succeeded if succeeded.bytes >= others.bytes else others
            dropped.append(larger.drop_oldest())
        return dropped

    def remove(self, job_id: str) -> None:
        """Remove a job."""
        history = self._succeeded if job_id in self._succeeded.sizes else self._others
        history.remove(job_id)

    def ended_before(self, position: str) -> Iterator[str]:
        """The ids of the jobs without success that ended before this position, the last end first.

        The jobs must not change while the caller reads the ids.
        """
        return self._others.ended_before(position)


class _History:
    """Completed jobs, oldest completion first.

    Attributes:
        sizes: The bytes of each, by id.
        bytes: The bytes of all.
        max_jobs: How many there may be.
    """

    def __init__(self, max_jobs: int) -> None:
        # An OrderedDict: to find the first key, a dict walks over all keys that were removed
        # before it.
        self.sizes: OrderedDict[str, int] = OrderedDict()
        self.bytes = 0
        self.max_jobs = max_jobs

    def drop_oldest(self) -> str:
        """Drop the oldest job, and return its id."""
        job_id, size = self.sizes.popitem(last=False)
        self.bytes -= size
        return job_id

    def remove(self, job_id: str) -> None:
        """Remove a job."""
        self.bytes -= self.sizes.pop(job_id)


class _Unsuccessful(_History):
    """The jobs without success, also in the order of their ends (`end_position`).

    That differs from the order in which they came in if the wall clock was set back.
    """

    def __init__(self, max_jobs: int) -> None:
        super().__init__(max_jobs)
        self._ends = SortedIds()
        self._positions: dict[str, str] = {}

    def note_end(self, job: Job) -> None:
        """Note the end of a job that is added."""
        self._positions[job.id] = position = end_position(job)
        self._ends.add(position)

    def ended_before(self, position: str) -> Iterator[str]:
        return (parse_end_position(each)[1] for each in self._ends.before(position))

    def drop_oldest(self) -> str:
        job_id = super().drop_oldest()
        self._ends.remove(self._positions.pop(job_id))
        return job_id

    def remove(self, job_id: str) -> None:
        super().remove(job_id)
        self._ends.remove(self._positions.pop(job_id))
