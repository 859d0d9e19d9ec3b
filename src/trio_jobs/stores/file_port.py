"""What `DurableStore` needs of its file: a journal that writes it, and a reader."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from trio_jobs.job import Job, Outcome
from trio_jobs.pool.job_query import JobQuery
from trio_jobs.stores.sqlite.retention import Kept

# A job's seq, which is its position in the order of admission, and its record.
Stored = tuple[int, Job]


class JournalPort(Protocol):
    """Writes records in the order in which it is given them; see `stores.sqlite.journal`."""

    @property
    def failing(self) -> tuple[float, str] | None:
        """Since when nothing can be written, and why; None if the last commit succeeded."""

    @property
    def kept(self) -> Kept:
        """The completed jobs in the file."""

    @property
    def dropped(self) -> Mapping[Outcome, int]:
        """How many completed jobs were dropped, by outcome."""

    @property
    def unwritten(self) -> int:
        """How many records are not on the disk."""

    @property
    def oldest_unwritten_seconds(self) -> float:
        """How long ago the oldest record was handed over that is not on the disk; or 0."""

    def append(
        self,
        records: Sequence[tuple[int, Job | None]],
        *,
        landed: Callable[[], None],
        refused: Callable[[Exception], None] | None = None,
        mark: tuple[str, str] | None = None,
    ) -> None:
        """Hand over records; ``landed`` is called in the loop when they are on the disk.

        Without ``refused`` they are written as soon as it is possible. With it they may be
        refused: it is called instead, and nothing of them is kept. ``mark`` is a name and its text.
        """

    def meanwhile(self, call: Callable[[], None]) -> None:
        """Call a function in the loop, at once or when that does not hold up the next commit.

        To be called by a ``landed``.
        """

    async def settled(self) -> None:
        """Wait until all records that were handed over are on the disk, or refused."""


class ReaderPort(Protocol):
    """Reads the file, never in the event loop's thread; see `stores.sqlite.reads`."""

    async def find_many(self, job_ids: Sequence[str]) -> list[Stored]:
        """The records with these ids, in any order; one read for all."""

    async def find_keys(self, texts: Collection[str]) -> list[Job]:
        """The jobs with these idempotency keys."""

    async def page(self, query: JobQuery, *, after: str | None, limit: int) -> list[Job]:
        """See `Store.page`."""

    async def count(self, query: JobQuery) -> tuple[Mapping[tuple[str, Outcome], int], list[Job]]:
        """See `DurableStore.count`."""
