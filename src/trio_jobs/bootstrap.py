"""The order of starting: configuration → sockets bound → handlers imported → pool → listening."""

import gc
import logging
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import trio

from trio_jobs.config import describe
from trio_jobs.forks import Forks, end_copy_with_its_step
from trio_jobs.handlers.handler import Handler, Run
from trio_jobs.handlers.importing import HandlerError, load_function
from trio_jobs.handlers.lifespan import Lifespan
from trio_jobs.handlers.opening_errors import LifespanError, LoopStartError, StartStoppedError
from trio_jobs.handlers.process_pool import open_folder
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.handlers.retry_policy import RetryPolicy
from trio_jobs.hidden_modules import HiddenModule, find_hidden_modules
from trio_jobs.import_path import place_folder
from trio_jobs.leftovers import Leftovers, LeftoversError
from trio_jobs.lifecycle import Ended
from trio_jobs.logs.installation import Logs, start_logging
from trio_jobs.main import main
from trio_jobs.opened_store import OpenStore, StoreInMemory
from trio_jobs.pool.store import StoreFileError
from trio_jobs.pool.wall_clock import utc_now
from trio_jobs.resources import Resources
from trio_jobs.server.access_control import parse_token, read_token
from trio_jobs.server.descriptors import raise_limit
from trio_jobs.server.sockets import BindError, bind_sockets
from trio_jobs.server.tls import load_certificate
from trio_jobs.service_manager import ServiceManager
from trio_jobs.settings import Config, ConfigError, HandlerSettings, check_store, setting_name
from trio_jobs.shutdown.hard_limit import end_interpreter
from trio_jobs.shutdown.signals import Signals
from trio_jobs.shutdown.stop import Stop
from trio_jobs.takeovers import Takeovers

log = logging.getLogger(__name__)

# What runs without a [handlers] table.
_DEMONSTRATION = {"default": HandlerSettings(call="trio_jobs.demo:simulate_work")}

# Seconds for the last lines to reach the log: perhaps no program reads it.
_FLUSH_SECONDS = 0.5


class StartError(Exception):
    """The server cannot start, and the configuration is not the reason."""


class _StoppedError(Exception):
    """A signal has asked for the end before the start was over."""


def check(config: Config, *, warn: Callable[[str], None]) -> str:
    """Load all that a start would load, without starting anything.

    Args:
        config: The settings.
        warn: Called with a line for each variable without effect, and for each hidden module.

    Returns:
        The settings in force, as TOML, and what the handlers' payloads look like.

    Raises:
        ConfigError: The start would fail because of the configuration.
    """
    read_secrets(config)
    prepare_store(config)
    for warning in config.warnings:
        warn(warning)
    _place_leftovers(config)
    forks = Forks()
    handlers = load_handlers(
        config,
        warn_hidden=lambda each: warn(f"{each.hidden} is hidden by {each.by}"),
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
    path = prepare_store(config)
    if path is None:
        raise ConfigError("--check-store needs store.path")
    from trio_jobs import store_in_file

    try:
        report = store_in_file.check_store(path)
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
            the store's file.
    """
    service_manager = ServiceManager.from_environment(os.environ)
    # Child processes start in it; handler modules may change the current folder later.
    folder = open_folder()
    logs = start_logging(config.logging)
    stop, takeovers, forks = _prepare_process(config, signals, logs)
    tls, config = read_secrets(config)
    leftovers = _place_leftovers(config)
    path = prepare_store(config)
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
        open_store = _store_opener(path, config, handlers, stop)
        resources = Resources(
            listeners=listeners,
            stop=stop,
            logs=logs,
            open_store=open_store,
            folder=folder,
            service_manager=service_manager,
            takeovers=takeovers,
            leftovers=leftovers,
        )
        ended = trio.run(main, config, handlers, resources)
    except _StoppedError:
        ended = Ended()  # nothing had begun
    except ConfigError:
        raise
    except (BindError, StoreFileError) as error:
        raise StartError(str(error)) from error
    except LoopStartError as error:
        raise ConfigError(f"pool.asyncio_loop: {error}") from error
    except LifespanError as error:
        log.debug("lifespan_not_opened", exc_info=error.__cause__)
        raise StartError(_in_file(config, str(error))) from error
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


def _prepare_process(config: Config, signals: Signals, logs: Logs) -> tuple[Stop, Takeovers, Forks]:
    """Act on signals, put back signals and log when user code replaces them, and prepare for forks.

    A signal that comes while sockets are bound and handlers imported ends the server in order.
    """
    render = partial(logs.render, "trio_jobs.shutdown.stop")
    stop = Stop(config.pool, config.http, render=render)
    stop.install(signals)
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
    handlers = load_handlers(config, warn_hidden=log_hidden, after_import=after_import)
    if config.handlers is None:
        log.warning("no_handlers_configured", extra={"used": _DEMONSTRATION["default"].call})
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
        fields = {"status": ended.status, "peak_buffer_used": ended.peak_buffer_used}
        log.info("stopped", extra=fields)
    logs.flush_within(seconds=_FLUSH_SECONDS)


def read_secrets(config: Config) -> tuple[ssl.SSLContext | None, Config]:
    """The certificate with its key, and the configuration with the token of ``http.token_file``.

    Raises:
        ConfigError: A file or the token is wrong, or settings contradict each other.
    """
    http = config.http
    if (http.certfile is None) != (http.keyfile is None):
        raise ConfigError("http.certfile and http.keyfile must be set together")
    if http.token is not None and http.token_file is not None:
        raise ConfigError("http.token and http.token_file must not be set together")
    try:
        tls = None
        if http.certfile is not None and http.keyfile is not None:
            tls = load_certificate(http.certfile, http.keyfile)
        token = None if http.token is None else parse_token(http.token)
        if http.token_file is not None:
            token = read_token(http.token_file)
    except ValueError as error:
        raise ConfigError(f"http: {error}") from error
    return tls, replace(config, http=replace(http, token=token))


def prepare_store(config: Config) -> Path | None:
    """Check the settings of the store, and import what a store in a file needs.

    Call it before the handlers are imported, which may change where modules are found. A store in
    memory needs none of these modules.

    Returns:
        The file for the jobs; a relative path starts at the folder of the configuration.

    Raises:
        ConfigError: Settings contradict each other.
    """
    try:
        check_store(config.pool, config.store, config.http)
    except ConfigError as error:
        raise ConfigError(f"{config.source or 'the settings'}: {error}") from error
    if config.store.path is None:
        return None
    import trio_jobs.store_in_file  # noqa: F401

    folder = Path.cwd() if config.source is None else config.source.parent
    return (folder / config.store.path).absolute()


def _store_opener(
    path: Path | None, config: Config, handlers: HandlerRegistry, stop: Stop
) -> OpenStore:
    """Lock and recover the file, if there is one; a signal that comes meanwhile ends the start."""
    if path is None:
        return lambda _: StoreInMemory(config.store, now=utc_now)
    from trio_jobs.store_in_file import RecoveredFile

    file = RecoveredFile(path, handlers, config.store, now=utc_now)
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


def load_handlers(
    config: Config,
    *,
    warn_hidden: Callable[[HiddenModule], None],
    after_import: Callable[[str], None],
) -> HandlerRegistry:
    """Import the modules of the handlers and take the functions out of them.

    Args:
        config: The settings.
        warn_hidden: Called with each hidden module.
        after_import: Called with a function's name (``module:function``) after the import of its
            module, even a failed one, and again after the imports of the modules that its retry
            policy names. Its errors pass through.

    Raises:
        ConfigError: A function cannot be loaded, or cannot be a handler.
    """
    hidden = {}
    if config.source is not None:
        # All that the server needs is imported by now, so no file of the folder replaces it.
        folder = config.source.parent.resolve()
        place_folder(str(folder))
        hidden = {each.name: each for each in find_hidden_modules(folder)}
    for each in hidden.values():
        warn_hidden(each)

    @contextmanager
    def naming(setting: str, name: str) -> Iterator[None]:
        """A block whose HandlerError becomes the refusal of a setting with a function's name."""
        try:
            yield
        except HandlerError as error:
            text = _in_file(config, f"{setting} = {name!r}: {error}")
            module = hidden.get(name.partition(":")[0].partition(".")[0])
            if module is not None:
                text += f"; {module.hidden} is hidden by it: rename the file"
            raise ConfigError(text) from error

    def load_named(name: str) -> object:
        try:
            return load_function(name)
        finally:
            after_import(name)

    async_handlers = config.pool.async_handlers

    def load(job_type: str, settings: HandlerSettings) -> Handler:
        call = settings.call
        retry = None if settings.retry is None else RetryPolicy(**asdict(settings.retry))
        with naming(f"handlers.{job_type}", call):
            function = load_named(call)
            try:
                return Handler.of(
                    function,
                    run=settings.run,
                    async_handlers=async_handlers,
                    timeout=settings.timeout,
                    retry=retry,
                    max_running=settings.max_running,
                    repeatable=settings.repeatable,
                    max_interruptions=settings.max_interruptions,
                    spread=settings.spread,
                    name=call,
                )
            finally:
                if retry is not None:
                    after_import(call)  # the modules of the exceptions that the policy names

    def load_lifespan(key: str, name: str) -> Lifespan:
        with naming(f"lifespan.{key}", name):
            function = load_named(name)
            return Lifespan.of(function, key=key, async_handlers=async_handlers, name=name)

    table = _DEMONSTRATION if config.handlers is None else config.handlers
    handlers = {job_type: load(job_type, each) for job_type, each in table.items()}
    names = {
        setting_name(each): getattr(config.lifespan, each.name) for each in fields(config.lifespan)
    }
    lifespans = [load_lifespan(key, name) for key, name in names.items() if name is not None]
    try:
        registry = HandlerRegistry(handlers, lifespans=lifespans)
    except HandlerError as error:
        raise ConfigError(_in_file(config, str(error))) from error
    if Run.ASYNCIO in registry.places:
        from trio_jobs.handlers.asyncio_runner import loop_maker  # a server without it needs none

        try:
            loop_maker(config.pool.asyncio_loop)
        except LoopStartError as error:
            raise ConfigError(_in_file(config, f"pool.asyncio_loop: {error}")) from error
    return registry


def _in_file(config: Config, text: str) -> str:
    return f"{config.source}: {text}"


def log_hidden(module: HiddenModule) -> None:
    """Log that a module of the handlers' folder hides an installed one."""
    log.warning("module_hidden", extra={"hidden": module.hidden, "by": module.by})
