"""`Observation`: what a pool notes of its jobs for those who look at it, if it is asked for."""

from collections.abc import Callable

from trio_jobs.job import Job
from trio_jobs.pool.ended_jobs import EndedJobs


class Observation:
    """What a pool notes of its jobs if somebody may look. A pool without one notes nothing.

    Attributes:
        ended: The jobs that ended last.
    """

    def __init__(self) -> None:
        self.ended = EndedJobs(self._count)

    def beside(self, notify: Callable[[Job], None]) -> Callable[[Job], None]:
        """A function that calls ``notify`` with a job that has just ended, and notes the job."""
        note = self.ended.note

        def show(job: Job) -> None:
            notify(job)
            note(job)

        return show

    def _count(self) -> None:
        """Count the jobs that have ended since the last call."""
