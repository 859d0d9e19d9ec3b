"""`Screen`: what a run says on standard error."""

import contextlib
import os
from collections.abc import Callable

import trio

from trio_jobs.commands.text_cells import plain

# Seconds between two lines of progress. A terminal shows the newest in place of the one before it.
_TERMINAL_SECONDS = 0.5
_PLAIN_SECONDS = 10.0

# To the line's beginning, and clear the line.
_CLEAR = "\r\x1b[K"


class Screen:
    """Standard error, which is a terminal or not.

    Args:
        quiet: Whether there is no progress.
        fd: Standard error.

    Attributes:
        is_terminal: Whether it is a terminal.
        shows_progress: Whether there is progress.
    """

    def __init__(self, *, quiet: bool, fd: int = 2) -> None:
        self.is_terminal = os.isatty(fd)
        self.shows_progress = not quiet
        self._fd = fd
        self._limiter = trio.CapacityLimiter(1)

    async def show_often(self, line: Callable[[], str]) -> None:
        """Show what ``line`` returns, again and again, until cancelled."""
        if not self.shows_progress:
            return
        seconds = _TERMINAL_SECONDS if self.is_terminal else _PLAIN_SECONDS
        while True:
            await trio.sleep(seconds)
            text = line()
            text = f"{_CLEAR}{text[: self._columns() - 1]}" if self.is_terminal else f"{text}\n"
            # In a thread: a terminal may stop its output (Ctrl-S).
            await trio.to_thread.run_sync(
                self._write, text, abandon_on_cancel=True, limiter=self._limiter
            )

    def say(self, text: str) -> None:
        """Write a line that stays; it may hold a server's text."""
        clear = _CLEAR if self.is_terminal and self.shows_progress else ""
        self._write(f"{clear}{plain(text)}\n")

    def clear(self) -> None:
        """Clear the line of progress."""
        if self.is_terminal and self.shows_progress:
            self._write(_CLEAR)

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._fd).columns or 80
        except OSError:
            return 80

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # closed, or a full disk: the run goes on
            os.write(self._fd, text.encode())
