"""`Histories`: which completed jobs are kept, within a number of jobs and of bytes."""

from collections import OrderedDict

from trio_jobs.job import Outcome
from trio_jobs.settings import StoreSettings

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
        self._others = _History(settings.keep_failed)
        self._max_bytes = settings.keep_completed_bytes

    def __len__(self) -> int:
        return len(self._succeeded.sizes) + len(self._others.sizes)

    @property
    def bytes(self) -> int:
        """The bytes that all these jobs hold."""
        return self._succeeded.bytes + self._others.bytes

    def add(self, job_id: str, size: int, outcome: Outcome) -> list[str]:
        """Add a job that has just completed.

        Returns:
            The ids of the jobs that are no longer kept; the job itself may be among them.
        """
        succeeded, others = self._succeeded, self._others
        history = succeeded if outcome is _SUCCEEDED else others
        history.sizes[job_id] = size
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
        history.bytes -= history.sizes.pop(job_id)


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
