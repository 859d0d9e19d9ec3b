"""Conditions of queries: which jobs a client wants, as SQL."""

from collections.abc import Iterable
from typing import Final
from uuid import UUID

from trio_jobs.job import JobStatus
from trio_jobs.pool.job_query import JobQuery, Order

UNFINISHED: Final = "completed_at is null"


def conditions_of(query: JobQuery) -> tuple[list[str], dict[str, object]]:
    """The conditions that every page and count has, and their values."""
    conditions: list[str] = []
    values: dict[str, object] = {}
    if query.types:
        conditions.append("type = any(%(types)s::text[])")
        values["types"] = storable(query.types)
    if query.waiting or (query.statuses and JobStatus.COMPLETED not in query.statuses):
        conditions.append(UNFINISHED)
    if not query.rerun:
        conditions.append("rerun_as is null")
    time = "completed_at" if query.order is Order.ENDED else "created_at"
    if query.since is not None:
        conditions.append(f"{time} >= %(since)s")
        values["since"] = query.since
    if query.until is not None:
        conditions.append(f"{time} < %(until)s")
        values["until"] = query.until
    return conditions, values


def storable(texts: Iterable[str]) -> list[str]:
    """Those of these texts that a database can have: without NUL, and without lone surrogates."""
    return [text for text in texts if _is_storable(text)]


def is_uuid(text: str) -> bool:
    """Whether a text is a UUID as jobs have it for their id."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _is_storable(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeError:
        return False
