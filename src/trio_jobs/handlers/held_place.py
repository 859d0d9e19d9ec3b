"""`HeldPlace`: a task that opens one place for handlers, holds it open, and closes it."""

import logging
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import trio

from trio_jobs.error_groups import without_groups
from trio_jobs.handlers.handler import Run
from trio_jobs.handlers.lifespan import Lifespan

log = logging.getLogger(__name__)


class HeldPlace:
    """One place; `hold` runs in a task of its own.

    Args:
        place: Which one.
        manager: Opens and closes the place, and gives its state.
        lifespan: The lifespan that it enters; None for none.

    Attributes:
        state: What ``manager`` gives; None before.
        not_opened: Why the place has not opened; None if it has.
        faulty: Whether it has failed later, or has not closed in time.
    """

    def __init__(
        self,
        place: Run,
        manager: AbstractAsyncContextManager[object],
        lifespan: Lifespan | None = None,
    ) -> None:
        self.place = place
        self.lifespan = lifespan
        self._manager = manager
        self._scope = trio.CancelScope()
        self._seconds = math.inf
        self._is_open = False
        self.state: object = None
        self.not_opened: BaseException | None = None
        self.faulty = False

    async def hold(
        self,
        closing: trio.Event,
        failed: Callable[[BaseException], object],
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Open the place, hold it open until ``closing`` is set, and close it.

        Args:
            closing: Set when the place closes.
            failed: Called with the error if the open place fails or ends before ``closing`` is set.
            task_status: Started when the place is open, and also when it could not be opened: then
                ``not_opened`` is set, and this function returns.

        Cancellation:
            Acted on while the place opens. An open place closes once ``closing`` is set.
        """
        with self._scope as scope:
            try:
                async with self._manager as self.state:
                    if trio.current_effective_deadline() == -math.inf:
                        # The starter was cancelled meanwhile, and waits until this task has ended.
                        closing.set()
                    self._is_open = scope.shield = True
                    task_status.started()
                    await closing.wait()
                if self._is_open and not closing.is_set():
                    raise RuntimeError("the lifespan has ended by itself")  # noqa: TRY301
            except (trio.Cancelled, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - user code, SystemExit included
                self._note(without_groups(error), closing, failed)
                if not self._is_open:
                    task_status.started()
        if scope.cancelled_caught:
            self.faulty = True
            fields = {"place": str(self.place), "seconds": self._seconds}
            log.error("lifespan_not_closed", extra=fields)

    def limit(self, seconds: float) -> None:
        """Cancel the place if it has not closed in this number of seconds from now."""
        self._seconds = seconds
        self._scope.deadline = trio.current_time() + seconds

    def _note(
        self,
        error: BaseException,
        closing: trio.Event,
        failed: Callable[[BaseException], object],
    ) -> None:
        if not self._is_open:
            self.not_opened = error
            return
        self.faulty = True
        fields = {"place": str(self.place)}
        if closing.is_set():
            log.error("lifespan_close_failed", exc_info=error, extra=fields)
        else:
            log.critical("lifespan_failed", exc_info=error, extra=fields)
            failed(error)
