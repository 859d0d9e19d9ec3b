"""Small helpers of the handlers' tests: one job through a processor; waiting, with real time."""

import threading
from collections.abc import Callable, Mapping

import trio

from tests.support import make_job
from trio_jobs.handlers import Handler, Handlers, Processes, Processor
from trio_jobs.job import Ending


def make_processor(
    table: Mapping[str, Handler],
    *,
    workers: int = 2,
    max_result_bytes: int = 1_000_000,
    processes: Processes | None = None,
) -> Processor:
    """A processor over these handlers."""
    return Processor(
        Handlers(table), workers=workers, max_result_bytes=max_result_bytes, processes=processes
    )


async def process(
    function: Callable[..., object] | Handler,
    payload: bytes = b"null",
    *,
    max_result_bytes: int = 1_000_000,
    processes: Processes | None = None,
) -> Ending:
    """Process one job with one handler."""
    handler = function if isinstance(function, Handler) else Handler.of(function)
    processor = make_processor(
        {"test": handler}, max_result_bytes=max_result_bytes, processes=processes
    )
    return await processor(make_job("a", payload=payload))


async def wait_until_set(event: threading.Event) -> None:
    """Wait until a thread has set an event."""
    # With a limiter of its own: the handlers' threads may have taken all others.
    await trio.to_thread.run_sync(
        event.wait, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True
    )
