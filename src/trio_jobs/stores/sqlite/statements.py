"""The statements that write jobs as rows of the file's tables; one statement writes many rows.

Between two statements the thread that writes has to wait for the interpreter, which the event loop
may hold for milliseconds. Within a statement it does not wait.

The usual records have statements of their own, without parameters that are None. For each None, and
for each bytes object, `sqlite3` looks in vain for an adapter, which takes longer than all else that
a row costs in Python. It looks for none for a bytearray, so blobs are passed as these.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec

from trio_jobs.job import Job, JobStatus, Outcome
from trio_jobs.stores.sqlite.rows import FIXED, MOVED, NO_RESULT, NUMBERS
from trio_jobs.timestamps import microseconds

# The most rows of one statement.
TOGETHER: Final = 64

_PROCESSING: Final = JobStatus.PROCESSING
_SUCCEEDED: Final = Outcome.SUCCEEDED


class Statement:
    """A statement that writes any number of rows, each given by as many values.

    Args:
        one: For one row.
        row: The parameters of a row, in parentheses.
        many: For more rows, up to their parameters.
        rest: The end of ``many``, behind the parameters.
    """

    def __init__(self, one: str, row: str, many: str, rest: str = "") -> None:
        self._width = row.count("?")
        numbers = [2**power for power in range(1, TOGETHER.bit_length())]
        self._texts = {1: one}
        self._texts |= {n: f"{many}{', '.join([row] * n)}{rest}" for n in numbers}

    def execute(self, connection: sqlite3.Connection, values: Sequence[object]) -> None:
        """Write rows.

        Args:
            connection: The one that writes.
            values: Those of all rows, one row after the other.
        """
        first, left = 0, len(values) // self._width
        while left:
            # By powers of two: so SQLite has few statements to prepare, and keeps them.
            rows = min(2 ** (left.bit_length() - 1), TOGETHER)
            after = first + rows * self._width
            connection.execute(self._texts[rows], values[first:after])
            first, left = after, left - rows


def _insert(into: str, row: str) -> Statement:
    insert = f"INSERT {into} VALUES "  # noqa: S608
    return Statement(insert + row, row, insert)


def _update(names: Sequence[str], *constants: str) -> Statement:
    """Update columns of jobs; the values of a row are those of the columns, then its ``seq``."""
    row = f"({', '.join('?' * (len(names) + 1))})"
    one = ", ".join([*constants, *(f"{name} = ?" for name in names)])
    many = ", ".join([*constants, *(f"{name} = column{n}" for n, name in enumerate(names, 1))])
    return Statement(
        f"UPDATE jobs SET {one} WHERE seq = ?",  # noqa: S608
        row,
        f"UPDATE jobs SET {many} FROM (VALUES ",  # noqa: S608
        f") WHERE seq = column{len(names) + 1}",
    )


_ALL: Final = FIXED + MOVED
_COUNTS: Final = ("cancel_requested", "attempts", "interruptions", "snoozes", "size")

# As most jobs come in: pending, and nothing else.
_SUBMITTED: Final = _insert(
    f"INTO jobs(seq, id, type, created_at, status, {', '.join(_COUNTS)})",
    "(?, ?, ?, ?, 0, 0, 0, 0, 0, 0)",
)
_NEW: Final = _insert(f"INTO jobs({', '.join(_ALL)})", f"({', '.join('?' * len(_ALL))})")
_PAYLOAD: Final = _insert("INTO payloads", "(?, ?)")
_NO_END: Final = tuple(
    f"{name} = NULL"
    for name in ("error_type", "error_message", "run_at", "rerun_as", "progress", "lines")
)
_CLAIMED: Final = _update(
    ("started_at", *_COUNTS),
    *("status = 1", "completed_at = NULL", "duration = NULL", "outcome = NULL", *_NO_END),
)
_ENDED_WELL: Final = _update(
    ("started_at", "completed_at", "duration", *_COUNTS),
    *("status = 2", "outcome = 'succeeded'", *_NO_END),
)
# As most jobs end: well, at the first attempt, which nobody has disturbed.
_ENDED_AT_ONCE: Final = _update(
    ("started_at", "completed_at", "duration", "size"),
    *("status = 2", "outcome = 'succeeded'", *_NO_END),
    *("cancel_requested = 0", "attempts = 1", "interruptions = 0", "snoozes = 0"),
)
_MOVED: Final = _update(MOVED)
_RESULT: Final = _insert("OR IGNORE INTO results", "(?, ?)")


class Rows:
    """The rows of one transaction.

    Attributes:
        bytes: Those of the payloads and results.
    """

    def __init__(self) -> None:
        self.bytes = 0
        ends = (_ENDED_AT_ONCE, _ENDED_WELL)
        kinds = (_SUBMITTED, _NEW, _PAYLOAD, _CLAIMED, *ends, _MOVED, _RESULT)
        self._values: dict[Statement, list[object]] = {kind: [] for kind in kinds}

    def add(self, seq: int, job: Job, size: int) -> None:
        """Add the first record of a job.

        Args:
            seq: Its position in the order of admission.
            job: The record.
            size: `Job.size` if it has completed, otherwise 0.
        """
        created_at = microseconds(job.created_at)
        plain = Job(id=job.id, type=job.type, payload=job.payload, created_at=job.created_at)
        if job == plain:
            self._values[_SUBMITTED] += (seq, job.id, job.type, created_at)
        else:
            key = job.key
            self._values[_NEW] += (
                seq,
                job.id,
                job.type,
                created_at,
                None if key is None else key.text,
                None if key is None else bytearray(key.digest),
                job.rerun_of,
                job.submitted_by,
                job.trace,
                *_moved(job, size),
            )
            if job.ending is not None:
                self._add_result(seq, job.ending.result)
        self._values[_PAYLOAD] += (seq, bytearray(job.payload))
        self.bytes += len(job.payload)

    def move(self, seq: int, job: Job, size: int) -> None:
        """Add a later record of a job; see `add`."""
        ending, started_at, extras = job.ending, job.started_at, job.extras
        # Most jobs have no extras: each property of theirs would be a call.
        snoozes = 0 if extras is None else extras.snoozes
        has_left = extras is not None and (extras.progress is not None or extras.lines)
        counts = (int(job.cancel_requested), job.attempts, job.interruptions, snoozes, size)
        if ending is not None:
            self._add_result(seq, ending.result)
        if started_at is None or job.run_at is not None or job.rerun_as is not None or has_left:
            self._values[_MOVED] += (*_moved(job, size), seq)
        elif ending is None and job.last_error is None and job.status is _PROCESSING:
            self._values[_CLAIMED] += (microseconds(started_at), *counts, seq)
        elif (
            ending is not None
            and ending.outcome is _SUCCEEDED
            and job.completed_at is not None
            and job.duration is not None
        ):
            ended_at = microseconds(job.completed_at)
            times = (microseconds(started_at), ended_at, job.duration)
            if counts == (0, 1, 0, 0, size):
                self._values[_ENDED_AT_ONCE] += (*times, size, seq)
            else:
                self._values[_ENDED_WELL] += (*times, *counts, seq)
        else:
            self._values[_MOVED] += (*_moved(job, size), seq)

    def write(self, connection: sqlite3.Connection) -> None:
        """Write them all.

        Raises:
            sqlite3.Error: Some of them may be written.
        """
        for statement, values in self._values.items():
            if values:
                statement.execute(connection, values)

    def _add_result(self, seq: int, result: bytes | None) -> None:
        if result is not None and result != NO_RESULT:
            self._values[_RESULT] += (seq, bytearray(result))
            self.bytes += len(result)


def _moved(job: Job, size: int) -> tuple[object, ...]:
    """The values of `MOVED`."""
    ending = job.ending
    error = job.last_error if ending is None else ending.error
    return (
        NUMBERS[job.status],
        None if job.started_at is None else microseconds(job.started_at),
        None if job.completed_at is None else microseconds(job.completed_at),
        job.duration,
        None if ending is None else ending.outcome.value,
        None if error is None else _text(error.type),
        None if error is None else _text(error.message),
        int(job.cancel_requested),
        job.attempts,
        job.interruptions,
        job.snoozes,
        None if job.run_at is None else microseconds(job.run_at),
        job.rerun_as,
        size,
        None if job.progress is None else _json(job.progress),
        _json(job.lines) if job.lines else None,
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _text(text: str) -> str:
    """The text; a lone surrogate, which the file cannot hold, becomes a question mark."""
    return text if text.isascii() else text.encode(errors="replace").decode()
