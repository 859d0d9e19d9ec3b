"""`ChildLifespan`: the lifespan of a child process, around all of its jobs."""

import logging
from typing import TYPE_CHECKING

from trio_jobs.handlers.importing import HandlerError, load_function
from trio_jobs.handlers.lifespan import Lifespan
from trio_jobs.handlers.opening_errors import LifespanError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

log = logging.getLogger(__name__)


class ChildLifespan:
    """A lifespan that a child enters when it has imported its modules.

    Attributes:
        state: What the lifespan yields; None before.
    """

    def __init__(self) -> None:
        self._lifespan: Lifespan | None = None
        self._manager: AbstractContextManager[object] | None = None
        self.state: object = None

    def load(self, name: str) -> None:
        """Import the function.

        Raises:
            LifespanError: It cannot be imported, or is no lifespan.
        """
        try:
            self._lifespan = Lifespan.of(load_function(name), key="process", name=name)
        except HandlerError as error:
            raise LifespanError(f"lifespan.process = {name!r}: {error}") from error

    def enter(self) -> None:
        """Open what the jobs share.

        Raises:
            LifespanError: The function, or the context manager, has raised.
        """
        if self._lifespan is not None:
            with self._lifespan.opening():
                manager = self._lifespan.make_plain()
                self.state = manager.__enter__()
            self._manager = manager

    def leave(self) -> None:
        """Close it; the server waits a bounded time for that. What fails is logged."""
        if self._manager is None:
            return
        try:
            self._manager.__exit__(None, None, None)
        except BaseException:  # noqa: ASYNC103 - user code, at the end of the process
            log.exception("lifespan_close_failed", extra={"place": "process"})
