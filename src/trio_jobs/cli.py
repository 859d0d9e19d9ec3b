"""The command `trio-jobs`: arguments, logging, the order of starting, the exit status."""

import argparse
import contextlib
import logging
import os
import ssl
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import trio

from trio_jobs.config import Config, ConfigError, HandlerConfig, describe, load_config
from trio_jobs.handlers import (
    Handler,
    HandlerError,
    Handlers,
    describe_payloads,
    load_function,
)
from trio_jobs.logs import start_logging
from trio_jobs.main import main
from trio_jobs.server import (
    AddressError,
    BindError,
    bind_sockets,
    load_certificate,
    parse_address,
    read_token,
)
from trio_jobs.stop import Stop

log = logging.getLogger(__name__)

OK = 0
BROKEN = 1
MISTAKEN = 2  # in the configuration or on the command line, as argparse has it

# What runs without a [handlers] table.
_DEMONSTRATION = {"default": HandlerConfig(call="trio_jobs.demo:simulate_work")}

# Characters: some lines on a terminal.
_LONGEST_COMPLAINT = 2_000

# Seconds for the last lines to reach a log that nobody may be reading.
_FLUSH_SECONDS = 0.5


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Those after the command's name; by default the process's own.

    Returns:
        The exit status: 0 stopped, nothing left; 1 something left or broken; 2 a mistake in the
        configuration or on the command line. The hard limit ends the process with 70.
    """
    options = _parser().parse_args(arguments)
    try:
        config = load_config(
            options.config,
            environment=os.environ,
            overrides={
                "pool.workers": options.workers,
                "pool.buffer_size": options.buffer_size,
                "http.bind": options.bind,
                "logging.level": options.log_level,
                "logging.format": options.log_format,
            },
        )
        if options.check:
            for address in config.http.bind:
                parse_address(address)
            _read_secrets(config)
            handlers = _load_handlers(config)
            sys.stdout.write(describe(config) + describe_payloads(handlers))
            return OK
        return _serve(config)
    except ConfigError as error:
        _complain(str(error))
        return MISTAKEN
    except AddressError as error:
        _complain(f"http.bind: {error}")
        return MISTAKEN
    except BindError as error:
        _complain(str(error))
        return BROKEN


def _complain(text: str) -> None:
    # One bounded line, whatever a module of the user's raised when it was imported.
    line = "".join(char if char.isprintable() else " " for char in text[:_LONGEST_COMPLAINT])
    # A status of its own must not depend on somebody to tell: standard error may be closed (then
    # it is None), or a full disk.
    with contextlib.suppress(AttributeError, OSError):
        sys.stderr.write(f"trio-jobs: {line}\n")


def _serve(config: Config) -> int:
    logs = start_logging(config.logging.level.upper(), config.logging.format)
    # The signals first: one that comes while sockets are bound and handlers imported ends the
    # server in order as well.
    stop = Stop(
        grace_period=config.pool.grace_period,
        graceful_timeout=config.http.graceful_timeout,
        render=partial(logs.render, "trio_jobs.stop"),
    )
    stop.install()
    tls, token = _read_secrets(config)
    # Bound before anything of the user's runs, listening only when the pool is there.
    listeners = bind_sockets(config.http.bind, tls=tls)
    try:
        for warning in config.warnings:
            log.warning("unknown_setting", extra={"reason": warning})
        handlers = _load_handlers(config)
        if config.handlers is None:
            log.warning("no_handlers_configured", extra={"used": _DEMONSTRATION["default"].call})
        return trio.run(main, config, handlers, listeners, stop, logs, token)
    except ConfigError:
        raise
    except BaseException:  # noqa: ASYNC103 - no task's error: it comes out of trio.run
        stop.arm_after_crash()
        log.critical("server_failed", exc_info=True)
        return BROKEN  # noqa: ASYNC104 - as above
    finally:
        listeners.close()
        logs.flush(seconds=_FLUSH_SECONDS)


def _read_secrets(config: Config) -> tuple[ssl.SSLContext | None, str | None]:
    """The certificate with its key, and the token that clients must show."""
    http = config.http
    if (http.certfile is None) != (http.keyfile is None):
        raise ConfigError("http.certfile and http.keyfile must be set together")
    if http.token is not None and http.token_file is not None:
        raise ConfigError("http.token and http.token_file must not be set together")
    try:
        tls = None
        if http.certfile is not None and http.keyfile is not None:
            tls = load_certificate(http.certfile, http.keyfile)
        token = http.token if http.token_file is None else read_token(http.token_file)
    except (AddressError, ValueError) as error:
        raise ConfigError(f"http: {error}") from error
    return tls, token


def _load_handlers(config: Config) -> Handlers:
    # Where `python` would put it: a command's own folder is not the user's.
    folder = Path() if config.source is None else config.source.parent
    sys.path.insert(0, str(folder.resolve()))
    table = _DEMONSTRATION if config.handlers is None else config.handlers
    return Handlers({name: _load_handler(name, each, config) for name, each in table.items()})


def _load_handler(name: str, settings: HandlerConfig, config: Config) -> Handler:
    try:
        function = load_function(settings.call)
        return Handler.of(function, run=settings.run, timeout=settings.timeout, name=settings.call)
    except HandlerError as error:
        raise ConfigError(
            f"{config.source}: handlers.{name} = {settings.call!r}: {error}"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trio-jobs",
        description="A job server: N workers, each job exactly once, a clean stop.",
        epilog="Options go over TRIO_JOBS_* in the environment, which goes over the file.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the configuration (default: config.toml in the current folder, if there)",
    )
    parser.add_argument("--workers", metavar="N", help="how many jobs run at the same time")
    parser.add_argument("--buffer-size", metavar="N", help="how many jobs may wait for a worker")
    parser.add_argument("--bind", metavar="ADDRESS", help="host:port; several: comma separated")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error")
    parser.add_argument("--log-format", metavar="FORMAT", help="text or json")
    parser.add_argument(
        "--check",
        action="store_true",
        help="load configuration and handlers, print the effective settings, and exit",
    )
    parser.add_argument("--version", action="version", version=f"trio-jobs {version('trio-jobs')}")
    return parser
