"""A job as a server shows it, as far as commands look into it."""

from datetime import datetime
from typing import TypeVar

import msgspec

from trio_jobs.commands.command_error import CommandError
from trio_jobs.commands.exit_statuses import BROKEN

_T = TypeVar("_T")

_NULL = msgspec.Raw(b"null")


class SeenError(msgspec.Struct, frozen=True):
    """Why a job did not succeed; the message may be withheld."""

    type: str
    message: str = ""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class SeenJob(msgspec.Struct, frozen=True):
    """What an answer says of a job; what it does not say has a default."""

    id: str
    type: str
    status: str
    created_at: datetime
    completed_at: datetime | None = None
    duration: float | None = None
    outcome: str | None = None
    attempts: int = 0
    error: SeenError | None = None
    last_error: SeenError | None = None
    result: msgspec.Raw = _NULL

    @property
    def has_ended(self) -> bool:
        """Whether its status is its last."""
        return self.status == "completed"

    @property
    def has_succeeded(self) -> bool:
        """Whether it has ended well."""
        return self.outcome == "succeeded"


class EndedEvent(msgspec.Struct, frozen=True):
    """An event of ended jobs.

    Attributes:
        missed: How many have ended before them that this client does not get.
        jobs: The JSON of each.
    """

    jobs: list[msgspec.Raw]
    missed: int = 0


def read_job(body: bytes) -> SeenJob:
    """The job that a body is.

    Raises:
        CommandError: It is none.
    """
    return read_as(SeenJob, body, "the answer is no job")


def read_as(type: type[_T], body: bytes, complaint: str) -> _T:  # noqa: A002
    """What a body, or the data of an event, is.

    Args:
        type: What it should be.
        body: Its JSON.
        complaint: What is said if it is something else.

    Raises:
        CommandError: It is something else.
    """
    try:
        return msgspec.json.decode(body, type=type)
    except ValueError as error:  # and so `UnicodeDecodeError`, and msgspec's own
        raise CommandError(f"{complaint}: {error}", BROKEN) from None
