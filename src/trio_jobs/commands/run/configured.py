"""`make_embedded_runner`: what ``--config`` names, loaded as the server loads it."""

import logging
import os
import sys
from argparse import Namespace
from dataclasses import replace

from trio_jobs.bootstrap import log_hidden, log_wrong_loop
from trio_jobs.commands.command_error import CommandError
from trio_jobs.commands.exit_statuses import MISTAKEN
from trio_jobs.commands.run.embedded import EmbeddedRunner
from trio_jobs.commands.run.screen import Screen
from trio_jobs.commands.run.stop_signals import StopSignals
from trio_jobs.commands.server_option import TOKEN_VARIABLE, URL_VARIABLE
from trio_jobs.config import load_config
from trio_jobs.handler_loading import load_handlers
from trio_jobs.import_path import place_folder
from trio_jobs.logs.formatter import LogFormatter
from trio_jobs.logs.log_file import open_log_file
from trio_jobs.setting_type import ConfigError
from trio_jobs.settings import Config

# Their lines are about single jobs, of which the results tell. On standard error they are shown at
# the level `debug` only.
_TOLD_BY_RESULTS = (
    "trio_jobs.embed",
    "trio_jobs.handlers.executor",
    "trio_jobs.pool.worker",
    "trio_jobs.stores.drop_log",
)


def make_embedded_runner(
    options: Namespace, signals: StopSignals, screen: Screen
) -> EmbeddedRunner:
    """Load the configuration and its handlers.

    Args:
        options: Those of the command.
        signals: Taken again after the import of handlers, which may have taken them.
        screen: Where the log goes, unless the configuration names a file.

    Raises:
        CommandError: There is a mistake in the configuration.
    """
    try:
        # Those of other runs of this command are no settings, and no server is to be protected.
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in (URL_VARIABLE, TOKEN_VARIABLE)
        }
        config = load_config(options.config, environment=environment, overrides={})
        _start_log(config, screen)
        if config.handlers is not None:
            # Nobody could resume a paused type here: its jobs would wait for ever.
            table = {name: replace(each, paused=False) for name, each in config.handlers.items()}
            config = replace(config, handlers=table)
        if options.folder is not None:
            place_folder(options.folder)
        handlers = load_handlers(
            config,
            warn_hidden=log_hidden,
            warn_loop=log_wrong_loop,
            after_import=lambda _: signals.take(),
        )
    except ConfigError as error:
        raise CommandError(str(error), MISTAKEN) from None
    return EmbeddedRunner(config, handlers, in_flight=options.in_flight)


class _ScreenHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to standard error, where the line of progress may stand."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(sys.stderr)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """Clear the line, then write."""
        self._screen.clear()
        super().emit(record)


def _start_log(config: Config, screen: Screen) -> None:
    settings = config.logging
    handler: logging.Handler
    if settings.file is None:
        handler = _ScreenHandler(screen)
        for name in _TOLD_BY_RESULTS if settings.level != "debug" else ():
            logging.getLogger(name).setLevel(logging.ERROR)
    else:
        try:
            file = os.fdopen(open_log_file(settings.file), "a", encoding="utf-8")
        except ValueError as error:
            raise ConfigError(f"logging.file: {error}") from None
        handler = logging.StreamHandler(file)
    handler.setFormatter(LogFormatter(settings.format))
    logging.basicConfig(level=settings.level.upper(), handlers=[handler])
    for warning in config.warnings:
        logging.getLogger(__name__).warning("unknown_setting", extra={"reason": warning})
