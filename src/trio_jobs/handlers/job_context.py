"""`JobContext`: what an async handler may ask for beside the payload."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a child process imports this module with the user's, and runs without Trio
    import trio


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext:
    """The job that a handler works on.

    An async handler gets it in the parameter that it annotates so, wherever that stands; or, if it
    annotates none, in one called ``context`` or ``ctx`` behind the payload's.

    Attributes:
        id: The job's id.
        type: Its type.
        submitted_at: When it was admitted (UTC).
        nursery: The job's own. Whatever is started in it ends before the job
            counts as ended: the job waits for it, a child that fails fails the
            job, and time limit, cancel and shutdown reach all of it.
    """

    id: str
    type: str
    submitted_at: datetime
    nursery: "trio.Nursery"
