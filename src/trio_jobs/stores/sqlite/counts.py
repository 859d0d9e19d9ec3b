"""Counts of a file's jobs, on a connection that the caller has."""

import sqlite3

from trio_jobs.job import Job, JobStatus, Outcome
from trio_jobs.pool.job_query import JobQuery, Order
from trio_jobs.stores.sqlite.conditions import GREATEST, conditions_of, named
from trio_jobs.stores.sqlite.rows import SELECT_BRIEF, brief_job
from trio_jobs.timestamps import microseconds


def count_jobs(
    connection: sqlite3.Connection, query: JobQuery
) -> tuple[dict[tuple[str, Outcome], int], list[Job]]:
    """The numbers of ended jobs by type and outcome, and the unfinished ones, at one moment.

    Indexes find the jobs of outcomes other than ``succeeded``, and those of the order of ends.
    Otherwise this reads all jobs: a million in about a second.

    Args:
        connection: To the file.
        query: Which jobs, as in `find_page`.
    """
    conditions, values = conditions_of(query)
    ended = ["status = 2", *conditions]
    by_end = query.order is Order.ENDED
    if by_end:
        values["end"] = GREATEST if query.until is None else microseconds(query.until) - 1
        ended.append("completed_at <= :end")
    if query.outcomes:
        wanted = named("outcome", {outcome.value for outcome in query.outcomes})
        ended.append(f"outcome IN (:{', :'.join(wanted)})")
        values |= wanted
    if by_end or (query.outcomes and Outcome.SUCCEEDED not in query.outcomes):
        ended.append("outcome <> 'succeeded'")
    numbers: dict[tuple[str, Outcome], int] = {}
    jobs: list[Job] = []
    with connection:  # both statements read the file as it is at one moment
        connection.execute("BEGIN")
        if not query.statuses or JobStatus.COMPLETED in query.statuses:
            text = f"SELECT type, outcome, count(*) FROM jobs WHERE {' AND '.join(ended)}"  # noqa: S608
            for type_, outcome, number in connection.execute(f"{text} GROUP BY 1, 2", values):
                numbers[type_, Outcome(outcome)] = number
        if not query.outcomes and not by_end and set(query.statuses) != {JobStatus.COMPLETED}:
            live = " AND ".join(["status < 2", *conditions])
            jobs = [
                brief_job(row) for row in connection.execute(f"{SELECT_BRIEF} WHERE {live}", values)
            ]
    return numbers, jobs
