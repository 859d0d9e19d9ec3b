"""Counts of the jobs in a database: a statement and its values, and what its rows say."""

from collections.abc import Iterable, Sequence
from typing import Any

from trio_jobs.job import Job, JobStatus, Outcome
from trio_jobs.pool.job_query import JobQuery, Order
from trio_jobs.stores.postgres.columns import SELECT_BRIEF, brief_job
from trio_jobs.stores.postgres.job_filters import UNFINISHED, conditions_of
from trio_jobs.stores.postgres.look_ups import NOT_SUCCEEDED, Query

# Columns behind those of `brief_job`.
_COUNTS = 3


def count_query(query: JobQuery) -> Query:
    """The numbers of ended jobs by type and outcome, and the unfinished jobs, at one moment.

    Indexes find the jobs of outcomes other than ``succeeded``, and those listed by end.
    Otherwise this reads all jobs: a million in about a second.

    Args:
        query: Which jobs, as in `page_query`.

    Returns:
        A statement whose rows are for `counts_of`.
    """
    conditions, values = conditions_of(query)
    by_end = query.order is Order.ENDED
    ended = ["completed_at is not null", *conditions]
    if query.outcomes:
        ended.append("outcome = any(%(outcomes)s::trio_jobs.outcome[])")
        values["outcomes"] = [outcome.value for outcome in query.outcomes]
    if by_end or (query.outcomes and Outcome.SUCCEEDED not in query.outcomes):
        ended.append(NOT_SUCCEEDED)
    if query.statuses and JobStatus.COMPLETED not in query.statuses:
        ended.append("false")
    live = [UNFINISHED, *conditions]
    if query.outcomes or by_end or set(query.statuses) == {JobStatus.COMPLETED}:
        live.append("false")
    # One statement sees one moment. Its first rows have nothing but counts, the others no counts.
    text = f"""
        with live as ({SELECT_BRIEF} where {" and ".join(live)}),
        ended (ended_type, ended_outcome, ended_number) as (
            select type, outcome::text, count(*) from trio_jobs.jobs where {" and ".join(ended)}
            group by 1, 2
        )
        select live.*, ended.* from ended left join live on false
        union all select live.*, null, null, null from live
    """  # noqa: S608  (all values are parameters)
    return Query(text, values)


def counts_of(
    rows: Iterable[Sequence[Any]],
) -> tuple[dict[tuple[str, Outcome], int], list[Job]]:
    """The numbers of ended jobs, and the unfinished jobs, in the rows of `count_query`."""
    numbers: dict[tuple[str, Outcome], int] = {}
    jobs: list[Job] = []
    for row in rows:
        type_, outcome, number = row[-_COUNTS:]
        if number is None:
            jobs.append(brief_job(row[:-_COUNTS]))
        else:
            numbers[type_, Outcome(outcome)] = number
    return numbers, jobs
