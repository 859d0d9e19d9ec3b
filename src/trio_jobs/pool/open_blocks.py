"""`OpenBlocks`: blocks of code that one event cancels together, each with an error of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class OpenBlocks:
    """The blocks that are open."""

    def __init__(self) -> None:
        self._scopes: set[trio.CancelScope] = set()

    def __len__(self) -> int:
        return len(self._scopes)

    def cancel(self) -> None:
        """Cancel all of them."""
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def block(self, error: type[Exception], *, cancelled: bool = False) -> Iterator[None]:
        """A block that `cancel` cancels.

        Args:
            error: What the block raises once it was cancelled.
            cancelled: Whether it is cancelled from its beginning.
        """
        with trio.CancelScope() as scope:
            if cancelled:
                scope.cancel()
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.remove(scope)
        if scope.cancelled_caught:
            raise error
