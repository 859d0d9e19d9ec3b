"""One job: look it up, wait for it, cancel it, forget it."""

from uuid import UUID

from quart import Quart, Response

from trio_jobs.api.answers import Answer, shown, whole_json
from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.current_access import current_access, logged_action
from trio_jobs.api.prefer_wait import find_after_wait
from trio_jobs.api.quart_adapter import no_content, to_response
from trio_jobs.job import JobStatus, Outcome
from trio_jobs.pool.run_now import run_now
from trio_jobs.problem_details import Problem


def add_job_routes(app: Quart, context: ApiContext) -> None:
    """Add ``GET`` and ``DELETE /jobs/{id}``, and ``POST`` to ``cancel`` and ``run-now``."""
    store = context.pool.store

    @app.get("/jobs/<uuid:job_id>")
    async def get_job(job_id: UUID) -> Response:
        job, headers = await find_after_wait(str(job_id), context)
        return to_response(shown(job, context, current_access(), headers))

    @app.post("/jobs/<uuid:job_id>/cancel")
    async def cancel_job(job_id: UUID) -> Response:
        job = await store.find(str(job_id))
        headers: dict[str, str] = {}
        if job.status is not JobStatus.COMPLETED:
            with logged_action("cancel", job_id=job.id):
                job = await context.pool.cancel(job.id)
            job, headers = await find_after_wait(job.id, context)
        if job.status is not JobStatus.COMPLETED:
            return to_response(Answer(202, headers, whole_json(job, context, current_access())))
        outcome = None if job.ending is None else job.ending.outcome
        if outcome is not Outcome.CANCELLED:
            detail = f"job {job.id!r} has completed already: {outcome}"
            raise Problem(409, detail, outcome=outcome)
        return to_response(shown(job, context, current_access(), headers))

    @app.post("/jobs/<uuid:job_id>/run-now")
    async def run_job_now(job_id: UUID) -> Response:
        with logged_action("run_now", job_id=str(job_id)):
            job = await run_now(context.pool, str(job_id))
        return to_response(Answer(202, {}, whole_json(job, context, current_access())))

    @app.delete("/jobs/<uuid:job_id>")
    async def delete_job(job_id: UUID) -> Response:
        with logged_action("delete", job_id=str(job_id)):
            await store.delete(str(job_id))
        return no_content()
