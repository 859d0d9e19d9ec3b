"""`Reports`: what the handler of a running job has reported, and what it has logged."""

from collections import deque
from collections.abc import Callable
from datetime import timedelta

from trio_jobs.error_text import readable
from trio_jobs.handlers.progress_report import ProgressReport
from trio_jobs.job import Job, JobStatus, Left, with_left
from trio_jobs.progress import Progress

# Characters of a line, and bytes of the lines that stay in a record.
_MAX_LINE = 500
_MAX_KEPT_BYTES = 4_096


class Reports:
    """What the handler of a running job has reported and logged; `RunningJob` is one.

    Attributes:
        job: The job as the worker has claimed it.
        started: When the worker claimed it, by Trio's clock.
    """

    # The last report, and when it was made by Trio's clock. The handler's thread writes them, in
    # one assignment. A default in the class: most handlers report nothing.
    _last: tuple[ProgressReport, float] | None = None

    # The last lines that the job has logged.
    _lines: deque[str] | None = None

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

    def note_line(self, line: str, *, most: int) -> None:
        """Note a line that the job logs; any thread may call this.

        Args:
            line: The line; beyond 500 characters it is cut.
            most: How many lines are kept.
        """
        lines = self._lines
        if lines is None:  # `setdefault`: two threads may log at the same time
            lines = vars(self).setdefault("_lines", deque(maxlen=most))
        lines.append(readable(line, _MAX_LINE))

    @property
    def now(self) -> Left | None:
        """What the handler has reported, and all lines; None for nothing."""
        progress = self.progress
        if progress is None and self._lines is None:
            return None
        return Left(progress=progress, lines=tuple(self._lines or ()))

    @property
    def left(self) -> Left | None:
        """What the attempt leaves behind if the job does not succeed: the last 4 kB of its lines.

        None for nothing.
        """
        left, size = self.now, 0
        if left is None:
            return None
        kept: list[str] = []
        for line in reversed(left.lines):
            size += len(line.encode())
            if size > _MAX_KEPT_BYTES:
                break
            kept.append(line)
        return Left(progress=left.progress, lines=tuple(reversed(kept)))


def with_reports(job: Job, reports: Reports | None) -> Job:
    """A job of the store with what its handler has reported.

    Args:
        job: The job.
        reports: Those of the job; None if it does not run.
    """
    now = None if reports is None else reports.now
    return job if now is None or job.status is not JobStatus.PROCESSING else with_left(job, now)
