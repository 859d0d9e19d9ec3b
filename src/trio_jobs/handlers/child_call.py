"""`ChildCall`: a job on its way to a child process and back; `Pace`: how long such jobs take."""

from typing import TYPE_CHECKING

import trio

from trio_jobs.handlers.running_job import RunningJob

if TYPE_CHECKING:
    from trio_jobs.error_text import Failure

# The weight of the last job in the mean. A short one counts for more: the first job of a child is
# often a long one, since its function imports modules or fills caches.
_WEIGHT_IF_SHORTER = 0.3
_WEIGHT_IF_LONGER = 0.1


class Pace:
    """How long a function runs in a child.

    Attributes:
        seconds: The mean, in which the last runs count for most; None before the first.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None

    def note(self, seconds: float) -> None:
        """Take one more run into the mean."""
        mean = self.seconds
        if mean is None:
            self.seconds = seconds
        else:
            weight = _WEIGHT_IF_SHORTER if seconds < mean else _WEIGHT_IF_LONGER
            self.seconds = mean + weight * (seconds - mean)


class ChildCall:
    """A job on its way to a child and back. Its task sleeps; others move it, and wake the task.

    Args:
        frame: The frame for the child.
        running: The job.
        timeout: The handler's time limit in seconds, from the begin of the function.
        pace: How long the handler's jobs take.
        alone: Whether the job never waits in a child behind another one, nor another one behind it.
        max_result_bytes: The largest result, as JSON.

    Attributes:
        answer: The result as JSON, or the description of a failure; None before.
        seconds: How long the job will run, by what is expected; set when a child gets it.
        starts: Whether its task is to start a child.
        is_waiting: Whether it waits for a child meanwhile, since none can be started.
        is_unsent: Whether the job's frame did not fit into the pipe: its task sends the rest.
        is_returned: Whether the job's child has died before it began the job.
    """

    __slots__ = (
        "_task",
        "alone",
        "answer",
        "frame",
        "is_returned",
        "is_unsent",
        "is_waiting",
        "max_result_bytes",
        "pace",
        "running",
        "seconds",
        "starts",
        "timeout",
    )

    def __init__(
        self,
        frame: bytes,
        running: RunningJob,
        *,
        timeout: float | None,
        pace: Pace,
        max_result_bytes: int,
        alone: bool = False,
    ) -> None:
        self.frame = frame
        self.running = running
        self.timeout = timeout
        self.pace = pace
        self.alone = alone
        self.max_result_bytes = max_result_bytes
        self.answer: bytes | Failure | None = None
        self.seconds = 0.0
        self.starts = False
        self.is_waiting = False
        self.is_unsent = False
        self.is_returned = False
        self._task: trio.lowlevel.Task | None = None

    def begin(self, at: float | None = None) -> None:
        """Note that the function begins.

        Args:
            at: When, by Trio's clock; None for now.
        """
        self.running.start_clock(self.timeout, at=at)

    async def wait(self) -> None:
        """Sleep until `wake`. The call is then in another state, perhaps in none that is new."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._task = trio.lowlevel.current_task()
        try:
            await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            self._task = None

    def wake(self) -> None:
        """Wake the task if it sleeps in `wait`."""
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)
