"""`Bell`: one task waits for others to say that something has changed."""

import anyio


class Bell:
    """Wakes the one task that waits; a ring that nobody waits for counts for the next wait."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None
        self._rung = False

    def ring(self) -> None:
        """Wake the task; it looks for itself what has changed."""
        self._rung = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Wait for a ring since the last wait."""
        if not self._rung:
            self._event = anyio.Event()
            try:
                await self._event.wait()
            finally:
                self._event = None
        else:
            await anyio.lowlevel.checkpoint()
        self._rung = False
