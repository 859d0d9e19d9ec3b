"""`UnfinishedReport`: what a stop leaves unfinished, into the log and into a file, in bounded time.

Made at the end of `main`, or by the hard limit, whichever comes first.
"""

import logging
import time
from collections.abc import Callable, Iterator
from itertools import chain

from trio_jobs.leftovers import Leftovers, Line
from trio_jobs.logs import Logs
from trio_jobs.store import UnfinishedJobs
from trio_jobs.unfinished import unfinished_lines

log = logging.getLogger(__name__)

# Of the hard limit's own half second.
_SECONDS_AT_THE_LIMIT = 0.25


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
        lines = unfinished_lines(jobs)
        named = True
        if self._leftovers is not None:
            self._leftovers.begin(jobs, seconds=seconds)
            # Half of the time: beside a disk that hangs there must be some for the log.
            if self._leftovers.wait(seconds / 2):
                lines = chain([self._leftovers.line()], lines)
            else:
                named = logs.write_final(__name__, logging.ERROR, lines, seconds=seconds / 4)
                self._leftovers.wait(seconds / 8)
                lines = iter([self._leftovers.line()])
        left = end - time.monotonic()
        if not logs.write_final(__name__, logging.ERROR, lines, seconds=left) or not named:
            log.error("unfinished_jobs_not_all_named")

    def lines(self) -> Iterator[Line]:
        """The same as lines, for whoever writes them past the log; the file is written first."""
        jobs = self._jobs()
        if self._leftovers is not None and jobs:
            self._leftovers.begin(jobs, seconds=_SECONDS_AT_THE_LIMIT)
            self._leftovers.wait(_SECONDS_AT_THE_LIMIT)
            yield self._leftovers.line()
        yield from unfinished_lines(jobs)
