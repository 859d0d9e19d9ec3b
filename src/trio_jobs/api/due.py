"""The check of ``delay`` and ``run_at``, the two ways to say when a job may begin."""

from datetime import UTC, datetime, timedelta

from trio_jobs.handlers.payload_faults import PayloadError
from trio_jobs.job import MAX_DELAY
from trio_jobs.shown_value import shown

SECONDS = f"a number of seconds from 0 to {MAX_DELAY:.0f} (ten years)"


def check_due(
    delay: object, run_at: object, *, now: datetime, root: str = ""
) -> float | datetime | None:
    """Check when a job may begin.

    Args:
        delay: Seconds; None if not given.
        run_at: A datetime with a time zone; None if not given.
        now: The wall clock's time, as an aware UTC time.
        root: What stands before the names in the text of a fault, such as ``$.``.

    Returns:
        The seconds, or the time in UTC; None if the job may begin now. A past time is now.

    Raises:
        PayloadError: Both are given, or one is not such a value, or beyond ten years.
    """
    if delay is not None and run_at is not None:
        raise PayloadError(f"{root}delay and {root}run_at exclude each other")
    if delay is not None:
        # A bool is an int; NaN is in no range.
        if not isinstance(delay, int | float) or isinstance(delay, bool):
            raise PayloadError(f"{root}delay must be {SECONDS}, got {shown(delay)}")
        if not 0 <= delay <= MAX_DELAY:
            raise PayloadError(f"{root}delay must be {SECONDS}, got {shown(delay)}")
        return float(delay) or None
    if run_at is None:
        return None
    if not isinstance(run_at, datetime) or run_at.utcoffset() is None:
        raise PayloadError(f"{root}run_at must be a time with a time zone, got {shown(run_at)}")
    if run_at <= now:
        return None
    if run_at > now + timedelta(seconds=MAX_DELAY):
        raise PayloadError(f"{root}run_at must be within ten years, got {run_at.isoformat()}")
    return run_at.astimezone(UTC)
