"""Adds what watches the event loop and the log under the command."""

import trio

from trio_jobs.handlers.blocking_monitor import BlockingMonitor
from trio_jobs.handlers.executor import JobExecutor
from trio_jobs.handlers.job_lines import JobLines
from trio_jobs.handlers.nurseries import GeneratorEnds
from trio_jobs.logs.writer import LogWriter
from trio_jobs.settings import Config
from trio_jobs.takeovers import Takeovers, TakesBackBeforeWaiting


def add_instruments(
    executor: JobExecutor, config: Config, takeovers: Takeovers | None, logs: LogWriter
) -> BlockingMonitor | None:
    """Add the instruments to the event loop that runs this.

    Args:
        executor: Knows the running jobs.
        config: Whether handlers that block are named, and whether there are metrics.
        takeovers: Restores the server's signal handlers; None if the process has none.
        logs: The log, whose lines jobs may keep.

    Returns:
        What knows the longest step; None if neither the log nor the metrics need it.
    """
    monitor, slow_step = None, config.logging.slow_step
    if most := config.logging.keep_job_lines:
        logs.also = JobLines(executor.running, most).take
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
