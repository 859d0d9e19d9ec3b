"""The command `trio-jobs`: its arguments, its complaints, its exit status."""

import argparse
import contextlib
import difflib
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from trio_jobs.import_path import place_folder
from trio_jobs.signals import Signals

OK = 0
BROKEN = 1
MISTAKEN = 2  # in the configuration or on the command line, as argparse has it

# Characters: some lines on a terminal.
_LONGEST_COMPLAINT = 2_000


def run(arguments: Sequence[str] | None = None, *, folder: str | None = None) -> int:
    """Run the command.

    Args:
        arguments: Those after the command's name; by default the process's own.
        folder: Placed on Python's path once all that the server needs is imported.

    Returns:
        The exit status 2, for a mistake in the configuration or on the command line. Once modules
        of handlers have been imported the process ends in here, with that status or: 0, the
        settings are shown; 1, the server cannot start; and what a server ends with.
    """
    _fill_standard_descriptors()
    options = _parser().parse_args(arguments)
    signals = Signals()
    if not options.check:
        # Before the imports that take most of a start: a signal that comes meanwhile is noted.
        signals.take()
    # Not at the top: what a handler starts with multiprocessing imports the command's script again,
    # and with it this module, and needs nothing of a server.
    from trio_jobs.config import ConfigError, load_config
    from trio_jobs.start import StartError, check, serve
    from trio_jobs.stop import end_unserved, limit_unserved

    if folder is not None:
        place_folder(folder)
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
    except ConfigError as error:
        _complain(str(error))
        return MISTAKEN
    # From here on modules of handlers are imported, and may have left behind what does not end.
    # The limit comes before the complaint, which may not end either.
    try:
        if options.check:
            text = check(config, warn=lambda text: _complain(f"warning: {text}"))
            limit_unserved(OK)
            status = _show(text)
        else:
            serve(config, signals)
    except ConfigError as error:
        limit_unserved(status := MISTAKEN)
        _complain(str(error))
    except StartError as error:
        limit_unserved(status := BROKEN)
        _complain(str(error))
    return end_unserved(status)


def _fill_standard_descriptors() -> None:
    """Open the null device at those of 0, 1 and 2 that are closed.

    Else the next file or socket gets the number: a library that writes to standard error would
    write to a client, and a program that a handler starts would inherit the listening socket.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # always the lowest that is free
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _show(text: str) -> int:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (AttributeError, OSError) as error:  # closed (then it is None), or a full disk
        _complain(f"the settings are right, but cannot be shown: {error}")
        return BROKEN
    return OK


def _complain(text: str) -> None:
    # One bounded line, whatever a module of the user's raised when it was imported.
    line = "".join(char if char.isprintable() else " " for char in text[:_LONGEST_COMPLAINT])
    # A status of its own must not depend on somebody to tell: standard error may be closed (then
    # it is None), a full disk, or user code's own.
    with contextlib.suppress(Exception):
        sys.stderr.write(f"trio-jobs: {line}\n")


class _Parser(argparse.ArgumentParser):
    """Complains as the rest of the command does: in one line, with a known name that is near."""

    def error(self, message: str) -> NoReturn:
        wrong = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
        known = [option for action in self._actions for option in action.option_strings]
        if wrong and (near := difflib.get_close_matches(wrong[1], known, n=1)):
            message += f", the nearest is {near[0]}"
        _complain(message)
        sys.exit(MISTAKEN)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
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
