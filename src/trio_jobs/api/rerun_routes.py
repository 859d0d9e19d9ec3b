"""Re-runs of jobs that did not succeed: of one job."""

from uuid import UUID

from quart import Blueprint, Response

from trio_jobs.api.answers import Answer, accepted
from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.prefer_wait import find_after_wait
from trio_jobs.api.quart_adapter import root_path, to_response
from trio_jobs.api.request_body import read_body
from trio_jobs.api.serialization import job_json
from trio_jobs.api.submission_json import refuse_key
from trio_jobs.pool.refusals import ShuttingDownError
from trio_jobs.pool.reruns import rerun
from trio_jobs.problem_details import Problem


def add_rerun_routes(routes: Blueprint, context: ApiContext) -> None:
    """Add ``POST /jobs/{id}/rerun``."""
    pool = context.pool

    @routes.post("/jobs/<uuid:job_id>/rerun")
    async def rerun_job(job_id: UUID) -> Response:
        refuse_key()
        if pool.admission.closed:
            raise ShuttingDownError
        if (await read_body(max_bytes=context.http.max_body_bytes)).strip():
            raise Problem(400, "a re-run takes no body: it has the type and payload of its job")
        # With the store in memory, `find` makes no checkpoint: of two simultaneous requests for
        # one job, the second finds that it was re-run.
        old = await pool.store.find(str(job_id))
        new = rerun(pool, old)
        headers = {"Location": f"{root_path()}/jobs/{new.id}"}
        job, applied = await find_after_wait(new.id, context)
        if applied:
            return to_response(Answer(201, headers | applied, job_json(job)))
        return to_response(accepted(new, headers))
