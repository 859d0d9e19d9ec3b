"""`GET /jobs`: lists jobs, by filters, in pages or all in one stream, and counts them."""

import re
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

import msgspec
import trio
from quart import Quart, Response, request

from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.current_access import current_access
from trio_jobs.api.quart_adapter import current_path
from trio_jobs.api.query_params import read_parameters, unknown_parameter
from trio_jobs.api.serialization import MEDIA_TYPE, jobs_json
from trio_jobs.job import Job, JobStatus, Outcome, Waiting
from trio_jobs.pool.job_counts import count_jobs
from trio_jobs.pool.job_pages import STRIDE, read_page
from trio_jobs.pool.job_query import JobQuery, Order, holds_none
from trio_jobs.pool.store import Store
from trio_jobs.problem_details import Problem

MAX_LIMIT = 1000


# The parameters that can be repeated, and what their values can be.
_KNOWN: dict[str, tuple[str, ...]] = {
    "status": tuple(JobStatus),
    "type": (),
    "outcome": tuple(Outcome),
    "waiting": tuple(Waiting),
}
_SINGLE = ("order", "since", "until", "rerun")
_OF_PAGES = ("limit", "after")

# A position in an order of times: see `JobQuery.position`. SQLite's integers are below 2**63.
_TIME_POSITION = re.compile(r"[0-7][0-9a-f]{15}-(.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a query string asks for.

    Attributes:
        query: The jobs, and their order.
        pairs: Its parameters, without those of `_OF_PAGES`.
        limit: The most jobs of one page; None for all jobs in one answer.
        after: The listing begins after this position in the order.
    """

    query: JobQuery
    pairs: Sequence[tuple[str, str]] = ()
    limit: int | None = None
    after: str | None = None

    def next_page(self, last: Job) -> str:
        """The query string of the page that begins after this job."""
        after = self.query.position(last)
        return urlencode([*self.pairs, ("limit", str(self.limit)), ("after", after)])


def add_listing_route(app: Quart, context: ApiContext) -> None:
    """Add ``GET /jobs`` and ``GET /jobs/counts``."""
    store, holds = context.pool.store, context.pool.schedule.holds

    @app.get("/jobs")
    async def list_jobs() -> Response:
        listing = parse_listing(request.query_string, holds=holds)
        withheld = context.withholds_from(current_access())
        after = await _find_position(store, listing)
        if listing.limit is None and listing.query.order is Order.NEXT:
            raise Problem(400, "order=next needs a limit")
        if listing.limit is None:
            # Before the answer begins: a store that is away is an error of its own.
            first = await store.page(listing.query, after=after, limit=STRIDE)
            jobs_ = stream_all(store, listing.query, first, withheld=withheld)
            return Response(jobs_, content_type=MEDIA_TYPE)
        jobs, more = await read_page(store, listing.query, after=after, limit=listing.limit)
        response = Response(jobs_json(jobs, withheld=withheld), content_type=MEDIA_TYPE)
        if more:
            target = f"{current_path()}?{listing.next_page(jobs[-1])}"
            response.headers["Link"] = f'<{target}>; rel="next"'
        return response

    @app.get("/jobs/counts")
    async def show_counts() -> Response:
        listing = parse_listing(request.query_string, paged=False, holds=holds)
        counts = await count_jobs(store, listing.query)
        return Response(msgspec.json.encode(counts), content_type=MEDIA_TYPE)


def parse_listing(
    text: bytes, *, paged: bool = True, holds: Callable[[str], bool] = holds_none
) -> Listing:
    """The listing that a query string asks for; in pages, or of all jobs.

    Args:
        text: The query string.
        paged: Whether it may ask for a page.
        holds: See `JobQuery`.

    Raises:
        Problem: 400, an unknown parameter, a repeated one that may stand once,
            or a bad value.
    """
    filters: dict[str, set[str]] = {}
    single: dict[str, str] = {}
    for name, value in read_parameters(text):
        if name in _KNOWN:
            filters.setdefault(name, set()).add(filter_value(name, value))
        elif name not in (single_names := _SINGLE + _OF_PAGES * paged):
            raise unknown_parameter(name, *_KNOWN, *single_names)
        elif name in single:
            raise Problem(400, f"query parameter {name!r} is repeated")
        else:
            single[name] = value
    pairs = [(name, value) for name in _KNOWN for value in sorted(filters.get(name, ()))]
    return Listing(
        query=_query(filters, single, holds),
        pairs=[*pairs, *((name, single[name]) for name in _SINGLE if name in single)],
        limit=_limit(single["limit"]) if "limit" in single else None,
        after=_position(single["after"]) if "after" in single else None,
    )


async def stream_all(
    store: Store, query: JobQuery, jobs: Sequence[Job], *, withheld: bool = False
) -> AsyncIterator[bytes]:
    """All matching jobs as one JSON array, in pieces; ``jobs`` are its first page.

    The store may gain and drop jobs meanwhile. A matching job that is in the
    store from the first piece to the last is in the array exactly once.

    Checkpoints:
        After each `STRIDE` of examined jobs.
    """
    opening = b"["
    while True:
        found = jobs_json(query.select(jobs), withheld=withheld)[1:-1]
        if found:
            yield opening + found
            opening = b","
        if len(jobs) < STRIDE:
            break
        await trio.lowlevel.checkpoint()
        jobs = await store.page(query, after=query.position(jobs[-1]), limit=STRIDE)
    yield b"[]" if opening == b"[" else b"]"


async def _find_position(store: Store, listing: Listing) -> str | None:
    """The position behind which a listing begins.

    Raises:
        Problem: 404, ``after`` is an id alone, and there is no such job in an order of times.
    """
    after, query = listing.after, listing.query
    if after is None:
        return None
    time_position = _TIME_POSITION.fullmatch(after)
    if query.order in (Order.OLDEST, Order.NEWEST):
        return after if time_position is None else time_position[1]
    if time_position is not None:
        return after
    of_its_order = JobQuery(order=query.order)
    for job in of_its_order.select(await store.find_many([after])):
        return query.position(job)
    which = "ended without success" if query.order is Order.ENDED else "waits for a time"
    raise Problem(404, f"no job {after!r} that {which}; take after from the Link")


def _query(
    filters: Mapping[str, set[str]], single: Mapping[str, str], holds: Callable[[str], bool]
) -> JobQuery:
    order = single.get("order", Order.OLDEST)
    if order not in tuple(Order):
        raise Problem(400, f"order must be one of {', '.join(Order)}, got {order[:100]!r}")
    rerun = single.get("rerun", "yes")
    if rerun not in ("yes", "no"):
        raise Problem(400, f"rerun must be yes or no, got {rerun[:100]!r}")
    outcomes = frozenset(Outcome(each) for each in filters.get("outcome", ()))
    if order == Order.ENDED and Outcome.SUCCEEDED in outcomes:
        raise Problem(400, "order=ended has only jobs that ended without success")
    return JobQuery(
        order=Order(order),
        statuses=frozenset(JobStatus(each) for each in filters.get("status", ())),
        outcomes=outcomes,
        types=frozenset(filters.get("type", ())),
        waiting=frozenset(Waiting(each) for each in filters.get("waiting", ())),
        since=_date("since", single["since"]) if "since" in single else None,
        until=_date("until", single["until"]) if "until" in single else None,
        rerun=rerun == "yes",
        holds=holds,
    )


def filter_value(name: str, value: str) -> str:
    """The value of a filter that can be repeated: ``status``, ``type`` or ``outcome``.

    Raises:
        Problem: 400, no job has this value.
    """
    known = _KNOWN[name]
    if known and value not in known:
        raise Problem(400, f"{name} must be one of {', '.join(known)}, got {value[:100]!r}")
    if not value:
        raise Problem(400, "type must not be empty")
    return value


def _limit(value: str) -> int:
    if value.isascii() and value.isdigit() and len(value) <= 4 and 1 <= int(value) <= MAX_LIMIT:
        return int(value)
    raise Problem(400, f"limit must be an integer from 1 to {MAX_LIMIT}, got {value[:100]!r}")


def _date(name: str, value: str) -> datetime:
    with suppress(msgspec.ValidationError):
        date = msgspec.convert(value, datetime)
        if date.tzinfo is not None:
            with suppress(OverflowError):  # at the ends of the calendar
                return date.astimezone(UTC)
    raise Problem(
        400, f"{name} must be an RFC 3339 time with a zone (+ is %2B), got {value[:100]!r}"
    )


def _position(value: str) -> str:
    head = value[:17] if _TIME_POSITION.fullmatch(value) else ""
    try:
        return head + str(uuid.UUID(value[len(head) :]))
    except ValueError:
        raise Problem(400, f"after must be the id of a job, got {value[:100]!r}") from None
