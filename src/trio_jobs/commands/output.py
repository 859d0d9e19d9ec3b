"""What a command writes: lines for programs, and texts that no terminal takes for orders."""

import os
import re
import signal
import sys
from typing import Final

from trio_jobs.commands.command_error import CommandError
from trio_jobs.commands.exit_statuses import BROKEN

_CONTROL: Final = re.compile("[\x00-\x1f]")


def write_line(text: str) -> None:
    """Write a line to standard output, as `write_text` does."""
    write_text(f"{text}\n")


def write_text(text: str) -> None:
    """Write to standard output, at once, in UTF-8.

    A closed pipe ends the process as it ends other programs: quietly, by SIGPIPE.

    Raises:
        CommandError: It cannot be written.
    """
    if sys.stdout is None:
        raise CommandError("standard output is closed", BROKEN)
    try:
        sys.stdout.buffer.write(text.encode(errors="replace"))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        _end_quietly()
    except OSError as error:
        raise CommandError(f"standard output cannot be written: {error}", BROKEN) from None


def json_line(raw: bytes) -> str:
    r"""JSON as one line without control characters.

    What is not printable stands as ``\\uXXXX``, which means the same inside of strings. Outside of
    them JSON has no such characters but white space.
    """
    text = _CONTROL.sub(" ", raw.decode(errors="replace").strip())
    # Character by character, a result of megabytes would take seconds.
    for each in set() if text.isprintable() else set(text):
        if not each.isprintable():
            text = text.replace(each, _escaped(each))
    return text


def is_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout is not None and sys.stdout.isatty()


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _end_quietly() -> None:
    # Python has ignored the signal since its start, and would complain of what it cannot flush.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
