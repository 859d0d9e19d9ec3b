"""`FetchPosition`: where in the database the next fetch looks for jobs, and whether it need look.

A fetch that begins at the first id would read the dead index entries of all jobs before.
"""

from collections.abc import Sequence
from typing import Final

from trio_jobs.pool.want import Want
from trio_jobs.stores.postgres.round import Batch, OwnedJob

# As numbers, less than all ids, and greater.
_FIRST: Final = 0
_LAST: Final = 2**128


class FetchPosition:
    """After which id the next fetch looks.

    Attributes:
        may_find: Whether there may be jobs to fetch. Without, a round fetches nothing.
    """

    def __init__(self) -> None:
        self.may_find = True
        self._low = _FIRST
        self._lowest_hint = _LAST  # of those since the last round was taken

    @property
    def low(self) -> str:
        """The id after which the next fetch looks, in hexadecimal digits."""
        return f"{self._low:032x}"

    def hint(self, first_id: str | None) -> None:
        """There are jobs that the last fetch has not seen or not wanted.

        Args:
            first_id: The smallest of their ids; None if it is not known.
        """
        self.may_find = True
        before = _FIRST if first_id is None else max(_number(first_id) - 1, _FIRST)
        self._low = min(self._low, before)
        self._lowest_hint = min(self._lowest_hint, before)

    def restart(self) -> None:
        """Look from the first id on: nobody knows what the last fetch has found."""
        self.may_find, self._low = True, _FIRST

    def round_begins(self, want: Want) -> None:
        """A round with this want is taken; later hints are for the next."""
        self._lowest_hint = _LAST
        if want.number:
            self.may_find = False  # until a hint, a full fetch, or a failure

    def round_failed(self, want: Want) -> None:
        """A round with this want had no effect."""
        self.may_find = self.may_find or want.number > 0

    def round_ended(self, batch: Batch, fetched: Sequence[OwnedJob]) -> None:
        """A round is committed, and has fetched these jobs."""
        number = batch.want.number
        if not number:
            return
        if len(fetched) >= number:
            self.may_find = True
        if not _passes_over(batch.want, fetched):
            new = {job.id for each in batch.new for job in each.jobs}
            found = (each.job for each in fetched)
            in_order = (job.id for job in found if job.run_at is None and job.id not in new)
            last = _number(max(in_order, default="0"))
            # This fetch may have missed a job that a hint has announced since it was taken.
            self._low = min(max(self._low, last), self._lowest_hint)


def _number(job_id: str) -> int:
    return int(job_id.replace("-", ""), 16)


def _passes_over(want: Want, fetched: Sequence[OwnedJob]) -> bool:
    """Whether the fetch may have left jobs with smaller ids than those that it has brought.

    `Want.types` does not count: most other types never run here, and a hint announces a type that
    is wanted from now on.
    """
    if want.without or want.limits or not want.suspect:
        return True
    return any(each.job.interruptions for each in fetched)
