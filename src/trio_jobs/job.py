"""The job: one immutable record, where it can be in its life, and how it can end."""

from datetime import datetime
from enum import StrEnum
from typing import final

import msgspec

from trio_jobs.progress import Progress
from trio_jobs.retries import MAX_DELAY as MAX_DELAY


class JobStatus(StrEnum):
    """Where a job is in its life."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"


class Outcome(StrEnum):
    """How a completed job ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"  # its process died, or was stopped, and it may not run again


class Waiting(StrEnum):
    """Why a pending job waits outside the buffer."""

    DELAYED = "delayed"  # its client has named a time, or its handler has snoozed
    RETRYING = "retrying"  # it is between two attempts
    HELD = "held"  # it could begin, and waits for others of its type, for its resume, or its turn


# Structs, not dataclasses: each move replaces a job, and a frozen dataclass costs ten times as
# much to make. `gc=False`: none can be part of a cycle, and the garbage collector would visit a
# million of them.


class JobError(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Why a job did not succeed: the exception's type and its bounded text."""

    type: str
    message: str


class Extras(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What few jobs have. A field of its own would cost each job in each of its moves.

    Attributes:
        snoozes: See `Job`, as for the others.
        progress: See there.
        lines: See there.
        submitted_by: See there.
        trace: See there.
    """

    snoozes: int = 0
    progress: Progress | None = None
    lines: tuple[str, ...] = ()
    submitted_by: str | None = None
    trace: str | None = None

    @classmethod
    def of(
        cls,
        *,
        snoozes: int = 0,
        progress: Progress | None = None,
        lines: tuple[str, ...] = (),
        submitted_by: str | None = None,
        trace: str | None = None,
    ) -> "Extras | None":
        """These; None if there is nothing: two equal jobs have the same."""
        if not (snoozes or progress or lines or submitted_by or trace):
            return None
        return cls(
            snoozes=snoozes,
            progress=progress,
            lines=lines,
            submitted_by=submitted_by,
            trace=trace,
        )


class Left(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an attempt that did not succeed leaves behind, beside its error.

    Attributes:
        progress: See `Job`.
        lines: See `Job`.
    """

    progress: Progress | None = None
    lines: tuple[str, ...] = ()


class Ending(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How processing a job ended: what a worker records.

    Attributes:
        outcome: How it ended.
        result: What the handler returned, as JSON; only if it succeeded.
        error: Why it did not succeed; None if it succeeded.
        left: What goes into the job's record: an ending that is recorded has none itself.
    """

    outcome: Outcome
    result: bytes | None = None
    error: JobError | None = None
    left: Left | None = None


@final  # a type checker then knows what `type(end) is Later` leaves
class Later(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Processing a job has not ended it: the job wants to be processed again.

    Attributes:
        seconds: After which time; from 0 to `MAX_DELAY`.
        error: What the attempt failed with; None if it did not fail.
        snooze: Whether it does not count as an attempt.
        left: What goes into the job's record.
        lost: Whether the job is another server's business from now on: nothing is recorded here.
    """

    seconds: float
    error: JobError | None = None
    snooze: bool = False
    left: Left | None = None
    lost: bool = False


class IdempotencyKey(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The name that a client gives a submission, so that the client can repeat the submission.

    Attributes:
        text: The name.
        digest: A hash of the submission; a repetition has the same hash.
    """

    text: str
    digest: bytes


class Job(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One unit of work; a changed job is a new object, made by the store.

    Attributes:
        id: A UUIDv7; ids sort in the order of admission.
        type: Which handler processes it.
        payload: The submitted JSON.
        status: Where it is in its life.
        created_at: When it was admitted (UTC).
        started_at: When a worker claimed it; set from processing on. Never before ``created_at``,
            even if the clock is set back.
        completed_at: When it ended; set once completed. Never before ``started_at``.
        duration: Seconds from its claim to its end, by a monotonic clock; set once completed,
            and None if it was not measured.
        ending: How it ended; set once completed.
        cancel_requested: Whether a client has asked for it to be cancelled.
        key: The submission's idempotency key, if it had one.
        attempts: How many times a worker has claimed it. Claims that ended in a snooze or a
            release do not count.
        interruptions: How many of its claims ended with the death of the process.
        run_at: The time (UTC) that it waits for; set while it is pending, and only if it was
            submitted for later or has been postponed.
        last_error: What its last failed attempt raised; set until it has completed.
        rerun_of: The id of the job that it re-runs, even if that one has been dropped since.
        rerun_as: The id of the job that re-runs it.
        extras: The values of the properties from ``snoozes`` to ``trace``; None if all are empty.
    """

    id: str
    type: str
    payload: bytes
    created_at: datetime
    status: JobStatus = JobStatus.PENDING
    started_at: datetime | None = None
    completed_at: datetime | None = None
    duration: float | None = None
    ending: Ending | None = None
    cancel_requested: bool = False
    key: IdempotencyKey | None = None
    attempts: int = 0
    interruptions: int = 0
    run_at: datetime | None = None
    last_error: JobError | None = None
    rerun_of: str | None = None
    rerun_as: str | None = None
    extras: Extras | None = None

    @property
    def snoozes(self) -> int:
        """How many times its handler has snoozed."""
        return 0 if self.extras is None else self.extras.snoozes

    @property
    def progress(self) -> Progress | None:
        """How far its last attempt was, by the handler's last report.

        None if the handler has reported nothing, and once the job has succeeded.
        """
        return None if self.extras is None else self.extras.progress

    @property
    def lines(self) -> tuple[str, ...]:
        """The last lines that its last attempt logged; none once the job has succeeded."""
        return () if self.extras is None else self.extras.lines

    @property
    def submitted_by(self) -> str | None:
        """The name of the client that submitted it; None if it has none."""
        return None if self.extras is None else self.extras.submitted_by

    @property
    def trace(self) -> str | None:
        """The ``traceparent`` (W3C Trace Context) of its submission, if it had one."""
        return None if self.extras is None else self.extras.trace

    @property
    def attempt(self) -> int:
        """The number of the present attempt, for a retry policy; a crash takes none away."""
        return self.attempts - self.interruptions

    @property
    def waiting(self) -> Waiting | None:
        """Why it waits for a time; None if it is new, or not pending.

        It keeps this mark while it is held, and moves through the buffer, until a worker claims it.
        """
        if self.run_at is None:
            return None
        return Waiting.RETRYING if self.attempts else Waiting.DELAYED

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, in a word; None before it has completed."""
        return None if self.ending is None else self.ending.outcome

    @property
    def size(self) -> int:
        """Bytes of all that clients and handlers chose: type, payload, result and texts."""
        size, ending = _bytes(self.type) + len(self.payload), self.ending
        if ending is not None:
            if ending.result is not None:
                size += len(ending.result)
            if ending.error is not None:
                size += _bytes(ending.error.message)
        if self.extras is not None:
            size += sum(map(_bytes, self.lines))
            size += 0 if self.progress is None else _bytes(self.progress.message)
        return size


def with_trace(job: Job, trace: str | None) -> Job:
    """The job with another trace."""
    return _with_extras(job, trace=trace)


def with_left(job: Job, left: Left | None, *, snooze: bool = False) -> Job:
    """The job with what its present or last attempt leaves behind.

    Args:
        job: The job.
        left: What it leaves; None for nothing.
        snooze: Whether the attempt has ended in a snooze.
    """
    left = Left() if left is None else left
    snoozes = job.snoozes + snooze
    return _with_extras(job, snoozes=snoozes, progress=left.progress, lines=left.lines)


def _with_extras(job: Job, **changes: object) -> Job:
    nothing = Extras()
    extras = msgspec.structs.replace(job.extras or nothing, **changes)
    return msgspec.structs.replace(job, extras=None if extras == nothing else extras)


def _bytes(text: str) -> int:
    # A character may take four bytes. `surrogatepass`: otherwise a surrogate would raise an error
    # in the store, and an error of the store ends the server.
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
