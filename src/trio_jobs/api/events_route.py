"""`GET /events`: what the pool does, as it happens."""

from dataclasses import replace
from functools import partial

from quart import Quart, Response, request

from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.current_access import current_access
from trio_jobs.api.event_stream import EventStream
from trio_jobs.api.feed import FeedError, Wanted
from trio_jobs.api.listing import filter_value
from trio_jobs.api.query_params import read_parameters, unknown_parameter
from trio_jobs.job import Outcome
from trio_jobs.problem_details import Problem

# Seconds. As long as this many streams are open, one more is refused for so long at least.
_RETRY_AFTER = 10


def add_events_route(app: Quart, context: ApiContext) -> None:
    """Add ``GET /events``."""
    feed, limit = context.feed, context.http.max_event_streams

    @app.get("/events")
    async def events() -> Response:
        if not limit:
            raise Problem(404, "this server has no /events: http.max_event_streams is 0")
        if feed is None:
            raise Problem(404, "this server has no /events: it does not count its jobs")
        access = current_access()
        wanted = parse_wanted(request.query_string)
        if context.withholds_from(access):
            wanted = replace(wanted, withheld=True)
        # No checkpoint from here until the stream counts itself.
        if feed.streams >= limit:
            seconds = _RETRY_AFTER
            raise Problem(
                503,
                f"{limit} streams of events are open already; try again in {seconds} s",
                headers={"Retry-After": str(seconds)},
                retry_after=seconds,
            )
        try:
            if wanted.state:
                feed.snapshot(feed.turn(), withheld=wanted.withheld)
        except FeedError:
            raise Problem(500, "internal error; the server's log has more") from None
        wait_lost = None
        if (changes := context.access_changes) and access.fingerprint:
            wait_lost = partial(changes.wait_lost, access)
        return EventStream(feed, wanted, request.headers.get("Last-Event-ID", ""), wait_lost)


def parse_wanted(text: bytes) -> Wanted:
    """What a query string asks for.

    Raises:
        Problem: 400, an unknown parameter, a repeated ``state``, or a bad value.
    """
    filters: dict[str, set[str]] = {"type": set(), "outcome": set()}
    state: str | None = None
    for name, value in read_parameters(text):
        if name in filters:
            filters[name].add(filter_value(name, value))
        elif name != "state":
            raise unknown_parameter(name, *filters, "state")
        elif state is not None:
            raise Problem(400, "query parameter 'state' is repeated")
        elif value not in ("0", "1"):
            raise Problem(400, f"state must be 0 or 1, got {value[:100]!r}")
        else:
            state = value
    return Wanted(
        state=state != "0",
        types=frozenset(filters["type"]),
        outcomes=frozenset(Outcome(each) for each in filters["outcome"]),
    )
