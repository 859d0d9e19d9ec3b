"""`Runner`: runs submissions as jobs, on a server or in this process."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from trio_jobs.commands.exit_statuses import BROKEN
from trio_jobs.commands.run.reader import Reader
from trio_jobs.commands.run.records import Submission


class RunnerError(Exception):
    """The jobs cannot be run, or no more of them.

    Args:
        text: Says why.
        status: The exit status.
    """

    def __init__(self, text: str, *, status: int = BROKEN) -> None:
        super().__init__(text)
        self.status = status


class JobEnd(msgspec.Struct, frozen=True, gc=False):
    """How the job of a submission has ended.

    Attributes:
        submission: The submission.
        members: The answer as JSON from behind its first member, ``line``, on.
        outcome: Its outcome.
    """

    submission: Submission
    members: bytes
    outcome: str


Deliver = Callable[[Sequence[JobEnd]], Awaitable[None]]


class Runner(Protocol):
    """Runs submissions as jobs, a bounded number at a time."""

    @property
    def in_flight(self) -> int:
        """How many submissions are under way."""

    @property
    def failing_since(self) -> float | None:
        """Since when the server is gone, by Trio's clock; None while it is there."""

    async def run(self, reader: Reader, deliver: Deliver) -> None:
        """Run what the reader reads, and deliver each answer once, as it comes.

        Returns:
            When the reader has come to its end, or was stopped, and each submission has its answer.

        Raises:
            RunnerError: The jobs cannot be run, or not all of them. What ``deliver`` raises, too.
            InputError: From the reader.

        Cancellation:
            What is under way has no answer.
        """

    def stop(self) -> None:
        """Submit no more: the reader is stopped. What is under way goes on."""

    def cancel(self) -> None:
        """Ask for the cancel of all that is under way; its answers come as always."""
