"""`trio-jobs top`: shows on a terminal what the pool does, as it changes."""

from argparse import ArgumentParser, Namespace
from datetime import datetime
from typing import Final

import msgspec

from trio_jobs.commands.command_error import CommandError
from trio_jobs.commands.event_feed import follow
from trio_jobs.commands.exit_statuses import MISTAKEN, OK
from trio_jobs.commands.output import is_terminal, write_text
from trio_jobs.commands.seen_job import read_as
from trio_jobs.commands.server_calls import open_calls
from trio_jobs.commands.server_option import add_server_options
from trio_jobs.commands.text_cells import fit, plain, table, terminal_size

_HEAD: Final = ("TYPE", "RUNNING", "PENDING", "DONE/S", "FAILED", "P50", "P95")
_NUMBERS: Final = frozenset(range(1, len(_HEAD)))


# Orders to the terminal: to the corner; clear the rest of a line, and of the screen.
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


class TypeNumbers(msgspec.Struct, frozen=True):
    """The numbers of a type, as the server has counted them."""

    pending: int = 0
    processing: int = 0
    outcomes: dict[str, int] = msgspec.field(default_factory=dict)
    run_p50_seconds: float | None = None
    run_p95_seconds: float | None = None

    @property
    def done(self) -> int:
        """Completed jobs."""
        return sum(self.outcomes.values())

    @property
    def failed(self) -> int:
        """Completed jobs that did not succeed, and that nobody has cancelled."""
        return self.done - self.outcomes.get("succeeded", 0) - self.outcomes.get("cancelled", 0)


class PoolState(msgspec.Struct, frozen=True):
    """What an event says of the pool."""

    status: str
    now: datetime
    boot: str = ""
    intake: str = ""
    paused: list[str] = msgspec.field(default_factory=list)
    workers: int = 0
    busy: int = 0
    buffered: int = 0
    buffer_size: int = 0
    pending: int = 0
    waiting: int = 0
    held: int = 0
    types: dict[str, TypeNumbers] | None = None


class Picture:
    """What the terminal shows: the last state, and rates between two states with numbers.

    Args:
        title: Its first words.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._state: PoolState | None = None
        self._counted: PoolState | None = None
        self._rates: dict[str, float] = {}
        self.trouble = ""

    def take(self, state: PoolState) -> None:
        """Show this state from now on."""
        self.trouble = ""
        self._state = state
        if state.types is None:
            return
        before, self._counted = self._counted, state
        self._rates = {}
        if before is None or before.types is None or before.boot != state.boot:
            return
        seconds = (state.now - before.now).total_seconds()
        if seconds > 0:
            none = TypeNumbers()
            self._rates = {
                name: (each.done - before.types.get(name, none).done) / seconds
                for name, each in state.types.items()
            }

    def lines(self, *, columns: int, rows: int) -> list[str]:
        """The lines for a terminal of this size."""
        lines = [*self._summary(), "", *self._table(columns)]
        return [fit(line, columns).rstrip() for line in lines[: max(rows - 1, 1)]]

    def _summary(self) -> list[str]:
        state = self._state
        if state is None:
            return [self._title, self.trouble]
        words = [self._title, state.status, f"intake {state.intake}"]
        if state.paused:
            words.append(f"paused {', '.join(state.paused)}")
        words.append(state.now.strftime("%H:%M:%S"))
        numbers = (
            f"workers {state.busy} of {state.workers}   buffer {state.buffered} of"
            f" {state.buffer_size}   pending {state.pending}   waiting {state.waiting}   held"
            f" {state.held}   done/s {sum(self._rates.values()):.1f}"
        )
        return [plain("   ".join(words)), self.trouble or numbers]

    def _table(self, columns: int) -> list[str]:
        if self._counted is None or self._counted.types is None:
            return []
        types = sorted(
            self._counted.types.items(),
            key=lambda each: (-each[1].processing, -each[1].pending, each[0]),
        )
        rows = [
            (
                fit(plain(name), min(len(name), 40)),
                str(each.processing),
                str(each.pending),
                f"{self._rates.get(name, 0):.1f}",
                str(each.failed),
                _seconds(each.run_p50_seconds),
                _seconds(each.run_p95_seconds),
            )
            for name, each in types
        ]
        return table([_HEAD, *rows], width=columns, right=_NUMBERS)


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_server_options(parser)


def run(options: Namespace) -> int:
    """Show the pool until Ctrl-C."""
    if not is_terminal():
        raise CommandError("top needs a terminal; status and tail write for programs", MISTAKEN)
    with open_calls(options) as calls:
        picture = Picture(f"trio-jobs at {calls.server}")

        def show_trouble(text: str) -> None:
            picture.trouble = plain(text)
            _draw(picture)

        for event in follow(calls, [], tell=show_trouble):
            if event.name == "state":
                picture.take(read_state(event.data))
                _draw(picture)
    return OK


def read_state(data: bytes) -> PoolState:
    """The state in the data of an event.

    Raises:
        CommandError: It has none.
    """
    return read_as(PoolState, data, "the event has no state")


def _draw(picture: Picture) -> None:
    size = terminal_size()
    lines = picture.lines(columns=size.columns, rows=size.lines)
    shown = "".join(f"{line}{_CLEAR_LINE}\r\n" for line in lines)
    write_text(f"{_HOME}{shown}{_CLEAR_BELOW}")


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"
