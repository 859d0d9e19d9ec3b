"""`PageOptions`: what a program may say about the jobs of a page."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypedDict, TypeVar

from trio_jobs.job import Job, JobStatus, Outcome, Waiting
from trio_jobs.pool.ids import is_id
from trio_jobs.pool.job_query import JobQuery, Order, names
from trio_jobs.shown_value import shown

_Value = TypeVar("_Value", bound=StrEnum)


class PageOptions(TypedDict, total=False):
    """Which jobs a page has, and in which order, for type checkers; see `Jobs.page`."""

    order: str
    type: Iterable[str] | None
    status: Iterable[str] | None
    outcome: Iterable[str] | None
    waiting: Iterable[str] | None
    since: datetime | None
    until: datetime | None
    rerun: bool


def query_of(
    holds: Callable[[str], bool],
    *,
    order: str = Order.OLDEST,
    type: Iterable[str] | None = None,  # noqa: A002  (the field's name)
    status: Iterable[str] | None = None,
    outcome: Iterable[str] | None = None,
    waiting: Iterable[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    rerun: bool = True,
) -> JobQuery:
    """Check the options of a page, and make the query.

    Args:
        holds: See `JobQuery`.
        order: See `Jobs.page`, as for the others.
        type: See there.
        status: See there.
        outcome: See there.
        waiting: See there.
        since: See there.
        until: See there.
        rerun: See there.

    Raises:
        ValueError: One is no such value; the text names it.
    """
    if order not in tuple(Order):
        raise ValueError(f"order must be one of {', '.join(Order)}, got {shown(order)}")
    if not isinstance(rerun, bool):
        raise ValueError(f"rerun must be True or False, got {shown(rerun)}")  # noqa: TRY004
    return JobQuery(
        order=Order(order),
        types=frozenset() if type is None else frozenset(names("type", type)),
        statuses=_values("status", JobStatus, status),
        outcomes=_values("outcome", Outcome, outcome),
        waiting=_values("waiting", Waiting, waiting),
        since=_time("since", since),
        until=_time("until", until),
        rerun=rerun,
        holds=holds,
    )


def position_of(query: JobQuery, after: str | Job | None) -> str | None:
    """The position behind which a page begins.

    Args:
        query: The jobs of the page.
        after: The last job of the page before, or its id if ids have the query's order.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(after, Job):
        if not JobQuery(order=query.order).select([after]):
            raise ValueError(f"after must be a job of the order {query.order}, got {after.id!r}")
        return query.position(after)
    if after is not None and query.order in (Order.ENDED, Order.NEXT):
        raise ValueError(f"after must be a job in the order {query.order}, got {shown(after)}")
    # Any text has a position among the sorted ids, mostly behind the last: a wrong id would give
    # an empty page, and no error.
    if after is not None and not is_id(after):
        raise ValueError(f"after must be the id of a job, got {after!r}")
    return after


def _values(what: str, kind: type[_Value], values: Iterable[str] | None) -> frozenset[_Value]:
    found = () if values is None else names(what, values)
    for each in found:
        if each not in tuple(kind):
            raise ValueError(f"{what} must be some of {', '.join(kind)}, got {shown(each)}")
    return frozenset(kind(each) for each in found)


def _time(name: str, time: datetime | None) -> datetime | None:
    if time is None:
        return None
    if not isinstance(time, datetime) or time.utcoffset() is None:
        raise ValueError(f"{name} must be a datetime with a time zone, got {shown(time)}")
    return time.astimezone(UTC)
