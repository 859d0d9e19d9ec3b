"""`Progress`: how far a job is, as its handler reports it."""

from datetime import datetime

import msgspec

# Characters of a message: a view of the pool has the messages of 200 jobs.
MAX_MESSAGE = 200


class Progress(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How far a job is.

    Attributes:
        done: How much of the work is done, in a unit that the handler chooses.
        total: How much work there is, in the same unit; None if the handler does not know.
        message: What the handler does; at most 200 characters.
        at: When the handler reported this (UTC).
    """

    done: int | float
    total: int | float | None = None
    message: str = ""
    at: datetime
