"""`GET /jobs`: lists jobs, by filters, in pages or all in one stream, in bounded memory."""

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

import trio
from quart import Blueprint, Response, request

from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.quart_adapter import current_path
from trio_jobs.api.query_params import read_parameters, unknown_parameter
from trio_jobs.api.serialization import MEDIA_TYPE, STRIDE, jobs_json
from trio_jobs.job import Job, JobStatus, Outcome
from trio_jobs.pool.store import Store
from trio_jobs.problem_details import Problem

MAX_LIMIT = 1000


_VALUES: dict[str, Callable[[Job], str | None]] = {
    "status": lambda job: job.status,
    "type": lambda job: job.type,
    "outcome": lambda job: None if job.ending is None else job.ending.outcome,
}
_KNOWN = {"status": tuple(JobStatus), "outcome": tuple(Outcome)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A listing's query.

    Attributes:
        filters: The wanted values, by parameter.
        limit: The most jobs of one page; None for all jobs in one answer.
        after: The listing begins after the job with this id.
    """

    filters: Mapping[str, set[str]]
    limit: int | None = None
    after: str | None = None

    async def read(self, store: Store, *, after: str | None, limit: int) -> list[Job]:
        """Up to ``limit`` jobs behind ``after``; of jobs that do not pass the filters, only some.

        Checkpoints:
            None, with the store in memory.
        """
        return await store.page(
            after=after,
            limit=limit,
            statuses=[JobStatus(each) for each in self.filters.get("status", ())],
            outcomes=[Outcome(each) for each in self.filters.get("outcome", ())],
            types=self.filters.get("type", ()),
        )

    def select(self, jobs: list[Job]) -> list[Job]:
        """The jobs that pass all filters."""
        for name, wanted in self.filters.items():
            value_of = _VALUES[name]
            jobs = [job for job in jobs if value_of(job) in wanted]
        return jobs

    def next_page(self, after: str) -> str:
        """The query string of the page that begins after the job with the id ``after``."""
        pairs = [(name, value) for name in _VALUES for value in sorted(self.filters.get(name, ()))]
        return urlencode([*pairs, ("limit", str(self.limit)), ("after", after)])


def add_listing_route(routes: Blueprint, context: ApiContext) -> None:
    """Add ``GET /jobs``."""
    store = context.pool.store

    @routes.get("/jobs")
    async def list_jobs() -> Response:
        query = parse_query(request.query_string)
        if query.limit is None:
            return Response(stream_all(store, query), content_type=MEDIA_TYPE)
        jobs, more = await read_page(store, query)
        response = Response(jobs_json(jobs), content_type=MEDIA_TYPE)
        if more:
            response.headers["Link"] = (
                f'<{current_path()}?{query.next_page(jobs[-1].id)}>; rel="next"'
            )
        return response


def parse_query(text: bytes) -> Query:
    """The listing that a query string asks for.

    Raises:
        Problem: 400, an unknown parameter, a repeated ``limit`` or ``after``,
            or a bad value.
    """
    filters: dict[str, set[str]] = {}
    single: dict[str, str] = {}
    for name, value in read_parameters(text):
        if name in _VALUES:
            filters.setdefault(name, set()).add(_filter_value(name, value))
        elif name not in ("limit", "after"):
            raise unknown_parameter(name, *_VALUES, "limit", "after")
        elif name in single:
            raise Problem(400, f"query parameter {name!r} is repeated")
        else:
            single[name] = value
    return Query(
        filters=filters,
        limit=_limit(single["limit"]) if "limit" in single else None,
        after=_job_id(single["after"]) if "after" in single else None,
    )


async def read_page(store: Store, query: Query) -> tuple[list[Job], bool]:
    """The jobs of one page, and whether more jobs come after the page.

    Checkpoints:
        With filters, after each `STRIDE` of examined jobs; else none.
    """
    limit = query.limit or MAX_LIMIT
    found: list[Job] = []
    after = query.after
    # Without filters one read is enough; the job beyond the limit shows that there are more.
    stride = STRIDE if query.filters else limit + 1
    while True:
        jobs = await query.read(store, after=after, limit=stride)
        found += query.select(jobs)
        if len(found) > limit or len(jobs) < stride:
            return found[:limit], len(found) > limit
        after = jobs[-1].id
        await trio.lowlevel.checkpoint()


async def stream_all(store: Store, query: Query) -> AsyncIterator[bytes]:
    """All matching jobs as one JSON array, in pieces.

    The store may gain and drop jobs meanwhile. A matching job that is in the
    store from the first piece to the last is in the array exactly once.

    Checkpoints:
        After each `STRIDE` of examined jobs.
    """
    after = query.after
    opening = b"["
    while True:
        jobs = await query.read(store, after=after, limit=STRIDE)
        found = jobs_json(query.select(jobs))[1:-1]
        if found:
            yield opening + found
            opening = b","
        if len(jobs) < STRIDE:
            break
        after = jobs[-1].id
        await trio.lowlevel.checkpoint()
    yield b"[]" if opening == b"[" else b"]"


def _filter_value(name: str, value: str) -> str:
    known = _KNOWN.get(name)
    if known is not None and value not in known:
        raise Problem(400, f"{name} must be one of {', '.join(known)}, got {value[:100]!r}")
    if not value:
        raise Problem(400, "type must not be empty")
    return value


def _limit(value: str) -> int:
    if value.isascii() and value.isdigit() and len(value) <= 4 and 1 <= int(value) <= MAX_LIMIT:
        return int(value)
    raise Problem(400, f"limit must be an integer from 1 to {MAX_LIMIT}, got {value[:100]!r}")


def _job_id(value: str) -> str:
    try:
        return str(uuid.UUID(value))
    except ValueError:
        raise Problem(400, f"after must be the id of a job, got {value[:100]!r}") from None
