"""`span_around`: lets a handler in a child process go on with the trace of its attempt."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext


def span_around(traceparent: str | None) -> AbstractContextManager[None]:
    """A block whose current span, for OpenTelemetry, is the server's span of the attempt.

    It has no effect in a child whose handlers do not import OpenTelemetry.

    Args:
        traceparent: The span; None without tracing.
    """
    if traceparent is None or "opentelemetry.trace" not in sys.modules:
        return nullcontext()
    return _attached(traceparent)


@contextmanager
def _attached(traceparent: str) -> Iterator[None]:
    from opentelemetry.context import Context, attach, detach
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {"traceparent": traceparent}
    token = attach(TraceContextTextMapPropagator().extract(carrier, Context()))
    try:
        yield
    finally:
        detach(token)
