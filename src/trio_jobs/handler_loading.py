"""`load_handlers`: the functions that the configuration names: handlers and lifespans."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields

from trio_jobs.handlers.handler import Handler, Run
from trio_jobs.handlers.importing import HandlerError, load_function
from trio_jobs.handlers.lifespan import Lifespan
from trio_jobs.handlers.opening_errors import LoopStartError
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.handlers.retry_policy import RetryPolicy
from trio_jobs.handlers.used_library import find_wrong_loop
from trio_jobs.hidden_modules import HiddenModule, find_hidden_modules
from trio_jobs.import_path import place_folder
from trio_jobs.setting_type import ConfigError, setting_name
from trio_jobs.settings import Config, HandlerSettings

# What runs without a [handlers] table.
DEMONSTRATION = {"default": HandlerSettings(call="trio_jobs.demo:simulate_work")}


def load_handlers(
    config: Config,
    *,
    warn_hidden: Callable[[HiddenModule], None],
    warn_loop: Callable[[str, str, str], None],
    after_import: Callable[[str], None],
) -> HandlerRegistry:
    """Import the modules of the handlers and take the functions out of them.

    Args:
        config: The settings.
        warn_hidden: Called with each hidden module.
        warn_loop: Called with the job type and the function's name of each handler whose code needs
            another event loop, and with advice; not if ``run`` says where it runs.
        after_import: Called with a function's name (``module:function``) after the import of its
            module, even a failed one, and again after the imports of the modules that its retry
            policy names. Its errors pass through.

    Raises:
        ConfigError: A function cannot be loaded, or cannot be a handler or a lifespan; or uvloop is
            chosen, but not installed.
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
            text = in_file(config, f"{setting} = {name!r}: {error}")
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
                handler = Handler.of(
                    function,
                    run=settings.run,
                    async_handlers=async_handlers,
                    timeout=settings.timeout,
                    retry=retry,
                    max_running=settings.max_running,
                    repeatable=settings.repeatable,
                    max_interruptions=settings.max_interruptions,
                    hide=settings.hide,
                    paused=settings.paused,
                    spread=settings.spread,
                    name=call,
                )
            finally:
                if retry is not None:
                    after_import(call)  # the modules of the exceptions that the policy names
        if settings.run in (None, "async"):
            advice = find_wrong_loop(handler, function)
            if advice is not None:
                warn_loop(job_type, call, advice)
        return handler

    def load_lifespan(key: str, name: str) -> Lifespan:
        with naming(f"lifespan.{key}", name):
            function = load_named(name)
            return Lifespan.of(function, key=key, async_handlers=async_handlers, name=name)

    table = DEMONSTRATION if config.handlers is None else config.handlers
    handlers = {job_type: load(job_type, each) for job_type, each in table.items()}
    names = {
        setting_name(each): getattr(config.lifespan, each.name) for each in fields(config.lifespan)
    }
    lifespans = [load_lifespan(key, name) for key, name in names.items() if name is not None]
    try:
        registry = HandlerRegistry(handlers, lifespans=lifespans)
    except HandlerError as error:
        raise ConfigError(in_file(config, str(error))) from error
    if Run.ASYNCIO in registry.places:
        from trio_jobs.handlers.loop_thread import loop_maker  # a server without it needs none

        try:
            loop_maker(config.pool.asyncio_loop)
        except LoopStartError as error:
            raise ConfigError(in_file(config, f"pool.asyncio_loop: {error}")) from error
    return registry


def in_file(config: Config, text: str) -> str:
    """A complaint about the configuration, with the name of its file."""
    return f"{config.source}: {text}"
