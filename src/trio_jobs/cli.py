"""The command `trio-jobs`: its complaints, its exit status.

Nothing heavy is imported at the top: until `run` has taken the signals, one ends the process.
"""

import contextlib
import os
import sys
from collections.abc import Sequence

from trio_jobs.import_path import place_folder
from trio_jobs.shutdown.signals import Signals

OK = 0
BROKEN = 1

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
    signals = Signals()
    # Before the imports that take most of a start: a signal that comes meanwhile is noted.
    signals.take()
    _fill_standard_descriptors()
    from trio_jobs.arguments import MISTAKEN, OPTIONS, parse_arguments

    options = parse_arguments(arguments, complain=_complain)
    if options.check:
        signals.release()  # nothing has to be stopped in order
    # Not at the top, either: what a handler starts with multiprocessing imports the command's
    # script again, and with it this module, and needs nothing of a server.
    from trio_jobs.bootstrap import StartError, check, serve
    from trio_jobs.config import load_config
    from trio_jobs.settings import ConfigError
    from trio_jobs.shutdown.end import end_interpreter, limit_unserved

    if folder is not None:
        place_folder(folder)
    try:
        config = load_config(
            options.config,
            environment=os.environ,
            overrides={path: getattr(options, path) for path in OPTIONS},
        )
    except ConfigError as error:
        _complain(str(error))
        return MISTAKEN
    # From here on modules of handlers are imported, and may have left behind what does not end.
    # The limit comes before the complaint, which may not end either; not before the settings,
    # which would be cut off.
    try:
        if options.check:
            text = check(config, warn=lambda text: _complain(f"warning: {text}"))
            status = _show(text)  # as slowly as somebody reads it
            limit_unserved(status)
        else:
            serve(config, signals)
    except ConfigError as error:
        limit_unserved(status := MISTAKEN)
        _complain(str(error))
    except StartError as error:
        limit_unserved(status := BROKEN)
        _complain(str(error))
    return end_interpreter(status)


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
