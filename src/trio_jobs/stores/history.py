"""`History`: which completed jobs are kept, within a number of jobs and of bytes."""

from collections import OrderedDict


class History:
    """The completed jobs that the store keeps, oldest completion first.

    Args:
        max_jobs: How many there may be.
        max_bytes: How many bytes they may hold together (`Job.size`).

    Attributes:
        bytes: The bytes that they hold.
    """

    def __init__(self, *, max_jobs: int, max_bytes: int) -> None:
        self.bytes = 0
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        # Sizes by id. An OrderedDict: to find the first key, a dict walks over all keys that were
        # removed before it.
        self._sizes: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, job_id: str, size: int) -> list[str]:
        """Add a job that has just completed.

        Returns:
            The ids of the jobs that are no longer kept; the job itself may be among them.
        """
        self._sizes[job_id] = size
        self.bytes += size
        dropped = []
        while len(self._sizes) > self._max_jobs or self.bytes > self._max_bytes:
            oldest, size = self._sizes.popitem(last=False)
            self.bytes -= size
            dropped.append(oldest)
        return dropped

    def remove(self, job_id: str) -> None:
        """Remove a job."""
        self.bytes -= self._sizes.pop(job_id)
