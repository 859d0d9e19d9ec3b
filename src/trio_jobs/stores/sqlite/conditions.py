"""Conditions of queries: which jobs a client wants, as SQL."""

from collections.abc import Collection, Iterable
from typing import Final

from trio_jobs.job import JobStatus
from trio_jobs.pool.job_query import JobQuery, Order
from trio_jobs.timestamps import microseconds

GREATEST: Final = 2**63 - 1  # of SQLite's integers

# Types of one query.
_AT_ONCE: Final = 500


def conditions_of(query: JobQuery) -> tuple[list[str], dict[str, object]]:
    """The conditions that are the same for each order and outcome, and their values."""
    conditions: list[str] = []
    values: dict[str, object] = {}
    if query.types and _fit_into_a_query(query.types):
        values |= (types := named("type", query.types))
        conditions.append(f"type IN (:{', :'.join(types)})")
    if query.waiting or (query.statuses and JobStatus.COMPLETED not in query.statuses):
        conditions.append("status < 2")
    if not query.rerun:
        conditions.append("rerun_as IS NULL")
    ended = query.order is Order.ENDED
    if query.since is not None:
        conditions.append(f"{'completed_at' if ended else 'created_at'} >= :since")
        values["since"] = microseconds(query.since)
    if query.until is not None and not ended:
        conditions.append("created_at < :until")
        values["until"] = microseconds(query.until)
    return conditions, values


def named(name: str, values: Iterable[str]) -> dict[str, str]:
    """The values by the names of their parameters."""
    return {f"{name}_{number}": value for number, value in enumerate(values)}


def _fit_into_a_query(texts: Collection[str]) -> bool:
    try:
        "".join(texts).encode()
    except UnicodeError:  # lone surrogates, which no text in the file has
        return False
    return len(texts) <= _AT_ONCE
