"""`RunningJob`: a job while its handler runs. The first decision about the job is its outcome.

Three events decide how a job ends: the handler's end, a request to cancel the job, the time
limit. The first one counts; later ones change nothing.
"""

import math
from typing import Protocol

import trio

from trio_jobs.handlers.handler import Handler
from trio_jobs.handlers.reports import Reports
from trio_jobs.job import Ending, JobError, Outcome

CANCELLED = Ending(
    outcome=Outcome.CANCELLED, error=JobError(type="Cancelled", message="cancelled on request")
)


class Scope(Protocol):
    """A cancel scope, or what acts like one."""

    @property
    def deadline(self) -> float:
        """When the scope is cancelled, by Trio's clock."""

    @deadline.setter
    def deadline(self, deadline: float) -> None: ...

    def cancel(self) -> None:
        """Cancel the scope."""


class RunningJob(Reports):
    """A job from its claim to its end. Every method is a plain `def`: no method interrupts another.

    Attributes:
        handler: The handler; None until the executor has found it.
        scope: The worker's scope, around the handler, or what ends the wait for a handler
            elsewhere; None before the executor has entered it. A cancel or the time limit cancels
            the scope, unless the handler cannot be interrupted; each further cancel does so again.
        begun: Whether the handler has begun, and its clock runs.
    """

    # Defaults in the class: a short job changes few of them, and one is made for each job.
    handler: Handler | None = None
    scope: Scope | None = None
    begun = False
    _interruptible = True
    _timeout: float | None = None
    _deadline: float | None = None
    _decided: Ending | None = None
    _ended = False

    def start_clock(
        self, timeout: float | None, *, at: float | None = None, interruptible: bool = True
    ) -> None:
        """Note that the handler begins.

        Args:
            timeout: The time limit in seconds from then; None for no limit.
            at: When it began, by Trio's clock; None for now.
            interruptible: Whether a cancel or the limit cancels the scope as well.
        """
        self.begun = True
        self._interruptible = interruptible
        if timeout is not None:
            self._timeout = timeout
            self._deadline = (trio.current_time() if at is None else at) + timeout
            if self.scope is not None and interruptible:
                self.scope.deadline = self._deadline

    def take_back_start(self) -> None:
        """Note that the handler could not begin: the job waits again, and can be interrupted."""
        self._check_deadline()
        self.begun = False
        self._interruptible = True
        if self._decided is None:
            self._deadline = None
            if self.scope is not None:
                self.scope.deadline = math.inf
        elif self.scope is not None:  # a cancel came while the job could not be interrupted
            self.scope.cancel()

    def cancel(self) -> bool:
        """Decide that the job ends as cancelled, unless something else has decided before.

        Returns:
            Whether the job ends as cancelled, by this request or an earlier one.
        """
        self._check_deadline()
        if not self._ended:
            self._decided = self._decided or CANCELLED
            if self.scope is not None and self._interruptible:
                self.scope.cancel()
        return self._decided is CANCELLED

    def is_decided(self, now: float) -> bool:
        """Whether a cancel or the time limit has decided. Any thread may ask.

        Args:
            now: The time by Trio's clock.
        """
        deadline = self._deadline
        return self._decided is not None or (deadline is not None and now >= deadline)

    def end(self, at: float | None = None) -> Ending | None:
        """Note that the handler has ended. Call it as soon as that is known.

        Args:
            at: When the handler ended, by Trio's clock; None for now.

        Returns:
            The earlier decision; None if the handler's end is the first.
        """
        if self._deadline is not None and not self._ended:
            if at is None or at >= self._deadline:
                self._check_deadline()
            elif self._decided is not CANCELLED:
                # The handler ended in time, although the clock was checked after the limit.
                self._decided = None
                if self.scope is not None:
                    self.scope.deadline = math.inf  # let the rest of the handler's answer arrive
        self._ended = True
        return self._decided

    def _check_deadline(self) -> None:
        # Nothing calls this object when the deadline passes: the next event looks whether it has.
        if self._deadline is None or self._decided is not None or self._ended:
            return
        if trio.current_time() >= self._deadline:
            message = f"the time limit of {self._timeout:g} s passed"
            error = JobError(type="TimedOut", message=message)
            self._decided = Ending(outcome=Outcome.TIMED_OUT, error=error)
