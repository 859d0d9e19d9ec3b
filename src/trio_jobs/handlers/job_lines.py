"""`JobLines`: notes the lines that jobs log while they run."""

from collections.abc import Mapping

from trio_jobs.current_job import current_job_id
from trio_jobs.handlers.reports import Reports


class JobLines:
    """Notes each line of the log at the running job whose code logs it.

    Args:
        running: The running jobs by id.
        most: How many lines a job keeps, the last ones.
    """

    def __init__(self, running: Mapping[str, Reports], most: int) -> None:
        self._running = running
        self._most = most

    def take(self, line: bytes) -> None:
        """Note a line. Called in the thread and in the context of what logs it."""
        job_id = current_job_id.get()
        reports = None if job_id is None else self._running.get(job_id)
        if reports is not None:
            reports.note_line(line.decode(errors="replace").rstrip("\n"), most=self._most)
