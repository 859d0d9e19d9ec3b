"""`Reports`: what the handler of a running job has reported."""

from collections.abc import Callable
from datetime import timedelta

from trio_jobs.handlers.progress_report import ProgressReport
from trio_jobs.job import Job, JobStatus, Left, with_left
from trio_jobs.progress import Progress


class Reports:
    """What the handler of a running job has reported; `RunningJob` is one.

    Attributes:
        job: The job as the worker has claimed it.
        started: When the worker claimed it, by Trio's clock.
    """

    # The last report, and when it was made by Trio's clock. The handler's thread writes them, in
    # one assignment. A default in the class: most handlers report nothing.
    _last: tuple[ProgressReport, float] | None = None

    def __init__(self, job: Job, started: float) -> None:
        self.job = job
        self.started = started

    def note_report(self, now: Callable[[], float], report: ProgressReport) -> None:
        """Note what the handler reports; any thread may call this.

        Args:
            now: Trio's clock.
            report: The report.
        """
        self._last = report, now()

    @property
    def progress(self) -> Progress | None:
        """How far the job is, by its handler's last report; None without one."""
        if self._last is None:
            return None
        report, at = self._last
        begin = self.job.started_at or self.job.created_at
        return report.at(begin + timedelta(seconds=at - self.started))

    @property
    def left(self) -> Left | None:
        """What the attempt leaves behind if the job does not succeed; None for nothing."""
        progress = self.progress
        return None if progress is None else Left(progress=progress)


def with_reports(job: Job, reports: Reports | None) -> Job:
    """A job of the store with what its handler has reported.

    Args:
        job: The job.
        reports: Those of the job; None if it does not run.
    """
    if reports is None or reports.left is None or job.status is not JobStatus.PROCESSING:
        return job
    return with_left(job, reports.left)
