"""`Intake`: whether new jobs are let in; an operator closes and opens it while the pool runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

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
        self._open_blocks: set[trio.CancelScope] = set()

    def pause(self) -> None:
        """Let no new job in, and cancel the blocks of `cancel_on_pause`. Idempotent."""
        self.is_open = False
        self._changed()
        for scope in self._open_blocks:
            scope.cancel()

    def resume(self) -> None:
        """Let new jobs in. Idempotent."""
        self.is_open = True
        self._changed()

    @contextmanager
    def cancel_on_pause(self) -> Iterator[None]:
        """A block that is cancelled when the intake is paused; it is entered also while it is.

        Raises:
            IntakePausedError: The block was cancelled.
        """
        with trio.CancelScope() as scope:
            self._open_blocks.add(scope)
            try:
                yield
            finally:
                self._open_blocks.remove(scope)
        if scope.cancelled_caught:
            raise IntakePausedError
