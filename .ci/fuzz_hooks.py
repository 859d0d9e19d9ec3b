"""What schemathesis does not know by itself: lines of streams, times, and what waits for a job."""

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import schemathesis
from hypothesis import strategies as st


@schemathesis.serializer("application/x-ndjson")
def write_line(_context: object, value: object) -> bytes:
    """One line; the document describes what each of them holds."""
    return value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n"


OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
# No schema can describe a bound that moves with the clock, so the times end in a year that stays
# within it.
TIMES = st.datetimes(max_value=datetime(2035, 1, 1), timezones=OFFSETS)  # noqa: DTZ001
schemathesis.openapi.format("date-time", TIMES.map(datetime.isoformat))


@schemathesis.hook
def filter_case(_context: object, case: schemathesis.Case[Any]) -> bool:
    """Leave out what no schema can describe: what the orders by time ask of other parameters."""
    query = case.query or {}
    if query.get("order") == "next":
        return "limit" in query
    return query.get("order") != "ended" or "succeeded" not in str(query.get("outcome"))


@schemathesis.hook
def map_case(_context: object, case: schemathesis.Case[Any]) -> schemathesis.Case[Any]:
    """Have the jobs of a pipe begin at once: the answer waits for their ends."""
    if case.path == "/jobs/pipe" and isinstance(case.body, dict):
        for time in ("delay", "run_at"):
            case.body.pop(time, None)
    return case
