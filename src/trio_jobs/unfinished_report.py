"""`UnfinishedReport`: reports the jobs that are unfinished at a stop, in files and in the log.

`main` makes the report at its end. The hard limit, or a signal that ends the process at once, makes
it if it comes earlier. The files are written once, for the first report.
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

# For the jobs, in a report by the hard limit or a signal. That report has half a second in all; the
# rest is for the tasks and threads in the way.
_SECONDS_AT_THE_LIMIT = 0.4

# The least time for `main`'s report. Even if nobody reads the log, it ends before the hard limit.
_LEAST_SECONDS = 0.3


class UnfinishedReport:
    """Reports the jobs that have not completed.

    Args:
        jobs: Returns the unfinished jobs; called in any thread.
        leftovers: The files for them; None writes no file.
        unwritten: Returns the lines about ended jobs whose ends are not on the disk; called in any
            thread, and only at the hard limit.
    """

    def __init__(
        self,
        jobs: Callable[[], UnfinishedJobs],
        leftovers: Leftovers | None,
        *,
        unwritten: Callable[[], Iterator[Line]] = lambda: iter(()),
    ) -> None:
        self._jobs = jobs
        self._leftovers = leftovers
        self._unwritten = unwritten
        self._report: _Report | None = None  # None: no caller has asked for a line

    def write(self, jobs: UnfinishedJobs, logs: Logs, *, seconds: float) -> None:
        """Write the file and the log's lines.

        Blocks for at most ``seconds``, and 0.1 s more for the line that `unnamed` yields.
        """
        self._report = report = _Report(jobs, self._leftovers, seconds)
        logs.write_final(
            __name__, logging.ERROR, report.lines(), seconds=seconds, last=self.unnamed
        )

    async def write_in_thread(self, jobs: UnfinishedJobs, logs: Logs, *, seconds: float) -> None:
        """Do the same as `write`, in a thread; a shorter time counts as 0.3 s.

        Cancellation:
            Acted on only before the writing begins.
        """
        write = partial(self.write, jobs, logs, seconds=max(seconds, _LEAST_SECONDS))
        try:
            # With a limiter of its own: handlers may have filled Trio's.
            await trio.to_thread.run_sync(write, limiter=trio.CapacityLimiter(1))
        except RuntimeError:  # no thread can be started; the writing is bounded in time
            write()

    def lines(self) -> Iterator[Line]:
        """Write the files, and yield the log's lines for a caller that writes past the log."""
        self._report = report = _Report(self._jobs(), self._leftovers, _SECONDS_AT_THE_LIMIT)
        yield from report.lines()
        yield from self._unwritten()

    def unnamed(self) -> Iterator[Line]:
        """Yield the line that counts the jobs without a name in the report, if there are any.

        The caller writes it at the end: only then it is known which names had time.
        """
        count = self._jobs().count if self._report is None else self._report.unnamed
        if count:
            yield "unfinished_jobs_not_all_named", {"count": count}


class _Report:
    """One report; its constructor begins the files.

    Attributes:
        unnamed: The number of jobs that no written line names yet.
    """

    def __init__(self, jobs: UnfinishedJobs, leftovers: Leftovers | None, seconds: float) -> None:
        self._jobs = jobs
        self._leftovers = leftovers if jobs else None
        self._end = time.monotonic() + seconds
        self.unnamed = jobs.count
        if self._leftovers is not None:
            self._leftovers.begin(jobs, seconds=seconds * 3 / 4)

    def lines(self) -> Iterator[Line]:
        """Yield the line about the files, then the names; the names first if the disk hangs."""
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
            self.unnamed -= count_ids(fields)  # the caller asks for a line once the last is written
        if file is not None:
            file.wait(self._left() / 2)
            yield file.line()

    def _left(self) -> float:
        return self._end - time.monotonic()
