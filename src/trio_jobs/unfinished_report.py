"""`UnfinishedReport`: what a stop leaves unfinished, into the log and into a file, in bounded time.

Made at the end of `main`, or by the hard limit, whichever comes first.
"""

import logging
import time
from collections.abc import Callable, Iterator

from trio_jobs.leftovers import Leftovers, Line
from trio_jobs.logs.installation import Logs
from trio_jobs.pool.store import UnfinishedJobs
from trio_jobs.pool.unfinished import count_ids, unfinished_lines

log = logging.getLogger(__name__)

# Of the hard limit's own half second: for the file, and for that and the names. The rest is for
# what else is in the way.
_FILE_SECONDS_AT_THE_LIMIT = 0.2
_SECONDS_AT_THE_LIMIT = 0.4


class UnfinishedReport:
    """Reports the jobs that have not completed.

    Args:
        jobs: Those, now; called in any thread.
        leftovers: The file for them; None if there shall be none.
    """

    def __init__(self, jobs: Callable[[], UnfinishedJobs], leftovers: Leftovers | None) -> None:
        self._jobs = jobs
        self._leftovers = leftovers

    def write(self, jobs: UnfinishedJobs, logs: Logs, *, seconds: float) -> None:
        """Write the file, and name the jobs in the log; blocks for no longer than ``seconds``."""
        end = time.monotonic() + seconds
        if self._leftovers is None:
            left_out = _name(jobs, logs, seconds=seconds)
        else:
            self._leftovers.begin(jobs, seconds=seconds)
            # Half of the time: beside a disk that hangs there must be some for the log.
            if self._leftovers.wait(seconds / 2):
                _write_line(self._leftovers.line(), logs, seconds=end - time.monotonic())
                left_out = _name(jobs, logs, seconds=end - time.monotonic())
            else:
                left_out = _name(jobs, logs, seconds=seconds / 4)
                self._leftovers.wait(seconds / 8)
                _write_line(self._leftovers.line(), logs, seconds=end - time.monotonic())
        if left_out:
            log.error("unfinished_jobs_not_all_named", extra={"count": left_out})

    def lines(self) -> Iterator[Line]:
        """The same as lines, for whoever writes them past the log; the file is written first."""
        end = time.monotonic() + _SECONDS_AT_THE_LIMIT
        jobs = self._jobs()
        if self._leftovers is not None and jobs:
            self._leftovers.begin(jobs, seconds=_FILE_SECONDS_AT_THE_LIMIT)
            self._leftovers.wait(_FILE_SECONDS_AT_THE_LIMIT)
            yield self._leftovers.line()
        left_out = jobs.count
        for event, fields in unfinished_lines(jobs):
            if time.monotonic() > end:
                yield "unfinished_jobs_not_all_named", {"count": left_out}
                return
            yield event, fields
            left_out -= count_ids(fields)


def _name(jobs: UnfinishedJobs, logs: Logs, *, seconds: float) -> int:
    """Name the jobs; return how many the log has not taken in time."""
    counts: list[int] = []

    def lines() -> Iterator[Line]:
        for event, fields in unfinished_lines(jobs):
            counts.append(count_ids(fields))
            yield event, fields

    written = logs.write_final(__name__, logging.ERROR, lines(), seconds=seconds)
    return jobs.count - sum(counts[:written])


def _write_line(line: Line, logs: Logs, *, seconds: float) -> None:
    logs.write_final(__name__, logging.ERROR, [line], seconds=seconds)
