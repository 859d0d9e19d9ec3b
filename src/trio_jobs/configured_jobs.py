"""`open_configured_jobs`: a pool in this process as the configuration describes it."""

from contextlib import AbstractAsyncContextManager

from trio_jobs.embed import open_jobs
from trio_jobs.embedded_jobs import DurableJobs, Jobs
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.settings import Config


def open_configured_jobs(
    config: Config, handlers: HandlerRegistry, *, max_types: int | None = None
) -> AbstractAsyncContextManager[Jobs | DurableJobs]:
    """`open_jobs` with the settings of a configuration.

    Args:
        config: The settings, with the file or database as `prepare_store` has found it.
        handlers: The users' functions.
        max_types: Of how many job types the jobs are counted apart; None counts nothing.
    """
    pool, http, store = config.pool, config.http, config.store
    return open_jobs(
        handlers.table,
        workers=pool.workers,
        buffer_size=pool.buffer_size,
        max_waiting=pool.max_waiting,
        processes=pool.processes,
        async_handlers=pool.async_handlers,
        asyncio_loop=pool.asyncio_loop,
        lifespan={each.key: each for each in handlers.lifespans},
        max_payload_bytes=http.max_body_bytes,
        max_waiters=http.max_waiters,
        max_types=max_types,
        path=store.path,
        url=store.url,
        drain=pool.drain,
        listen_url=store.listen_url,
        lease=store.lease,
        max_open=store.max_open,
        sync=store.sync,
        timeout=store.timeout,
        keep_for=store.keep_for,
        keep_completed=store.keep_completed,
        keep_failed=store.keep_failed,
        keep_completed_bytes=store.keep_completed_bytes,
        max_result_bytes=store.max_result_bytes,
    )
