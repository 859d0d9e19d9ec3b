"""`submission_span`: the span of the current request, in which it submits jobs."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from msgspec.structs import replace
from quart import request

from trio_jobs.api.api_context import ApiContext, SubmissionSpan
from trio_jobs.pool.job_spec import JobSpec

NoSpan = AbstractContextManager[SubmissionSpan | None]


def submission_span(context: ApiContext, specs: Sequence[JobSpec] = ()) -> NoSpan:
    """A block with a span, in which the current request submits jobs; without tracing, no span.

    Args:
        context: Of the API.
        specs: The jobs, as far as they are known.
    """
    if context.tracing is None:
        return nullcontext()
    types = {spec.type for spec in specs}
    traceparent = request.headers.get("traceparent")
    return context.tracing.submitting(traceparent, types.pop() if len(types) == 1 else None)


def with_span(spec: JobSpec, span: SubmissionSpan | None) -> JobSpec:
    """The job with the trace that it keeps."""
    return spec if span is None or span.trace is None else replace(spec, trace=span.trace)
