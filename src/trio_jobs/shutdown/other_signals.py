"""`OtherSignals`: how the server reacts to signals that do not stop it: it reloads, or warns."""

import contextlib
import contextvars
import logging
import signal

import trio

from trio_jobs.shutdown.signals import RELOADING

log = logging.getLogger(__name__)


class OtherSignals:
    """Remembers a requested reload until a task takes it up; warns of signals without effect."""

    def __init__(self) -> None:
        # A signal handler or the signals' thread sets it, `wait_reload` clears it.
        self._wanted = False
        # Made by `wait_reload`. Only the event loop sets the event.
        self._token: trio.lowlevel.TrioToken | None = None
        self._arrived = trio.Event()
        self._warned: set[int] = set()

    def handle(self, signum: int) -> None:
        """Note a signal. Safe in a signal handler, and in any thread."""
        if signum == RELOADING:
            self._wanted = True
            if self._token is not None:
                with contextlib.suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(lambda: self._arrived.set())
        elif signum not in self._warned:  # one line for each number: a program may send a thousand
            self._warned.add(signum)
            # A signal handler runs in the context of the task that it interrupts; the line is not
            # about that task's job.
            fields = {"signal": signal.Signals(signum).name}
            contextvars.Context().run(lambda: log.warning("signal_ignored", extra=fields))

    async def wait_reload(self) -> None:
        """Wait for a signal that asks for a reload.

        All signals since the last return count as one, also those that arrived before the event
        loop ran. Only one task may wait.
        """
        self._token = trio.lowlevel.current_trio_token()
        while not self._wanted:
            self._arrived = trio.Event()
            await self._arrived.wait()
        self._wanted = False
