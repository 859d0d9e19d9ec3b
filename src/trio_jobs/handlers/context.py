"""`JobContext`: the job that a handler works on, as the handler sees it. Imports no Trio."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic

from trio_jobs.handlers.progress_report import ProgressReport

if TYPE_CHECKING:  # a child process imports the user's module, which imports this one
    import asyncio

    import trio
    from typing_extensions import TypeVar

    State = TypeVar("State", default=Any)  # a bare JobContext has a state of any type
else:
    from typing import TypeVar

    State = TypeVar("State")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext(Generic[State]):
    """The job that a handler works on.

    A handler gets the context in the parameter that it annotates as `JobContext`, wherever the
    parameter stands. Without such an annotation, the handler gets it in a parameter called
    ``context`` or ``ctx``. ``JobContext[Shop]`` says for type checkers what ``state`` is.

    Attributes:
        id: The job's id.
        type: The job's type.
        submitted_at: When the job was admitted (UTC).
        attempt: Which attempt of the job this is, from 1; a snooze does not count.
        last_attempt: Whether the handler's retry policy permits no further attempt.
        state: What the lifespan yields that was opened where the handler runs; None without one.
    """

    id: str
    type: str
    submitted_at: datetime
    attempt: int = 1
    last_attempt: bool = True
    state: State
    _nursery: "trio.Nursery | None" = None
    _task_group: "asyncio.TaskGroup | None" = None
    _is_cancelled: Callable[[], bool] | None = None
    _report: Callable[[ProgressReport], None] | None = None

    @property
    def nursery(self) -> "trio.Nursery":
        """The job's own nursery, on Trio.

        The job ends when all tasks in it have ended. A task that fails fails the job. A time limit,
        a cancel and a shutdown cancel all these tasks.

        Raises:
            RuntimeError: The handler does not run on Trio.
        """
        if self._nursery is None:
            raise RuntimeError("only a handler on Trio has a nursery")
        return self._nursery

    @property
    def task_group(self) -> "asyncio.TaskGroup":
        """The job's own task group, on asyncio; see `nursery`, which is the same on Trio.

        Raises:
            RuntimeError: The handler does not run on asyncio.
        """
        if self._task_group is None:
            raise RuntimeError("only a handler on asyncio has a task group")
        return self._task_group

    def cancelled(self) -> bool:
        """Whether a handler in a thread should return: nobody needs its result any more.

        That is so after a cancel, after the time limit, and once the pool ends. Python cannot
        interrupt a thread: a handler that takes long calls this now and then, and returns if it is
        True. The server interrupts the handlers of other kinds.

        Raises:
            RuntimeError: The handler does not run in a thread.
        """
        if self._is_cancelled is None:
            raise RuntimeError("only a handler in a thread asks whether its job is cancelled")
        return self._is_cancelled()

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Report how far the job is: `GET /jobs/{id}`, `GET /pool` and the job's record show it.

        The last report of an attempt counts, and stays in the record if the job does not succeed.
        A report costs little and wakes no task, in any kind of handler. A process sends at most ten
        reports a second to the server, and always the last one. A report after the job's end has no
        effect.

        Args:
            done: How much of the work is done, in any unit; from 0 to 2**53.
            total: How much work there is, in the same unit; None if the handler does not know.
            message: What the job does; beyond 200 characters it is cut.

        Raises:
            TypeError: ``done`` or ``total`` is no number, or ``message`` no text.
            ValueError: A number is less than 0, greater than 2**53, or not finite.
        """
        report = ProgressReport.of(done, total, message)
        if self._report is not None:
            self._report(report)
