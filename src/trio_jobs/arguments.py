"""The arguments of the command `trio-jobs`.

A module of its own: what it imports takes longer than all that comes before it.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from trio_jobs.config import option
from trio_jobs.settings import SETTINGS

# The settings that have an option, with what stands for their value in the help.
OPTIONS = {
    "pool.workers": "N",
    "pool.buffer_size": "N",
    "http.bind": "ADDRESS",
    "logging.level": "LEVEL",
    "logging.format": "FORMAT",
}

MISTAKEN = 2  # in the configuration or on the command line, as argparse has it


def parse_arguments(
    arguments: Sequence[str] | None, *, complain: Callable[[str], None]
) -> argparse.Namespace:
    """Parse the arguments; ends the process where they are wrong, or ask for no more.

    Args:
        arguments: Those after the command's name; None for the process's own.
        complain: Called with what is wrong.
    """
    return _parser(complain).parse_args(arguments)


class _Parser(argparse.ArgumentParser):
    """Complains as the rest of the command does: in one line, with a known name that is near."""

    complain: Callable[[str], None]

    def error(self, message: str) -> NoReturn:
        wrong = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
        known = [option for action in self._actions for option in action.option_strings]
        if wrong and (near := difflib.get_close_matches(wrong[1], known, n=1)):
            message += f", the nearest is {near[0]}"
        self.complain(message)
        sys.exit(MISTAKEN)


def _parser(complain: Callable[[str], None]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="trio-jobs",
        description="A job server: N workers, each job exactly once, a clean stop.",
        epilog="Options go over TRIO_JOBS_* in the environment, which goes over the file. Commas"
        " separate several addresses.",
        allow_abbrev=False,
    )
    parser.complain = complain
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the configuration (default: config.toml in the current folder, if there)",
    )
    for path, metavar in OPTIONS.items():
        setting = SETTINGS[path]
        text = f"{setting.description}: {setting.values} (default: {_text(setting.default)})"
        parser.add_argument(option(path), dest=path, metavar=metavar, help=text)
    parser.add_argument(
        "--check",
        action="store_true",
        help="load configuration and handlers, print the effective settings, and exit",
    )
    parser.add_argument("--version", action="version", version=f"trio-jobs {version('trio-jobs')}")
    return parser


def _text(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
