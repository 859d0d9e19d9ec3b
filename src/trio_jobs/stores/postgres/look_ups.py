"""Look-ups and pages of the jobs in a database: each a statement and its values."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from trio_jobs.job import Outcome
from trio_jobs.pool.job_query import JobQuery, Order, parse_end_position
from trio_jobs.stores.postgres.columns import SELECT_BRIEF, SELECT_WHOLE
from trio_jobs.stores.postgres.job_filters import UNFINISHED, conditions_of
from trio_jobs.timestamps import microseconds, time_at


class Query(NamedTuple):
    """A statement that reads.

    Attributes:
        text: The statement, with psycopg's placeholders.
        values: Their values, by name.
    """

    text: str
    values: Mapping[str, object]


# The rows are those of `whole_job`, in any order.
FIND_MANY: Final = f"{SELECT_WHOLE} where id = any(%(ids)s::uuid[])"
# The index needs its condition repeated.
FIND_KEYS: Final = f"{SELECT_WHOLE} where key is not null and key = any(%(keys)s::text[])"

# Which jobs are behind a position, and how they are sorted, by the order of a page. The table's
# name makes `jobs.id` the column, which has an index, and not what a query selects.
_BEHIND: Final = {
    Order.OLDEST: "id > %(after)s::uuid",
    Order.NEWEST: "id < %(after)s::uuid",
    Order.ENDED: "(completed_at, id) < (%(end)s, %(after)s::uuid)",
}
_SORTED: Final = {
    Order.OLDEST: "jobs.id",
    Order.NEWEST: "jobs.id desc",
    Order.ENDED: "completed_at desc, jobs.id desc",
}
# The same for parts of the jobs. Sorted by ids alone, the planner may walk over all jobs to find
# these: it takes them to be spread evenly, and they are the last ones. So each part has the whole
# order of its own index; the jobs that wait for a time have none, and are all read and sorted.
_SORTED_NOT_WAITING: Final = {
    Order.OLDEST: "run_at nulls first, id",
    Order.NEWEST: "run_at desc nulls last, id desc",
}
_SORTED_WAITING: Final = {
    Order.OLDEST: 'id::text collate "C"',
    Order.NEWEST: 'id::text collate "C" desc',
}
_SORTED_NOT_SUCCEEDED: Final = {
    Order.OLDEST: "outcome, id",
    Order.NEWEST: "outcome desc, id desc",
}

# Partial indexes have the jobs that ended without success, and need their condition repeated.
NOT_SUCCEEDED: Final = "outcome <> 'succeeded'"

_MOST: Final = 2**31  # jobs of a page: more than any database has, and less than a bigint
_LATEST: Final = datetime.max.replace(tzinfo=UTC)


def page_query(query: JobQuery, *, after: str | None, limit: int) -> Query:
    """Up to ``limit`` jobs in the order of the query, from the first one behind ``after``.

    Indexes find unfinished jobs, and those of outcomes other than ``succeeded``, the latter also
    by end. A page of any other outcomes, of types, of a time of submission, or without re-run jobs
    reads on until the page is full.

    Args:
        query: Which jobs. Jobs of other statuses may be among them, for the caller to leave out;
            but no completed ones if it wants none.
        after: Any position in the order; None for the first page.
        limit: The most jobs.

    Returns:
        A statement whose rows are those of `brief_job`.
    """
    conditions, values = conditions_of(query)
    if after:
        conditions.append(_BEHIND[query.order])
        values |= _position(query.order, after)
    values["limit"] = min(limit, _MOST)
    by = _SORTED[query.order]
    outcomes = [outcome.value for outcome in query.outcomes]
    parts: list[tuple[str, str]] = []  # conditions and orders: each finds a part of the jobs
    if query.order is Order.ENDED:
        conditions.append(NOT_SUCCEEDED)
    elif UNFINISHED in conditions:
        parts = [
            ("run_at is null", _SORTED_NOT_WAITING[query.order]),
            ("run_at > '-infinity'", _SORTED_WAITING[query.order]),
        ]
    elif outcomes and Outcome.SUCCEEDED not in outcomes:
        # Each outcome apart. Not by `=`: then the planner takes the order for that of ids alone.
        for number, outcome in enumerate(outcomes):
            name = f"outcome_{number}"
            values[name] = outcome
            only = (
                f"outcome between %({name})s::trio_jobs.outcome and %({name})s::trio_jobs.outcome"
            )
            parts.append((f"{NOT_SUCCEEDED} and {only}", _SORTED_NOT_SUCCEEDED[query.order]))
    if outcomes:
        conditions.append("outcome = any(%(outcomes)s::trio_jobs.outcome[])")
        values["outcomes"] = outcomes
    if not parts:
        return Query(f"{SELECT_BRIEF} {_where(conditions)} order by {by} limit %(limit)s", values)
    found = " union all ".join(
        f"(select id from trio_jobs.jobs {_where([*conditions, part])} order by {order} limit %(limit)s)"  # noqa: E501, S608
        for part, order in parts
    )
    text = f"{SELECT_BRIEF} where id = any(array({found})) order by {by} limit %(limit)s"
    return Query(text, values)


def _where(conditions: Sequence[str]) -> str:
    return f"where {' and '.join(conditions)}" if conditions else ""


def _position(order: Order, after: str) -> dict[str, object]:
    if order is not Order.ENDED:
        return {"after": after}
    since, job_id = parse_end_position(after)
    return {"end": time_at(min(since, microseconds(_LATEST))), "after": job_id}
