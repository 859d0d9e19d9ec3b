"""The command `trio-jobs`: its arguments, its complaints, its exit status.

It serves, or runs one of `COMMANDS`, each in a module of its own.

Nothing heavy is imported at the top, for two reasons. Until `run` has taken the signals, a signal
ends the process. A child that a handler starts with multiprocessing imports the command's script,
and so this module, but needs no server.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from trio_jobs.commands.complaints import complain
from trio_jobs.commands.exit_statuses import BROKEN, MISTAKEN, OK
from trio_jobs.import_path import place_folder
from trio_jobs.shutdown.signals import Signals

if TYPE_CHECKING:
    import argparse

# The settings that have an option, and the word that stands for the value in the help.
OPTIONS: Mapping[str, str] = {
    "pool.workers": "N",
    "pool.buffer_size": "N",
    "http.bind": "ADDRESS",
    "logging.level": "LEVEL",
    "logging.format": "FORMAT",
}

# The commands beside `serve`: each one's module in `trio_jobs.commands`, and what the help says. In
# such a module `add(parser)` adds the arguments; `run(options)` runs the command, and returns the
# exit status or raises a `CommandError`. `options.folder` is the ``folder`` of `run` below.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("run.command", "run the lines of a file as jobs"),
    "submit": ("submit_command", "submit a job"),
    "status": ("status_command", "show a job, or what the pool does"),
    "wait": ("wait_command", "wait for the end of jobs"),
    "list": ("list_command", "list jobs, the newest first"),
    "cancel": ("cancel_command", "cancel jobs"),
    "rerun": ("rerun_command", "submit jobs once more that have not succeeded"),
    "tail": ("tail_command", "follow the jobs as they end"),
    "top": ("top_command", "watch the pool on a terminal"),
    "migrate": ("migrate_command", "make or renew the tables in the database of store.url"),
}

# For the threads and `atexit` callbacks of handler modules when the process does not serve: a
# mistake was found, or `--check` has ended.
UNSERVED_SECONDS = 5.0


def run(arguments: Sequence[str] | None = None, *, folder: str | None = None) -> int:
    """Run the command.

    Args:
        arguments: Those after the command's name; by default the process's own.
        folder: Placed on Python's path once all that the server needs is imported.

    Returns:
        The exit status of one of `COMMANDS`. Without one: the exit status 2, for a mistake in the
        configuration that shows before handler modules are imported. Later the process ends in
        here: with 2, a mistake in the configuration; 0, the settings are shown, or the store's file
        is whole; 1, the server cannot start, or what was asked for cannot be shown, or the file is
        damaged; or with the status of the server's stop.

    Raises:
        SystemExit: A mistake on the command line (2), or an option like ``--help`` (0).
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] and arguments[0] in COMMANDS:
        return _run_command(arguments, folder=folder)
    signals = Signals()
    # Before the imports, which take most of a start: signals that come during them are noted.
    signals.take()
    _fill_standard_descriptors()
    # A command behind options, unless it is the value of one of them.
    hint = next(
        (f"; {each} must be the first argument" for each in arguments if each in COMMANDS), ""
    )
    parser = make_parser(lambda text: complain(text + hint), complete=bool(hint))
    options = parser.parse_args(arguments)
    if options.command in COMMANDS:
        parser.error(f"{options.command} stands behind options")
    if options.check or options.check_store:
        signals.release()  # nothing has to be stopped in order
    from trio_jobs.bootstrap import StartError, check, check_store_file, serve
    from trio_jobs.config import load_config
    from trio_jobs.setting_type import ConfigError
    from trio_jobs.shutdown.hard_limit import end_interpreter

    if folder is not None:
        place_folder(folder)
    try:
        config = load_config(
            options.config,
            environment=os.environ,
            overrides={path: getattr(options, path) for path in OPTIONS},
        )
    except ConfigError as error:
        complain(str(error))
        return MISTAKEN
    # From here on handler modules are imported, and may leave behind threads that do not end: so
    # the end has a limit. It begins before a complaint, since the reader of that may hang too. It
    # begins after the settings are shown, since a person may read them slowly in a pager.
    try:
        if options.check_store:
            lines, whole = check_store_file(config)
            status = max(_show(lines, "the file is checked"), OK if whole else BROKEN)
        elif options.check:
            text = check(config, warn=lambda text: complain(f"warning: {text}"))
            _limit_unserved(status := _show(text, "the settings are right"))
        else:
            serve(config, signals)
    except ConfigError as error:
        _limit_unserved(status := MISTAKEN)
        complain(str(error))
    except StartError as error:
        _limit_unserved(status := BROKEN)
        complain(str(error))
    return end_interpreter(status)


def make_parser(
    complain: Callable[[str], None], *, complete: bool = False
) -> "argparse.ArgumentParser":
    """The parser of all arguments.

    Args:
        complain: Called with a mistake, before the process ends with status 2.
        complete: Whether it has the arguments of `COMMANDS`, too. This imports their modules.
    """
    import argparse
    from importlib.metadata import version

    parser = _parser_class(complain)(
        prog="trio-jobs",
        description="A job server: N workers, each job exactly once, a clean stop.",
        epilog="Options override TRIO_JOBS_* in the environment, which overrides the file. Commas"
        " separate several addresses.",
        allow_abbrev=False,
    )
    _add_server_options(parser)
    parser.add_argument("--version", action="version", version=f"trio-jobs {version('trio-jobs')}")
    commands = parser.add_subparsers(
        title="commands",
        description="without one the server runs; trio-jobs COMMAND --help has its arguments",
        dest="command",
        metavar="COMMAND",
    )
    # An option that is not given must not replace one that stands before `serve`.
    serve = commands.add_parser(
        "serve",
        help="run the server",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    _add_server_options(serve)
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(
            name, help=text, description=_sentence(text), allow_abbrev=False
        )
        if complete:
            import_module(f"trio_jobs.commands.{module}").add(command)
    return parser


def complete_parser() -> "argparse.ArgumentParser":
    """The parser of all arguments, as shtab takes it for a completion by the shell."""
    parser = make_parser(complain, complete=True)
    file: object = import_module("shtab").FILE
    parsers = [parser]
    for each in parsers:
        for action in each._actions:
            if isinstance(action.choices, dict):  # the parsers of the commands
                parsers += action.choices.values()
            elif action.metavar == "FILE":
                action.complete = file  # type: ignore[attr-defined]
    return parser


def _add_server_options(parser: "argparse.ArgumentParser") -> None:
    from pathlib import Path

    from trio_jobs.config import option
    from trio_jobs.settings import SETTINGS

    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the configuration (default: config.toml in the current folder, if there)",
    )
    for path, metavar in OPTIONS.items():
        setting = SETTINGS[path]
        default = setting.default if isinstance(setting.default, str | int) else setting.default[0]
        text = f"{setting.description}: {setting.values} (default: {default})"
        parser.add_argument(option(path), dest=path, metavar=metavar, help=text)
    suppressed = {} if parser.argument_default is None else {"default": parser.argument_default}
    parser.add_argument(
        "--check",
        action="store_true",
        help="load configuration and handlers, print the effective settings, and exit",
        **suppressed,
    )
    parser.add_argument(
        "--check-store",
        action="store_true",
        help="check the file of store.path, also while a server uses it, and exit",
        **suppressed,
    )


def _parser_class(complain: Callable[[str], None]) -> "type[argparse.ArgumentParser]":
    import argparse
    import difflib
    import re

    class Parser(argparse.ArgumentParser):
        """Complains in one line, which ends with the nearest option or command."""

        def error(self, message: str) -> NoReturn:
            known = [name for action in self._actions for name in action.option_strings]
            # So much of argparse's text as does not list all commands.
            if no_command := re.match(r"argument COMMAND: invalid choice: '(\S*)'", message):
                message = f"unrecognized arguments: {no_command[1]}"
                known = ["serve", *COMMANDS]
            wrong = re.match(r"unrecognized arguments: ([^\s=]+)", message)
            if wrong and (near := difflib.get_close_matches(wrong[1], known, n=1)):
                message += f", the nearest is {near[0]}"
            complain(message)
            sys.exit(MISTAKEN)

    return Parser


def _run_command(arguments: Sequence[str], *, folder: str | None) -> int:
    """Run one of `COMMANDS`; Ctrl-C ends the process at once, and without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _fill_standard_descriptors()
    from trio_jobs.commands.command_error import CommandError

    name = arguments[0]
    module = import_module(f"trio_jobs.commands.{COMMANDS[name][0]}")
    parser = _parser_class(complain)(
        prog=f"trio-jobs {name}", description=_sentence(COMMANDS[name][1]), allow_abbrev=False
    )
    module.add(parser)
    options = parser.parse_args(arguments[1:])
    options.folder = folder
    try:
        status: int = module.run(options)
    except CommandError as error:
        complain(str(error))
        return error.status
    return status


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _fill_standard_descriptors() -> None:
    """Open the null device at each of the descriptors 0, 1 and 2 that is closed.

    Otherwise the next file or socket gets the number: a library that writes to standard error would
    write to a client, and a program that a handler starts would inherit the listening socket.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # always the lowest free one
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _show(text: str, what: str) -> int:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (AttributeError, OSError) as error:  # closed (then stdout is None), or a full disk
        complain(f"{what}, but cannot be shown: {error}")
        return BROKEN
    return OK


def _limit_unserved(status: int) -> None:
    from trio_jobs.shutdown.unserved import limit_unserved

    limit_unserved(status, seconds=UNSERVED_SECONDS)
