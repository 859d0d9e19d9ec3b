"""Adds what watches the event loop under the command: it is called between the tasks' steps."""

import trio

from trio_jobs.handlers.blocking_monitor import BlockingMonitor
from trio_jobs.handlers.executor import JobExecutor
from trio_jobs.handlers.nurseries import GeneratorEnds
from trio_jobs.settings import LoggingSettings
from trio_jobs.takeovers import Takeovers, TakesBackBeforeWaiting


def add_instruments(
    executor: JobExecutor, settings: LoggingSettings, takeovers: Takeovers | None
) -> None:
    """Add the instruments to the event loop that runs this.

    Args:
        executor: Knows the types of the running jobs.
        settings: The log's settings.
        takeovers: Restores the server's signal handlers; None if the process has none.
    """
    trio.lowlevel.add_instrument(GeneratorEnds())
    if settings.slow_step:
        trio.lowlevel.add_instrument(BlockingMonitor(executor, settings))
        if executor.places is not None and executor.places.asyncio is not None:
            executor.places.asyncio.watch(settings.slow_step)
    if takeovers is not None:
        look = TakesBackBeforeWaiting(takeovers, executor.recent_types, executor.forget_types)
        trio.lowlevel.add_instrument(look)
