"""The order of starting: configuration → sockets bound → handlers imported → pool → listening."""

import gc
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

import trio

from trio_jobs.config import describe
from trio_jobs.forks import Forks, end_copy_with_its_step
from trio_jobs.handler_loading import DEMONSTRATION, in_file, load_handlers
from trio_jobs.handlers.child_start import open_folder
from trio_jobs.handlers.opening_errors import LifespanError, LoopStartError, StartStoppedError
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.hidden_modules import HiddenModule
from trio_jobs.leftovers import Leftovers, LeftoversError
from trio_jobs.lifecycle import Ended
from trio_jobs.logs.installation import Logs, start_logging
from trio_jobs.logs.log_file import check_log_file, open_log_file
from trio_jobs.main import main
from trio_jobs.opened_store import OpenStore, StoreInMemory
from trio_jobs.pool.store import StoreFileError, StoreUnusableError
from trio_jobs.pool.wall_clock import utc_now
from trio_jobs.preparation import (
    fix_paths,
    prepare_metrics,
    prepare_store,
    prepare_tracing,
    read_secrets,
)
from trio_jobs.resources import Resources
from trio_jobs.server.descriptors import raise_limit
from trio_jobs.server.sockets import BindError, bind_sockets
from trio_jobs.service_manager import ServiceManager
from trio_jobs.setting_type import ConfigError
from trio_jobs.settings import Config
from trio_jobs.shutdown.hard_limit import end_interpreter
from trio_jobs.shutdown.other_signals import OtherSignals
from trio_jobs.shutdown.signals import Signals
from trio_jobs.shutdown.stop import Stop
from trio_jobs.takeovers import Takeovers

log = logging.getLogger(__name__)

# Seconds for the last lines to reach the log: perhaps no program reads it.
_FLUSH_SECONDS = 0.5

_Used = TypeVar("_Used")


class StartError(Exception):
    """The server cannot start, and the configuration is not the reason."""


class _StoppedError(Exception):
    """A signal has asked for the end before the start was over."""


def check(config: Config, *, warn: Callable[[str], None]) -> str:
    """Load all that a start would load, without starting anything.

    Args:
        config: The settings.
        warn: Called with a line for each variable without effect, each hidden module, and each
            handler that seems to need another event loop.

    Returns:
        The settings in force, as TOML, and what the handlers' payloads look like.

    Raises:
        ConfigError: The start would fail because of the configuration.
    """
    read_secrets(config)
    fix_paths(config)
    prepare_metrics(config)
    prepare_tracing(config)
    prepare_store(config)
    for warning in config.warnings:
        warn(warning)
    _place_leftovers(config)
    if config.logging.file is not None:
        _log_file(check_log_file, config.logging.file)
    forks = Forks()
    handlers = load_handlers(
        config,
        warn_hidden=lambda each: warn(f"{each.hidden} is hidden by {each.by}"),
        warn_loop=lambda type_, name, text: warn(
            in_file(config, f"handlers.{type_} = {name!r} {text}")
        ),
        after_import=lambda _: forks.end_copy(),
    )
    return describe(config) + handlers.describe_payloads()


def check_store_file(config: Config) -> tuple[str, bool]:
    """Check all of the store's file, also while a server uses it; nothing changes.

    Returns:
        What there is in the file, and each fault, a line each; and whether it has no fault.

    Raises:
        ConfigError: No store.path is set.
        StartError: There is no such file, or it is no store of this version or an older one.
    """
    path = prepare_store(config).store.path
    if path is None:
        raise ConfigError("--check-store needs store.path")
    from trio_jobs import store_in_file

    try:
        report = store_in_file.check_store(Path(path))
    except StoreFileError as error:
        raise StartError(str(error)) from error
    counts = ", ".join(f"{count} {name}" for name, count in report.counts.items()) or "no jobs"
    lines = [f"{path}: version {report.version}, {counts}", *report.faults]
    lines.append("the file is damaged" if report.faults else "the file is whole")
    return "".join(f"{line}\n" for line in lines), not report.faults


def serve(config: Config, signals: Signals) -> NoReturn:
    """Start, serve until a signal asks to stop, and stop in order.

    The process ends in here, with the status that `main` returns, or 1.

    Args:
        config: The settings.
        signals: Taken already; the signals that have come since then count.

    Raises:
        ConfigError: There is a mistake in the configuration.
        StartError: The server cannot bind its addresses, or cannot listen there; or it cannot use
            the store's file or database.
    """
    with _standard_error_in(config.logging.file):
        _serve(config, signals)


def _serve(config: Config, signals: Signals) -> NoReturn:
    service_manager = ServiceManager.from_environment(os.environ)
    # Child processes start in it; handler modules may change the current folder later.
    folder = open_folder()
    logs = start_logging(config.logging)
    other_signals = OtherSignals()
    stop, takeovers, forks = _prepare_process(config, signals, other_signals, logs)
    tls, tokens = read_secrets(config)
    config = fix_paths(config)
    config = prepare_metrics(config)
    tracing = prepare_tracing(config)
    leftovers = _place_leftovers(config)
    config = prepare_store(config)
    # Before the imports: handler modules may read the limit of open files, or reach it.
    raise_limit(connections=config.http.max_connections)
    try:
        # Bound before user code runs; `main` listens once the pool runs.
        unix_mode = int(config.http.unix_mode, base=8)
        listeners = bind_sockets(config.http.bind, tls=tls, unix_mode=unix_mode)
    except BindError as error:
        raise StartError(str(error)) from error
    forks.in_child(listeners.close_in_child)
    ended: Ended | None = None
    try:
        handlers = _import_handlers(config, stop, takeovers, forks, leftovers)
        _freeze_modules(forks)
        open_store = _store_opener(config, handlers, stop)
        resources = Resources(
            listeners=listeners,
            stop=stop,
            logs=logs,
            open_store=open_store,
            tokens=tokens,
            folder=folder,
            other_signals=other_signals,
            service_manager=service_manager,
            takeovers=takeovers,
            leftovers=leftovers,
            tracing=tracing,
        )
        ended = trio.run(main, config, handlers, resources)
    except _StoppedError:
        ended = Ended()  # nothing had begun
    except ConfigError:
        raise
    except (BindError, StoreUnusableError) as error:
        raise StartError(str(error)) from error
    except LoopStartError as error:
        raise ConfigError(f"pool.asyncio_loop: {error}") from error
    except LifespanError as error:
        log.debug("lifespan_not_opened", exc_info=error.__cause__)
        raise StartError(in_file(config, str(error))) from error
    except StartStoppedError as error:
        log.warning("start_stopped", extra={"reason": str(error)})
        ended = Ended(status=1)
    except BaseException:  # noqa: ASYNC103 - no task's error: it comes out of trio.run
        stop.arm_after_crash()
        log.critical("server_failed", exc_info=True)
        lines, last = stop.report.lines(), stop.report.unnamed
        logs.write_final(__name__, logging.ERROR, lines, seconds=_FLUSH_SECONDS, last=last)
    finally:
        listeners.close()
        if folder is not None:
            os.close(folder)
        logs.flush_within(seconds=_FLUSH_SECONDS)
    end_interpreter(
        1 if ended is None else ended.status, last_words=partial(_log_stopped, ended, logs)
    )


@contextmanager
def _standard_error_in(path: str | None) -> Iterator[None]:
    """Have the log file, if there is one, take what the process writes to standard error.

    If the start fails, the old standard error is back, where the user who starts it looks.
    """
    if path is None:
        yield
        return
    fd = _log_file(open_log_file, path)
    before = os.dup(2)
    os.dup2(fd, 2)
    os.close(fd)
    try:
        yield
    except (ConfigError, StartError):
        os.dup2(before, 2)
        raise


def _log_file(use: Callable[[str], _Used], path: str) -> _Used:
    try:
        return use(path)
    except ValueError as error:
        raise ConfigError(f"logging.file: {error}") from error


def _prepare_process(
    config: Config, signals: Signals, other_signals: OtherSignals, logs: Logs
) -> tuple[Stop, Takeovers, Forks]:
    """Act on signals, put back signals and log when user code replaces them, and prepare for forks.

    A signal that comes while sockets are bound and handlers imported ends the server in order.
    """
    render = partial(logs.render, "trio_jobs.shutdown.stop")
    stop = Stop(config.pool, config.http, render=render)
    stop.install(signals, other=other_signals.handle)
    takeovers = Takeovers()
    stop.hold_against(takeovers)
    takeovers.add_group(taken=logs.taken, put_back=logs.put_back)
    forks = Forks()
    forks.watch()
    forks.in_child(logs.write_directly)
    forks.in_child(stop.give_up)
    forks.in_child(end_copy_with_its_step)
    return stop, takeovers, forks


def _import_handlers(
    config: Config, stop: Stop, takeovers: Takeovers, forks: Forks, leftovers: Leftovers | None
) -> HandlerRegistry:
    def check_stop() -> None:
        if stop.at is not None:
            raise _StoppedError

    def after_import(name: str) -> None:
        forks.end_copy()
        takeovers.check(module=name.partition(":")[0])
        check_stop()

    check_stop()
    for warning in config.warnings:
        log.warning("unknown_setting", extra={"reason": warning})
    if leftovers is not None:
        leftovers.start()
        for path in leftovers.found():
            log.warning("leftovers_found", extra={"path": str(path)})
    handlers = load_handlers(
        config, warn_hidden=log_hidden, warn_loop=log_wrong_loop, after_import=after_import
    )
    if config.handlers is None:
        log.warning("no_handlers_configured", extra={"used": DEMONSTRATION["default"].call})
    return handlers


def _freeze_modules(forks: Forks) -> None:
    """Have the garbage collector skip all objects that exist now: modules, classes, functions.

    A full collection blocks the event loop, and it takes most of its time for these objects. The
    collector never frees them, even if a handler drops them later in a reference cycle.
    """
    gc.collect()  # otherwise ``freeze`` keeps the garbage of the imports
    forks.end_copy()  # a finalizer of a handler's module may have forked
    gc.freeze()


def _log_stopped(ended: Ended | None, logs: Logs) -> None:
    if ended is not None:
        fields = {"status": ended.status, "peak_buffered": ended.peak_buffered}
        log.info("stopped", extra=fields)
    logs.flush_within(seconds=_FLUSH_SECONDS)


def _store_opener(config: Config, handlers: HandlerRegistry, stop: Stop) -> OpenStore:
    """Lock and recover the file, if there is one; a signal that comes meanwhile ends the start."""
    store = config.store
    if store.url is not None:
        from trio_jobs.store_in_database import StoreInDatabase

        return lambda failed: StoreInDatabase(store, handlers, failed=failed)
    if store.path is None:
        return lambda _: StoreInMemory(store, now=utc_now)
    from trio_jobs.store_in_file import RecoveredFile

    file = RecoveredFile(Path(store.path), handlers, store, now=utc_now)
    if stop.at is not None:
        file.close()
        raise _StoppedError
    return file.open


def _place_leftovers(config: Config) -> Leftovers | None:
    """The file for unfinished jobs; a relative path starts at the current folder."""
    if config.pool.leftovers is None:
        return None
    try:
        return Leftovers(Path(config.pool.leftovers))
    except LeftoversError as error:
        raise ConfigError(f"pool.leftovers: {error}") from error


def log_hidden(module: HiddenModule) -> None:
    """Log that a module of the handlers' folder hides an installed one."""
    log.warning("module_hidden", extra={"hidden": module.hidden, "by": module.by})


def log_wrong_loop(job_type: str, handler: str, advice: str) -> None:
    """Log that a handler uses a library that needs another event loop."""
    fields = {"job_type": job_type, "handler": handler, "advice": advice}
    log.warning("wrong_loop", extra=fields)
