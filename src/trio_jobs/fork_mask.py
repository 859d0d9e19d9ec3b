"""Blocks signals from a fork on until the child has its own signal handlers.

The server uses this, and so do its child processes: nothing heavy is imported.
"""

import os
import signal
import threading
from collections.abc import Callable


class ForkMask:
    """Blocks all signals around each fork of this process.

    Otherwise a signal just after the fork would run the parent's handler in the child, and the
    child would go on.
    """

    def __init__(self, give_up: Callable[[], object]) -> None:
        """``give_up`` is called in each child, in the forking thread, before signals come.

        It is called in the children of children as well.
        """
        self._give_up = give_up
        # By thread, since several threads may fork at the same time.
        self._masks: dict[int, set[int | signal.Signals]] = {}

    def watch(self) -> None:
        """Begin, for the rest of the process's life."""
        os.register_at_fork(
            before=self._block, after_in_parent=self._unblock, after_in_child=self._in_child
        )

    def _block(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._masks[threading.get_ident()] = before

    def _unblock(self) -> None:
        before = self._masks.pop(threading.get_ident())
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _in_child(self) -> None:
        try:
            self._give_up()
        finally:
            self._unblock()
