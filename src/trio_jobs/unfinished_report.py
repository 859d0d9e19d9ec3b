"""`UnfinishedReport`: reports the jobs that a stop leaves, in a file and in the log, in time.

`main` makes it at its end, and the hard limit where `main` does not get there. The file is written
once, for the first of the two.
"""

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial

import trio

from trio_jobs.leftovers import Leftovers
from trio_jobs.logs.installation import Logs
from trio_jobs.pool.store import UnfinishedJobs
from trio_jobs.pool.unfinished import Line, count_ids, unfinished_lines

log = logging.getLogger(__name__)

# Of the half second that the hard limit's report has; the rest is for tasks and threads.
_SECONDS_AT_THE_LIMIT = 0.4

# Over before the hard limit, also in a log without a reader.
_LEAST_SECONDS = 0.3


class UnfinishedReport:
    """Reports the jobs that have not completed.

    Args:
        jobs: Returns them; called in any thread.
        leftovers: The file for them, if there shall be one.
    """

    def __init__(self, jobs: Callable[[], UnfinishedJobs], leftovers: Leftovers | None) -> None:
        self._jobs = jobs
        self._leftovers = leftovers

    def write(self, jobs: UnfinishedJobs, logs: Logs, *, seconds: float) -> None:
        """Write the file and the log's lines; blocks for at most ``seconds``."""
        report = _Report(jobs, self._leftovers, seconds)
        logs.write_final(__name__, logging.ERROR, report.lines(), seconds=seconds)
        if report.unnamed:
            log.error("unfinished_jobs_not_all_named", extra={"count": report.unnamed})

    async def write_in_thread(self, jobs: UnfinishedJobs, logs: Logs, *, seconds: float) -> None:
        """The same in a thread, for at least 0.3 s."""
        write = partial(self.write, jobs, logs, seconds=max(seconds, _LEAST_SECONDS))
        try:
            # With a limiter of its own: handlers may have filled Trio's.
            await trio.to_thread.run_sync(write, limiter=trio.CapacityLimiter(1))
        except RuntimeError:  # no thread can be started; the writing is bounded in time
            write()

    def lines(self) -> Iterator[Line]:
        """Write the file, and yield the log's lines for code that writes past the log."""
        report = _Report(self._jobs(), self._leftovers, _SECONDS_AT_THE_LIMIT)
        yield from report.lines()
        if report.unnamed:
            yield "unfinished_jobs_not_all_named", {"count": report.unnamed}


class _Report:
    """One report; it begins the file at once.

    Attributes:
        unnamed: How many jobs no written line names.
    """

    def __init__(self, jobs: UnfinishedJobs, leftovers: Leftovers | None, seconds: float) -> None:
        self._jobs = jobs
        self._leftovers = leftovers if jobs else None
        self._end = time.monotonic() + seconds
        self.unnamed = jobs.count
        if self._leftovers is not None:
            self._leftovers.begin(jobs, seconds=seconds * 3 / 4)

    def lines(self) -> Iterator[Line]:
        """Yield the file's line and the names; where the disk hangs, the names first."""
        file = self._leftovers
        end = self._end
        if file is not None:
            if file.wait(self._left() / 2):
                yield file.line()
                file = None
            else:
                end -= self._left() / 2
        for event, fields in unfinished_lines(self._jobs):
            if time.monotonic() > end:
                break
            yield event, fields
            self.unnamed -= count_ids(fields)  # it is written: the next one is asked for
        if file is not None:
            file.wait(self._left() / 2)
            yield file.line()

    def _left(self) -> float:
        return self._end - time.monotonic()
