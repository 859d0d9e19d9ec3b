"""`submission_span`: the span of the current request, in which it submits jobs."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from msgspec.structs import replace
from quart import request

from trio_jobs.api.api_context import ApiContext, SubmissionSpan
from trio_jobs.pool.job_spec import JobSpec

MaybeSpan = AbstractContextManager[SubmissionSpan | None]


def submission_span(context: ApiContext, specs: Sequence[JobSpec] = ()) -> MaybeSpan:
    """A block with a span, in which the current request submits jobs; without tracing, no span.

    Args:
        context: Has the tracing.
        specs: The jobs that are known already. The span names their type if it is one.
    """
    if context.tracing is None:
        return nullcontext()
    types = {spec.type for spec in specs}
    traceparent = request.headers.get("traceparent")
    return context.tracing.submitting(traceparent, types.pop() if len(types) == 1 else None)


def with_span(spec: JobSpec, span: SubmissionSpan | None) -> JobSpec:
    """The job with the span's trace, which stays in the job's record."""
    return spec if span is None or span.trace is None else replace(spec, trace=span.trace)
