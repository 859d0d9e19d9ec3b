"""`JobSpec`: what a client asks for, before it is a job."""

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from trio_jobs.job import Extras, IdempotencyKey, Job
from trio_jobs.pool.schedule import date_of


class JobSpec(msgspec.Struct, frozen=True, gc=False):
    """What a client asks for.

    Attributes:
        type: The job's type.
        payload: Its payload as JSON.
        due: When it may begin: seconds from its admission on, or a UTC time. None for now.
        key: Its idempotency key, if it has one.
        rerun_of: The id of the completed job that it re-runs.
        submitted_by: See `Job`.
        trace: See `Job`.
    """

    type: str
    payload: bytes
    due: float | datetime | None = None
    key: IdempotencyKey | None = None
    rerun_of: str | None = None
    submitted_by: str | None = None
    trace: str | None = None


def make_jobs(specs: Sequence[JobSpec], new_id: Callable[[], str], now: datetime) -> list[Job]:
    """Make a pending job of each spec.

    Args:
        specs: What the clients ask for.
        new_id: Makes the id of each.
        now: When they are admitted, as an aware UTC time.
    """
    return [
        Job(
            id=new_id(),
            type=spec.type,
            payload=spec.payload,
            created_at=now,
            run_at=None if spec.due is None else date_of(spec.due, now),
            key=spec.key,
            rerun_of=spec.rerun_of,
            extras=None  # of most jobs: without a call
            if spec.submitted_by is None and spec.trace is None
            else Extras.of(submitted_by=spec.submitted_by, trace=spec.trace),
        )
        for spec in specs
    ]


def leading(specs: Sequence[JobSpec], *, delayed: bool, is_known: Callable[[str], bool]) -> int:
    """How many of the first ones may begin only later, or may begin now; up to a known key."""
    texts: set[str] = set()
    for number, spec in enumerate(specs):
        if (spec.due is not None) is not delayed:
            return number
        if spec.key is not None:
            if spec.key.text in texts or is_known(spec.key.text):
                return number
            texts.add(spec.key.text)
    return len(specs)
