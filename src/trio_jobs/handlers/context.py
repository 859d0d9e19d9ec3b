"""`JobContext`: the second argument of an async handler. Imports no Trio at run time."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a child process imports the user's module, which imports this one
    import trio


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext:
    """The job that a handler works on.

    An async handler gets the context in the parameter that it annotates as `JobContext`, wherever
    the parameter stands. Without such an annotation, the handler gets it in a parameter called
    ``context`` or ``ctx`` behind the payload's.

    Attributes:
        id: The job's id.
        type: The job's type.
        submitted_at: When the job was admitted (UTC).
        attempt: Which attempt of the job this is, from 1; a snooze is none.
        last_attempt: Whether the handler's retry policy permits no further attempt.
        nursery: The job's own nursery. The job ends when all tasks in it have ended; a task that
            fails fails the job; a time limit, a cancel and a shutdown cancel all these tasks.
    """

    id: str
    type: str
    submitted_at: datetime
    nursery: "trio.Nursery"
    attempt: int = 1
    last_attempt: bool = True
