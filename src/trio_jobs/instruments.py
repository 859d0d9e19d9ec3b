"""Adds what watches the event loop under the command: it is called between the tasks' steps."""

import trio

from trio_jobs.handlers.blocking_monitor import BlockingMonitor
from trio_jobs.handlers.executor import JobExecutor
from trio_jobs.handlers.nurseries import GeneratorEnds
from trio_jobs.settings import Config
from trio_jobs.takeovers import Takeovers, TakesBackBeforeWaiting


def add_instruments(
    executor: JobExecutor, config: Config, takeovers: Takeovers | None
) -> BlockingMonitor | None:
    """Add the instruments to the event loop that runs this.

    Args:
        executor: Knows the types of the running jobs.
        config: Whether handlers that block are named, and whether there are metrics.
        takeovers: Restores the server's signal handlers; None if the process has none.

    Returns:
        What knows the longest step; None if neither the log nor the metrics need it.
    """
    monitor, slow_step = None, config.logging.slow_step
    trio.lowlevel.add_instrument(GeneratorEnds())
    if slow_step or config.metrics.enabled:
        monitor = BlockingMonitor(executor, config.logging)
        trio.lowlevel.add_instrument(monitor)
    if slow_step and executor.places is not None and executor.places.asyncio is not None:
        executor.places.asyncio.watch(slow_step)
    if takeovers is not None:
        look = TakesBackBeforeWaiting(takeovers, executor.recent_types, executor.forget_types)
        trio.lowlevel.add_instrument(look)
    return monitor
