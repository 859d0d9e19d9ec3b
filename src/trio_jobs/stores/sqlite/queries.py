"""Reads single jobs and pages from a store file, on the caller's connection."""

import sqlite3
from collections.abc import Collection, Sequence
from typing import Final

from trio_jobs.job import Job, Outcome
from trio_jobs.pool.job_query import BEHIND_ALL, JobQuery, Order, parse_end_position
from trio_jobs.stores.sqlite.conditions import GREATEST, conditions_of, named
from trio_jobs.stores.sqlite.rows import SELECT_BRIEF, SELECT_WHOLE, brief_job, whole_job
from trio_jobs.timestamps import microseconds

# How many ids or keys one query looks up.
_AT_ONCE: Final = 500

# By the order of a page: which jobs are behind ``:after``, and how they are sorted. Ids and seqs
# both ascend in the order of admission. The index `jobs_dead` has the jobs without success by their
# ends.
_ORDERS: Final = {
    Order.OLDEST: (
        "seq > ifnull((SELECT seq FROM jobs WHERE id <= :after ORDER BY id DESC LIMIT 1), 0)",
        "seq",
    ),
    Order.NEWEST: (
        "seq < ifnull((SELECT seq FROM jobs WHERE id >= :after ORDER BY id LIMIT 1), :greatest)",
        "seq DESC",
    ),
    Order.ENDED: (
        """status = 2 AND outcome <> 'succeeded' AND (completed_at, seq) <=
        (:end, ifnull((SELECT seq FROM jobs WHERE id < :after ORDER BY id DESC LIMIT 1), 0))""",
        "completed_at DESC, seq DESC",
    ),
}


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
        # SQLite uses the partial index only for queries that repeat its condition.
        query = f"{SELECT_WHOLE} WHERE key IS NOT NULL AND key IN ({_marks(some)})"
        jobs += [whole_job(row)[1] for row in connection.execute(query, some)]
    return jobs


def find_page(
    connection: sqlite3.Connection, query: JobQuery, *, after: str | None, limit: int
) -> list[Job]:
    """Up to ``limit`` jobs in the order of the query, from the first one behind ``after``.

    There are indexes for unfinished jobs, for jobs without success, and for these by their ends.
    With any other condition (succeeded jobs, types, a time of submission, no re-run jobs) the query
    reads job after job until the page is full: a million in a tenth of a second.

    Args:
        connection: To the file.
        query: Which jobs. If it has more than 500 types, or one has lone surrogates, jobs of other
            types may be among them, and so may jobs of other statuses, for the caller to leave
            out; but no completed ones if it wants none.
        after: Any position in the order; None for the first page.
        limit: The most jobs.
    """
    behind, order = _ORDERS[query.order]
    conditions, values = conditions_of(query)
    text = f"{SELECT_BRIEF} WHERE {' AND '.join([behind, *conditions])}"
    first = "" if query.order is Order.OLDEST else BEHIND_ALL
    values |= {"after": after or first, "greatest": GREATEST, "limit": limit}
    if query.order is Order.ENDED:
        end, job_id = parse_end_position(after) if after else (GREATEST, BEHIND_ALL)
        if query.until is not None:
            end, job_id = min((end, job_id), (microseconds(query.until) - 1, BEHIND_ALL))
        values |= {"end": end, "after": job_id}
    values |= (wanted := named("outcome", {each.value for each in query.outcomes}))
    if wanted and (Outcome.SUCCEEDED in query.outcomes or query.order is Order.ENDED):
        text += f" AND outcome IN (:{', :'.join(wanted)})"
    elif wanted:
        # The index `jobs_dead_outcomes` has the jobs of one outcome in order, so each outcome gets
        # a query of its own. SQLite merges their rows.
        text += " AND status = 2 AND outcome <> 'succeeded' AND outcome = :"
        text = " UNION ALL ".join(text + name for name in wanted)
    text += f" ORDER BY {order} LIMIT :limit"
    return [brief_job(row) for row in connection.execute(text, values)]


def _marks(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))
