"""Re-runs of jobs that did not succeed: of one job, or of all that filters select."""

from uuid import UUID

import msgspec
from quart import Quart, Response

from trio_jobs.api.answers import Answer, accepted, whole_json
from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.current_access import current_access, logged_action
from trio_jobs.api.filters_json import decode_filters
from trio_jobs.api.prefer_wait import find_after_wait
from trio_jobs.api.quart_adapter import root_path, to_response
from trio_jobs.api.request_body import read_body
from trio_jobs.api.serialization import MEDIA_TYPE
from trio_jobs.api.submission_json import refuse_key
from trio_jobs.pool.refusals import ShuttingDownError
from trio_jobs.pool.reruns import Selection, rerun, rerun_all
from trio_jobs.problem_details import Problem


class _Filters(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    outcome: list[str] | msgspec.UnsetType = msgspec.UNSET
    type: list[str] | msgspec.UnsetType = msgspec.UNSET
    limit: int | float | msgspec.UnsetType = msgspec.UNSET  # to JSON Schema, 2.0 is an integer


_decode = msgspec.json.Decoder(_Filters).decode


def add_rerun_routes(app: Quart, context: ApiContext) -> None:
    """Add ``POST /jobs/{id}/rerun`` and ``POST /jobs/rerun``."""
    pool = context.pool

    @app.post("/jobs/<uuid:job_id>/rerun")
    async def rerun_job(job_id: UUID) -> Response:
        refuse_key()
        if pool.admission.closed:
            raise ShuttingDownError
        if (await read_body(max_bytes=context.http.max_body_bytes)).strip():
            raise Problem(400, "a re-run takes no body: it has the type and payload of its job")
        # With the store in memory, `find` makes no checkpoint: of two simultaneous requests for
        # one job, the second finds that it was re-run.
        old = await pool.store.find(str(job_id))
        with logged_action("rerun", job_id=old.id) as fields:
            new = await rerun(pool, old, submitted_by=current_access().name)
            fields["rerun_as"] = new.id
        headers = {"Location": f"{root_path()}/jobs/{new.id}"}
        job, applied = await find_after_wait(new.id, context)
        access = current_access()
        if applied:
            return to_response(Answer(201, headers | applied, whole_json(job, context, access)))
        return to_response(accepted(new, headers))

    @app.post("/jobs/rerun")
    async def rerun_jobs() -> Response:
        refuse_key()
        if pool.admission.closed:
            raise ShuttingDownError
        body = await read_body(max_bytes=context.http.max_body_bytes)
        selection = parse_selection(body)
        filters = {
            "types": sorted(selection.query.types),
            "outcomes": sorted(selection.query.outcomes),
            "limit": selection.limit,
        }
        with logged_action("rerun_jobs", **filters) as fields:
            jobs = await rerun_all(pool, selection, submitted_by=current_access().name)
            fields["count"] = len(jobs)
        answer = msgspec.json.encode({"accepted": len(jobs)})
        return Response(answer, 201, content_type=MEDIA_TYPE)


def parse_selection(body: bytes) -> Selection:
    """The selection in ``{"outcome": […], "type": […], "limit": …}``; each key may be missing.

    Raises:
        Problem: 400, with the fault and its path.
    """
    outcomes, types, limit = decode_filters(body, _decode)
    if isinstance(limit, float) and limit.is_integer():
        limit = int(limit)
    try:
        return Selection.of(outcomes, types, limit)
    except ValueError as error:
        raise Problem(400, f"$.{error}") from None
