"""`RunningJob`: a job in a handler's hands, and what decides its outcome: the first, once."""

import math

import trio

from trio_jobs.handlers.handler import Handler
from trio_jobs.job import Ending, Job, JobError, Outcome

CANCELLED = Ending(
    outcome=Outcome.CANCELLED, error=JobError(type="Cancelled", message="cancelled on request")
)


class RunningJob:
    """A job from its claim to its end.

    Three things can decide how it ends: its handler's own end, a request to
    cancel it, its time limit. The first does, and what comes later changes
    nothing. Every method is a plain `def`: none comes between another's lines.

    Attributes:
        job: As it was claimed.
        started: When it was claimed, by Trio's clock.
        handler: What runs it. Set when it has been found.
        scope: What its handler runs in, set by whoever runs the handler. Cancel
            and time limit cancel it, unless what it runs in cannot be interrupted.
        begun: Whether its handler has begun: whether its clock runs.
    """

    __slots__ = (
        "_deadline",
        "_decided",
        "_ended",
        "_interruptible",
        "_timeout",
        "begun",
        "handler",
        "job",
        "scope",
        "started",
    )
    handler: Handler | None

    def __init__(self, job: Job) -> None:
        self.job = job
        self.started = trio.current_time()
        self.handler = None
        self.scope: trio.CancelScope | None = None
        self.begun = False
        self._interruptible = True
        self._timeout: float | None = None
        self._deadline: float | None = None
        self._decided: Ending | None = None
        self._ended = False

    def start_clock(self, timeout: float | None, *, interruptible: bool = True) -> None:
        """Note that the handler begins.

        Args:
            timeout: Its time limit, which counts from now, in seconds; None for none.
            interruptible: Whether cancel and time limit cancel its scope; or else they only decide.
        """
        self.begun = True
        self._interruptible = interruptible
        if timeout is not None:
            self._timeout = timeout
            self._deadline = trio.current_time() + timeout
            if self.scope is not None and interruptible:
                self.scope.deadline = self._deadline

    def take_back_start(self) -> None:
        """Note that the handler has not begun after all, and can be interrupted again."""
        self._look_at_clock()
        self.begun = False
        self._interruptible = True
        if self._decided is None:
            self._deadline = None
            if self.scope is not None:
                self.scope.deadline = math.inf
        elif self.scope is not None:  # what was decided while it could not be interrupted
            self.scope.cancel()

    def cancel(self) -> bool:
        """Decide that the job ends as cancelled, if nothing has decided it yet.

        Its handler is interrupted if it can be.

        Returns:
            Whether the job ends as cancelled, now or since an earlier request.
        """
        self._look_at_clock()
        if self._decided is None and not self._ended:
            self._decided = CANCELLED
            if self.scope is not None and self._interruptible:
                self.scope.cancel()
        return self._decided is CANCELLED

    def end(self, at: float | None = None) -> Ending | None:
        """Note that the handler has ended, once; to be called as soon as it is known.

        Args:
            at: When it ended, by Trio's clock; None for now.

        Returns:
            What was decided before; None leaves it to the handler.
        """
        if self._deadline is not None and not self._ended:
            if at is None or at >= self._deadline:
                self._look_at_clock()
            elif self._decided is not CANCELLED:
                # The clock was looked at after the limit; the handler had ended before it.
                self._decided = None
                if self.scope is not None:
                    self.scope.deadline = math.inf  # the rest of its answer may be on its way
        self._ended = True
        return self._decided

    def _look_at_clock(self) -> None:
        # A deadline passes without anybody being called, so whoever comes next
        # finds out whether it was first.
        if self._deadline is None or self._decided is not None or self._ended:
            return
        if trio.current_time() >= self._deadline:
            message = f"the time limit of {self._timeout:g} s passed"
            error = JobError(type="TimedOut", message=message)
            self._decided = Ending(outcome=Outcome.TIMED_OUT, error=error)
