"""`POST /jobs/cancel`: cancels all jobs that filters select."""

import msgspec
from quart import Quart, Response

from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.current_access import logged_action
from trio_jobs.api.filters_json import decode_filters
from trio_jobs.api.request_body import read_body
from trio_jobs.api.serialization import MEDIA_TYPE
from trio_jobs.api.submission_json import refuse_key
from trio_jobs.pool.cancels import cancel_all, cancel_query
from trio_jobs.pool.job_query import JobQuery
from trio_jobs.problem_details import Problem


class _Filters(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    type: list[str] | msgspec.UnsetType = msgspec.UNSET
    status: list[str] | msgspec.UnsetType = msgspec.UNSET


_decode = msgspec.json.Decoder(_Filters).decode


def add_cancel_route(app: Quart, context: ApiContext) -> None:
    """Add ``POST /jobs/cancel``."""

    @app.post("/jobs/cancel")
    async def cancel_jobs() -> Response:
        refuse_key()
        body = await read_body(max_bytes=context.http.max_body_bytes)
        query = parse_filters(body)
        filters = {"types": sorted(query.types), "statuses": sorted(query.statuses)}
        with logged_action("cancel_jobs", **filters) as fields:
            fields["count"] = number = await cancel_all(context.pool, query)
        answer = msgspec.json.encode({"accepted": number})
        return Response(answer, 202, content_type=MEDIA_TYPE)


def parse_filters(body: bytes) -> JobQuery:
    """The query in ``{"type": […], "status": […]}``; one of the keys may be missing.

    Raises:
        Problem: 400, with the fault and its path.
    """
    types, statuses = decode_filters(body, _decode)
    try:
        return cancel_query(types, statuses)
    except ValueError as error:
        raise Problem(400, f"$.{error}") from None
