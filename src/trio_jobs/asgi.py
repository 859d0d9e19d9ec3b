"""`make_app`: the configured handlers behind any ASGI server that runs Trio.

    hypercorn -k trio 'trio_jobs.asgi:make_app()'

The pool runs from the lifespan's startup to its shutdown. `docs/how-to/embedding.md` lists the
parts of the command that such a server lacks.
"""

import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import trio

from trio_jobs.bootstrap import log_hidden, log_wrong_loop
from trio_jobs.config import load_config
from trio_jobs.configured_jobs import open_configured_jobs
from trio_jobs.embedded_jobs import DurableJobs, Jobs
from trio_jobs.error_groups import without_groups
from trio_jobs.handler_loading import load_handlers
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.logs.formatter import LogFormatter
from trio_jobs.pool.store import StoreUnusableError
from trio_jobs.preparation import prepare_store, read_secrets
from trio_jobs.settings import Config
from trio_jobs.tokens import TokenTable

log = logging.getLogger(__name__)


def make_app() -> "ConfiguredApp":
    """Read the configuration, import the handlers, and make the application.

    The configuration is the file that ``TRIO_JOBS_CONFIG`` names, by default
    ``config.toml`` in the current folder if it is there. The other
    ``TRIO_JOBS_*`` variables override it. The log goes to standard error
    unless logging is set up already.

    Raises:
        ConfigError: There is a mistake in the configuration.
    """
    environment = dict(os.environ)
    file = environment.pop("TRIO_JOBS_CONFIG", None)
    config = load_config(
        None if file is None else Path(file), environment=environment, overrides={}
    )
    _, tokens = read_secrets(config)
    prepare_store(config)
    _set_up_logging(config)
    for warning in config.warnings:
        log.warning("unknown_setting", extra={"reason": warning})
    handlers = load_handlers(
        config, warn_hidden=log_hidden, warn_loop=log_wrong_loop, after_import=lambda _: None
    )
    if config.handlers is None:
        log.warning("no_handlers_configured", extra={"used": handlers.find("default").name})
    return ConfiguredApp(config, handlers, tokens)


class ConfiguredApp:
    """The HTTP API over a pool that runs from the lifespan's startup to its shutdown.

    If the pool fails, requests raise an error from then on, and the lifespan fails: that ends
    Hypercorn.

    Args:
        config: The settings.
        handlers: The users' functions.
        tokens: Each request must carry one of these; None for requests without a token.
    """

    def __init__(
        self, config: Config, handlers: HandlerRegistry, tokens: TokenTable | None = None
    ) -> None:
        self._config = config
        self._handlers = handlers
        self._tokens = tokens
        self._app: Callable[[Any, Any, Any], Awaitable[None]] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        """Run the pool for the lifespan, or answer one request.

        Raises:
            RuntimeError: A request comes before the lifespan's startup, or after the pool has
                failed.
        """
        if scope["type"] == "lifespan":
            await self._run_pool(receive, send)
        elif self._app is None:
            raise RuntimeError(
                "the pool is not running: it has failed, or the server does not support"
                " ASGI's lifespan"
            )
        else:
            await self._app(scope, receive, send)

    async def _run_pool(
        self, receive: Callable[[], Awaitable[object]], send: Callable[[object], Awaitable[None]]
    ) -> None:
        phase, failure = "startup", ""
        await receive()  # lifespan.startup
        try:
            with trio.CancelScope() as scope:
                async with self._open_jobs() as jobs:
                    self._app = self._make_api(jobs)
                    await send({"type": "lifespan.startup.complete"})
                    phase = "shutdown"
                    try:
                        await receive()  # lifespan.shutdown
                    except BaseException:
                        # The pool has failed. Its end may take long: health fails meanwhile.
                        self._app = None
                        raise
                    scope.deadline = trio.current_time() + self._config.pool.grace_period
        except StoreUnusableError as error:
            failure = str(error)
            log.critical("store_unusable", extra={"reason": failure})
        except Exception as error:
            failure = "the pool has failed"
            log.critical("pool_failed", exc_info=without_groups(error))
        # After the `except`: Hypercorn may raise in `send`, and its traceback would show ours too.
        if failure:
            self._app = None
            # An exception would not do: Hypercorn would log it and go on without a pool.
            await send({"type": f"lifespan.{phase}.failed", "message": failure})
        else:
            await send({"type": "lifespan.shutdown.complete"})

    def _open_jobs(self) -> AbstractAsyncContextManager[Jobs | DurableJobs]:
        config = self._config
        max_types = config.metrics.max_types if config.http.ui else None
        return open_configured_jobs(prepare_store(config), self._handlers, max_types=max_types)

    def _make_api(self, jobs: Jobs | DurableJobs) -> Callable[[Any, Any, Any], Awaitable[None]]:
        http = self._config.http
        return jobs.asgi(
            token=self._tokens,
            payloads=http.payloads,
            allowed_hosts=http.allowed_hosts,
            max_wait_seconds=http.max_wait_seconds,
            stream_idle_timeout=http.stream_idle_timeout,
            max_event_streams=http.max_event_streams,
            max_pipes=http.max_pipes,
            shutdown_retry_after=self._config.pool.retry_after,
        )


def _set_up_logging(config: Config) -> None:
    logger = logging.getLogger("trio_jobs")
    logger.setLevel(config.logging.level.upper())
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(LogFormatter(config.logging.format))
        logger.addHandler(handler)
