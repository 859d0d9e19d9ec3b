"""Look-ups and pages of a file, each on a connection that the caller has."""

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from trio_jobs.job import Job, Outcome
from trio_jobs.stores.sqlite.rows import SELECT_BRIEF, SELECT_WHOLE, brief_job, whole_job

# Ids, keys or types of one query.
_AT_ONCE: Final = 500

# The jobs behind a page's ``after``. The order of ids and that of seqs are both that of admission.
_BEHIND: Final = (
    "seq > ifnull((SELECT seq FROM jobs WHERE id <= :after ORDER BY id DESC LIMIT 1), 0)"
)


def find_many(connection: sqlite3.Connection, job_ids: Sequence[str]) -> list[tuple[int, Job]]:
    """Those of these jobs that the file has, each with its seq, in any order."""
    found: list[tuple[int, Job]] = []
    for first in range(0, len(job_ids), _AT_ONCE):
        some = job_ids[first : first + _AT_ONCE]
        query = f"{SELECT_WHOLE} WHERE id IN ({_marks(some)})"
        found += map(whole_job, connection.execute(query, some))
    return found


def find_keys(connection: sqlite3.Connection, texts: Sequence[str]) -> list[Job]:
    """The jobs that have one of these idempotency keys."""
    jobs: list[Job] = []
    for first in range(0, len(texts), _AT_ONCE):
        some = texts[first : first + _AT_ONCE]
        # The index needs its condition repeated.
        query = f"{SELECT_WHOLE} WHERE key IS NOT NULL AND key IN ({_marks(some)})"
        jobs += [whole_job(row)[1] for row in connection.execute(query, some)]
    return jobs


def find_page(
    connection: sqlite3.Connection,
    *,
    after: str | None,
    limit: int,
    unfinished: bool,
    outcomes: Collection[Outcome],
    types: Collection[str],
) -> list[Job]:
    """Up to ``limit`` jobs in the order of their ids, the first one greater than ``after``.

    Indexes find unfinished jobs, and those of outcomes other than ``succeeded``. A page of any
    other outcomes, or of types, reads all jobs up to its end: a million in a tenth of a second.

    Args:
        connection: To the file.
        after: Any id; None for the first page.
        limit: The most jobs.
        unfinished: Whether to leave out jobs that have ended.
        outcomes: If there are any, only jobs that have ended so.
        types: If there are any, only jobs of these types. If there are more than 500, or one of
            them has lone surrogates, also jobs of other types: the caller leaves those out.
    """
    wanted = _named("outcome", {outcome.value for outcome in outcomes})
    wanted_types = _named("type", types) if _fit_into_a_query(types) else {}
    query = f"{SELECT_BRIEF} WHERE {_BEHIND}"
    if wanted_types:
        query += f" AND type IN (:{', :'.join(wanted_types)})"
    if unfinished:
        query += " AND status < 2"
    if Outcome.SUCCEEDED in outcomes:
        query += f" AND outcome IN (:{', :'.join(wanted)})"
    elif wanted:
        # The index of the dead has those of one outcome in their order. SQLite merges them.
        query += " AND status = 2 AND outcome <> 'succeeded' AND outcome = :"
        query = " UNION ALL ".join(query + name for name in wanted)
    query += " ORDER BY seq LIMIT :limit"
    values = {"after": after or "", "limit": limit, **wanted, **wanted_types}
    return [brief_job(row) for row in connection.execute(query, values)]


def _marks(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))


def _named(name: str, values: Iterable[str]) -> dict[str, str]:
    """The values by the names of their parameters."""
    return {f"{name}_{number}": value for number, value in enumerate(values)}


def _fit_into_a_query(texts: Collection[str]) -> bool:
    try:
        "".join(texts).encode()
    except UnicodeError:  # lone surrogates, which no text in the file has
        return False
    return len(texts) <= _AT_ONCE
