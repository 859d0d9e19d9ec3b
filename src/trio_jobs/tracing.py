"""`Tracing`: OpenTelemetry's spans of submissions and of attempts; needs the extra ``otel``."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from trio_jobs.job import Ending, Job, JobError, Later, Outcome, with_trace
from trio_jobs.pool.worker import Process, ProcessBlock

log = logging.getLogger(__name__)

_TRACEPARENT = "traceparent"

# Seconds between two warnings that the program's tracer has raised.
_BETWEEN_WARNINGS = 60.0

# Names of OpenTelemetry's conventions for messaging, and our own.
_SYSTEM, _TYPE = "messaging.system", "messaging.destination.name"
_OPERATION, _KIND = "messaging.operation.name", "messaging.operation.type"
_ID, _COUNT, _ERROR = "messaging.message.id", "messaging.batch.message_count", "error.type"
_ATTEMPT, _OUTCOME = "trio_jobs.attempt", "trio_jobs.outcome"

Attributes = Mapping[str, str | int]


class SubmissionSpan:
    """The span of one request that submits jobs.

    Attributes:
        trace: What each of its jobs keeps: a ``traceparent``; None if there is no trace.
    """

    def __init__(self, trace: str | None) -> None:
        self.trace = trace
        self.attributes: dict[str, str | int] = {}

    def note_job(self, job_id: str) -> None:
        """Name the one job of the request."""
        self.attributes[_ID] = job_id

    def note_count(self, count: int) -> None:
        """Tell how many jobs were accepted."""
        self.attributes[_COUNT] = count


class Tracing:
    """Makes spans. The program's tracer provider, which a module of handlers sets, records them.

    An error that the provider raises is logged, and harms no job.

    Args:
        parent: What the submission is for the first attempt: with ``link`` the attempt begins a
            trace of its own with a link, with ``child`` it goes on with the submission's trace.
            Later attempts, perhaps hours later, always begin one with a link.
        provider: Makes the spans; None for the program's, which it may set later.
    """

    def __init__(
        self, parent: Literal["link", "child"], provider: TracerProvider | None = None
    ) -> None:
        self._first_is_child = parent == "child"
        self._tracer = trace.get_tracer("trio_jobs", tracer_provider=provider)
        self._propagator = TraceContextTextMapPropagator()
        self._warned_at = float("-inf")

    @contextmanager
    def submitting(self, traceparent: str | None, job_type: str | None) -> Iterator[SubmissionSpan]:
        """A span ``submit TYPE`` around the submission of the block.

        Args:
            traceparent: The header of the request; None or a wrong one: a new trace begins.
            job_type: None if there may be several types: the span is called ``submit``.
        """
        attributes = _attributes("submit", "send", job_type)
        parent = self._extract(traceparent)
        span = self._start(attributes, SpanKind.PRODUCER, parent)
        submission = SubmissionSpan(self._traceparent(span))
        try:
            yield submission
        except BaseException as error:
            self._end(span, submission.attributes, error=type(error).__qualname__)
            raise
        self._end(span, submission.attributes)

    def around(self, for_worker: ProcessBlock) -> ProcessBlock:
        """The same block, whose function makes a span ``run TYPE`` around each job."""

        @contextmanager
        def traced_block() -> Iterator[Process]:
            with for_worker() as process:

                async def traced(job: Job) -> Ending | Later:
                    return await self._run(job, process)

                yield traced

        return traced_block

    async def _run(self, job: Job, process: Process) -> Ending | Later:
        submitted = self._extract(job.trace)
        parent, links = Context(), []
        if (context := trace.get_current_span(submitted).get_span_context()).is_valid:
            if self._first_is_child and job.attempts == 1 and not job.snoozes:
                parent = submitted
            else:
                links = [Link(context)]
        attributes = _attributes("run", "process", job.type)
        attributes |= {_ID: job.id, _ATTEMPT: job.attempts}
        span = self._start(attributes, SpanKind.CONSUMER, parent, links)
        # The handler runs in these context variables, in a thread and on asyncio too.
        token = contexts.attach(trace.set_span_in_context(span, parent))
        try:
            # With the trace of this attempt: a handler in a process goes on with it.
            end = await process(with_trace(job, self._traceparent(span)))
        except BaseException:
            self._end(span, {_OUTCOME: "released"})
            raise
        finally:
            contexts.detach(token)
        outcome, error = _outcome_of(end)
        self._end(span, {_OUTCOME: outcome}, error=None if error is None else error.type)
        return end

    def _traceparent(self, span: Span) -> str | None:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, trace.set_span_in_context(span, Context()))
        return carrier.get(_TRACEPARENT)

    def _extract(self, traceparent: str | None) -> Context:
        if traceparent is None:
            return Context()
        return self._propagator.extract({_TRACEPARENT: traceparent}, Context())

    def _start(
        self,
        attributes: Attributes,
        kind: SpanKind,
        parent: Context,
        links: Sequence[Link] = (),
    ) -> Span:
        name = f"{attributes[_OPERATION]} {attributes.get(_TYPE, '')}".rstrip()
        try:
            return self._tracer.start_span(
                name, context=parent, kind=kind, attributes=attributes, links=links
            )
        except Exception as failure:  # noqa: BLE001 - the provider's
            self._warn(failure)
            return INVALID_SPAN

    def _end(self, span: Span, attributes: Attributes, *, error: str | None = None) -> None:
        try:
            span.set_attributes(attributes)
            if error is not None:
                # Not its message, which may have parts of a payload: spans leave the machine.
                span.set_attribute(_ERROR, error)
                span.set_status(StatusCode.ERROR)
            span.end()
        except Exception as failure:  # noqa: BLE001 - the provider's
            self._warn(failure)

    def _warn(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._warned_at >= _BETWEEN_WARNINGS:
            self._warned_at = now
            log.warning("tracing_failed", exc_info=error)


def _attributes(operation: str, kind: str, job_type: str | None) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {_SYSTEM: "trio_jobs", _OPERATION: operation, _KIND: kind}
    return attributes if job_type is None else attributes | {_TYPE: job_type}


def _outcome_of(end: Ending | Later) -> tuple[str, JobError | None]:
    """How an attempt ended, in a word, and its error."""
    if isinstance(end, Ending):
        return end.outcome.value, None if end.outcome is Outcome.CANCELLED else end.error
    return "snoozed" if end.snooze else "retrying", end.error
