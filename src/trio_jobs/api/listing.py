"""`GET /jobs`: filtered, in pages, or all jobs in bounded memory."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import trio
from quart import Blueprint, Response, request

from trio_jobs.api.context import ApiContext
from trio_jobs.api.quart_adapter import current_path
from trio_jobs.api.query_params import read_parameters, unknown_parameter
from trio_jobs.api.serialization import MEDIA_TYPE, STRIDE, jobs_json
from trio_jobs.job import Job, JobStatus, Outcome
from trio_jobs.pool.store import Store
from trio_jobs.problem_details import Problem

MAX_LIMIT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A listing's query; an empty filter passes every job."""

    statuses: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    outcomes: frozenset[str] = frozenset()
    limit: int | None = None
    after: str | None = None

    @property
    def filtered(self) -> bool:
        """Whether there is any filter."""
        return bool(self.statuses or self.types or self.outcomes)

    def matches(self, job: Job) -> bool:
        """Whether the job passes all filters."""
        return (
            (not self.statuses or job.status in self.statuses)
            and (not self.types or job.type in self.types)
            and (
                not self.outcomes
                or (job.ending is not None and job.ending.outcome in self.outcomes)
            )
        )

    def next_page(self, after: str) -> str:
        """The query string of the page after this job."""
        pairs = [
            *(("status", each) for each in sorted(self.statuses)),
            *(("type", each) for each in sorted(self.types)),
            *(("outcome", each) for each in sorted(self.outcomes)),
            ("limit", str(self.limit)),
            ("after", after),
        ]
        return urlencode(pairs)


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
    filters: dict[str, set[str]] = {"status": set(), "type": set(), "outcome": set()}
    single: dict[str, str] = {}
    for name, value in read_parameters(text):
        if name in filters:
            filters[name].add(_FILTER_VALUES[name](value))
        elif name not in ("limit", "after"):
            raise unknown_parameter(name, "status", "type", "outcome", "limit", "after")
        elif name in single:
            raise Problem(400, f"query parameter {name!r} is repeated")
        else:
            single[name] = value
    return Query(
        statuses=frozenset(filters["status"]),
        types=frozenset(filters["type"]),
        outcomes=frozenset(filters["outcome"]),
        limit=_limit(single["limit"]) if "limit" in single else None,
        after=_job_id(single["after"]) if "after" in single else None,
    )


async def read_page(store: Store, query: Query) -> tuple[list[Job], bool]:
    """The jobs of one page, and whether there are more after it.

    Checkpoints:
        After each stride of examined jobs.
    """
    limit = query.limit or MAX_LIMIT
    found: list[Job] = []
    after = query.after
    # Without a filter each examined job is found.
    stride = STRIDE if query.filtered else limit + 1
    while True:
        jobs = await store.page(after=after, limit=stride)
        found += filter(query.matches, jobs)
        if len(found) > limit or len(jobs) < stride:
            return found[:limit], len(found) > limit
        after = jobs[-1].id
        await trio.lowlevel.checkpoint()


async def stream_all(store: Store, query: Query) -> AsyncIterator[bytes]:
    """All matching jobs as one JSON array, in pieces.

    Other jobs come and go meanwhile: a job that is in the store from the first
    piece to the last is in the array exactly once.

    Checkpoints:
        After each piece.
    """
    after = query.after
    opening = b"["
    while True:
        jobs = await store.page(after=after, limit=STRIDE)
        found = jobs_json(filter(query.matches, jobs))[1:-1]
        if found:
            yield opening + found
            opening = b","
        if len(jobs) < STRIDE:
            break
        after = jobs[-1].id
        await trio.lowlevel.checkpoint()
    yield b"[]" if opening == b"[" else b"]"


def _one_of(name: str, values: Iterable[str]) -> Callable[[str], str]:
    known = tuple(values)

    def check(value: str) -> str:
        if value not in known:
            raise Problem(400, f"{name} must be one of {', '.join(known)}, got {value[:100]!r}")
        return value

    return check


def _non_empty(value: str) -> str:
    if not value:
        raise Problem(400, "type must not be empty")
    return value


_FILTER_VALUES: dict[str, Callable[[str], Any]] = {
    "status": _one_of("status", JobStatus),
    "type": _non_empty,
    "outcome": _one_of("outcome", Outcome),
}


def _limit(value: str) -> int:
    if value.isascii() and value.isdigit() and len(value) <= 4 and 1 <= int(value) <= MAX_LIMIT:
        return int(value)
    raise Problem(400, f"limit must be an integer from 1 to {MAX_LIMIT}, got {value[:100]!r}")


def _job_id(value: str) -> str:
    try:
        return str(uuid.UUID(value))
    except ValueError:
        raise Problem(400, f"after must be the id of a job, got {value[:100]!r}") from None
