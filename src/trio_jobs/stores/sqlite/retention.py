"""`Retention`: drops the oldest completed jobs of a file that has more than its bounds allow.

The bounds are those of `trio_jobs.stores.history`. Among the jobs that succeeded the oldest is the
one that was admitted first, among the others the one that ended first: each is found by an index.
"""

import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from trio_jobs.job import Outcome
from trio_jobs.settings import StoreSettings
from trio_jobs.timestamps import microseconds

# Jobs to look at in one go: a few milliseconds' work.
_AT_ONCE: Final = 1_000

# Seconds between two searches for jobs that are too old.
_BETWEEN_SEARCHES: Final = 60.0

# On Python 3.11 looking up an enum's member costs as much as a call.
_WELL: Final = Outcome.SUCCEEDED
_SUCCEEDED: Final = _WELL.value
_OUTCOMES: Final = {outcome.value: outcome for outcome in Outcome}

# In one row: each further row would cost another wait for the interpreter.
_OLDEST_SUCCEEDED: Final = (
    "SELECT group_concat(seq), group_concat(size) FROM (SELECT seq, size FROM jobs WHERE seq > ? "
    "AND status = 2 AND outcome = 'succeeded' ORDER BY seq LIMIT ?)"
)
_OLDEST_OTHERS: Final = (
    "SELECT seq, outcome, size FROM jobs "
    "WHERE status = 2 AND outcome <> 'succeeded' ORDER BY completed_at, seq LIMIT ?"
)
_FIRST_ADMITTED: Final = (
    "SELECT seq, outcome, size, created_at, completed_at FROM jobs WHERE seq > ? "
    "ORDER BY seq LIMIT ?"
)


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The completed jobs that the file holds: those that succeeded, the others, their bytes."""

    succeeded: int = 0
    succeeded_bytes: int = 0
    others: int = 0
    others_bytes: int = 0

    @property
    def jobs(self) -> int:
        """The number of jobs."""
        return self.succeeded + self.others

    @property
    def bytes(self) -> int:
        """The bytes of the jobs (`Job.size`)."""
        return self.succeeded_bytes + self.others_bytes

    def changed(self, outcome: str, size: int, by: int) -> "Kept":
        """The same with a job more (``by`` is 1) or less (-1)."""
        if outcome == _SUCCEEDED:
            return msgspec.structs.replace(
                self,
                succeeded=self.succeeded + by,
                succeeded_bytes=self.succeeded_bytes + by * size,
            )
        return msgspec.structs.replace(
            self, others=self.others + by, others_bytes=self.others_bytes + by * size
        )


def count_kept(connection: sqlite3.Connection) -> Kept:
    """Count the completed jobs; takes a third of a second for a million of them."""
    kept = Kept()
    for succeeded, count, size in connection.execute(
        "SELECT outcome = 'succeeded', count(*), sum(size) FROM jobs WHERE status = 2 GROUP BY 1"
    ):
        if succeeded:
            kept = msgspec.structs.replace(kept, succeeded=count, succeeded_bytes=size)
        else:
            kept = msgspec.structs.replace(kept, others=count, others_bytes=size)
    return kept


class _Tally:
    """What the file will hold once a transaction is on the disk.

    Attributes:
        jobs: The number of the jobs that did not succeed (0), and of those that did (1).
        bytes: Their bytes.
    """

    __slots__ = ("bytes", "jobs")

    def __init__(self, kept: Kept) -> None:
        self.jobs = [kept.others, kept.succeeded]
        self.bytes = [kept.others_bytes, kept.succeeded_bytes]

    def change(self, jobs: int, size: int, *, succeeded: bool) -> None:
        """Count so many jobs and bytes more, or less if they are negative."""
        self.jobs[succeeded] += jobs
        self.bytes[succeeded] += size

    def kept(self) -> Kept:
        """The same, unchangeable."""
        return Kept(
            succeeded=self.jobs[True],
            succeeded_bytes=self.bytes[True],
            others=self.jobs[False],
            others_bytes=self.bytes[False],
        )


class Retention:
    """Drops jobs within the transactions of the thread that writes.

    Args:
        settings: The bounds.
        kept: What the file holds.
        now: The wall clock, as an aware UTC time.
        keep_for: Seconds from its end on for which a job is kept; None: for ever.

    Attributes:
        kept: What the file holds since the last commit.
    """

    def __init__(
        self,
        settings: StoreSettings,
        *,
        kept: Kept,
        now: Callable[[], datetime],
        keep_for: float | None = None,
    ) -> None:
        self.kept = kept
        self._settings = settings
        self._now = now
        self._keep_for = None if keep_for is None else timedelta(seconds=keep_for)
        self._next_search = float("-inf")
        # Of the transaction: what the file will hold, and what it will have dropped.
        self._tally = _Tally(kept)
        self._dropped = dict.fromkeys(Outcome, 0)
        # Up to these seqs, no job that had ended when they were set can be dropped.
        self._succeeded_after = 0
        self._searched_to = 0

    @property
    def seconds_to_next(self) -> float | None:
        """After which time there may be something to drop; None: not before another job ends."""
        if self._excess(_Tally(self.kept)) is not None:
            return 0.0
        if self._keep_for is None:
            return None
        return max(0.0, self._next_search - time.monotonic())

    def begin(self) -> None:
        """A transaction begins; one that failed has changed nothing."""
        self._tally = _Tally(self.kept)
        self._dropped = dict.fromkeys(Outcome, 0)

    def commit(self) -> dict[Outcome, int]:
        """The transaction is on the disk; return how many jobs it has dropped, by outcome."""
        self.kept = self._tally.kept()
        return self._dropped

    def add(self, outcome: Outcome, size: int) -> None:
        """The transaction ends a job; ``size`` is `Job.size`."""
        self._tally.change(1, size, succeeded=outcome is _WELL)

    def forget(self, connection: sqlite3.Connection, seqs: Sequence[int]) -> None:
        """Delete jobs for a client."""
        for seq in seqs:
            row = connection.execute(
                "SELECT outcome, size FROM jobs WHERE seq = ? AND status = 2", (seq,)
            ).fetchone()
            if row is not None:
                outcome, size = row
                self._tally.change(-1, -size, succeeded=outcome == _SUCCEEDED)
        delete(connection, seqs)

    def drop(self, connection: sqlite3.Connection, at_most: int) -> None:
        """Delete jobs beyond the bounds, and then those that are too old.

        Args:
            connection: The one that writes, in a transaction.
            at_most: How many jobs to delete, and to look at, about.
        """
        tally = self._tally
        while at_most > 0 and (succeeded := self._excess(tally)) is not None:
            rows = self._oldest(connection, min(at_most, _AT_ONCE), succeeded=succeeded)
            if not rows:  # somebody else has deleted some
                self._tally = tally = _Tally(count_kept(connection))
                continue
            if succeeded and tally.jobs[True] - len(rows) >= self._settings.keep_completed:
                # The usual case: all of these have to go, whatever their sizes.
                chosen = [seq for seq, _, _ in rows]
                size = sum([size for _, _, size in rows])
                tally.change(-len(rows), -size, succeeded=True)
                self._dropped[_WELL] += len(rows)
            else:
                chosen = []
                for seq, outcome, size in rows:
                    chosen.append(seq)
                    self._note_drop(outcome, size)
                    if self._excess(tally) is not succeeded:
                        break
            delete(connection, chosen)
            at_most -= len(chosen)
        if self._keep_for is not None and at_most > 0 and time.monotonic() >= self._next_search:
            self._drop_old(connection, microseconds(self._now() - self._keep_for), at_most)

    def _excess(self, tally: _Tally) -> bool | None:
        """Whether a job that succeeded has to go (True), or another (False); None: neither."""
        settings, (others_bytes, succeeded_bytes) = self._settings, tally.bytes
        if tally.jobs[True] > settings.keep_completed + settings.spare:
            return True
        if tally.jobs[False] > settings.keep_failed:
            return False
        if others_bytes + succeeded_bytes > settings.keep_completed_bytes:
            # Successes beyond their own number go before any job without success.
            return succeeded_bytes >= others_bytes or tally.jobs[True] > settings.keep_completed
        return None

    def _oldest(
        self, connection: sqlite3.Connection, limit: int, *, succeeded: bool
    ) -> list[tuple[int, str, int]]:
        bound = self._settings.keep_completed if succeeded else self._settings.keep_failed
        if (surplus := self._tally.jobs[succeeded] - bound) > 0:
            limit = min(limit, surplus)
        if not succeeded:
            return connection.execute(_OLDEST_OTHERS, (limit,)).fetchall()
        after = self._succeeded_after
        rows = _oldest_succeeded(connection, after, limit)
        if not rows and after:  # those that are left were admitted earlier, and have ended later
            rows = _oldest_succeeded(connection, 0, limit)
        self._succeeded_after = rows[0][0] - 1 if rows else 0
        return rows

    def _drop_old(self, connection: sqlite3.Connection, limit: int, at_most: int) -> None:
        rows = connection.execute(_FIRST_ADMITTED, (self._searched_to, at_most)).fetchall()
        old, finished = [], len(rows) < at_most
        for row in rows:
            seq, created_at, completed_at = row[0], row[3], row[4]
            if created_at > limit:  # and so are all after it
                finished = True
                break
            self._searched_to = seq
            if completed_at is not None and completed_at <= limit:
                old.append(seq)
                self._note_drop(row[1], row[2])
        delete(connection, old)
        if finished:
            self._searched_to = 0
            assert self._keep_for is not None  # noqa: S101  (for the type checker)
            between = min(_BETWEEN_SEARCHES, self._keep_for.total_seconds() / 10)
            self._next_search = time.monotonic() + between

    def _note_drop(self, outcome: str, size: int) -> None:
        self._tally.change(-1, -size, succeeded=outcome == _SUCCEEDED)
        self._dropped[_OUTCOMES[outcome]] += 1


def _oldest_succeeded(
    connection: sqlite3.Connection, after: int, limit: int
) -> list[tuple[int, str, int]]:
    seqs, sizes = connection.execute(_OLDEST_SUCCEEDED, (after, limit)).fetchone()
    if seqs is None:
        return []
    pairs = zip(map(int, seqs.split(",")), map(int, sizes.split(",")), strict=True)
    return [(seq, _SUCCEEDED, size) for seq, size in sorted(pairs)]


def delete(connection: sqlite3.Connection, seqs: Sequence[int]) -> None:
    """Delete jobs with their payloads and results; no seq occurs twice."""
    for first in range(0, len(seqs), _AT_ONCE):
        some = sorted(seqs[first : first + _AT_ONCE])
        if some[-1] - some[0] == len(some) - 1:
            # Most jobs end in the order of their admission. SQLite makes no table of a range.
            which, some = "BETWEEN ? AND ?", [some[0], some[-1]]
        else:
            # Repeated up to a power of two, so that there are few statements to prepare.
            some += some[-1:] * (2 ** (len(some) - 1).bit_length() - len(some))
            which = f"IN ({', '.join('?' * len(some))})"
        for table in ("jobs", "payloads", "results"):
            connection.execute(f"DELETE FROM {table} WHERE seq {which}", some)  # noqa: S608
