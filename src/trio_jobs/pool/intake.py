"""`Intake`: whether new jobs are let in; an operator closes and opens it while the pool runs."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from trio_jobs.pool.open_blocks import OpenBlocks
from trio_jobs.pool.refusals import IntakePausedError


class Intake:
    """The door for new jobs. The jobs that are in go on, and so do retries and held jobs.

    Args:
        changed: Called after each change.

    Attributes:
        is_open: Whether new jobs are let in.
    """

    def __init__(self, changed: Callable[[], object]) -> None:
        self.is_open = True
        self._changed = changed
        self._open_blocks = OpenBlocks()

    def pause(self) -> None:
        """Let no new job in, and cancel the blocks of `cancel_on_pause`. Idempotent."""
        self.is_open = False
        self._changed()
        self._open_blocks.cancel()

    def resume(self) -> None:
        """Let new jobs in. Idempotent."""
        self.is_open = True
        self._changed()

    def cancel_on_pause(self) -> AbstractContextManager[None]:
        """A block that is cancelled when the intake is paused; it is entered also while it is.

        Raises:
            IntakePausedError: The block was cancelled.
        """
        return self._open_blocks.block(IntakePausedError)
