"""The places in the buffer as they come free: how fast they do, and waking who waits for one."""

import math
from collections import deque

import trio

# How many claims the drain rate is measured over: enough to even out single
# jobs, few enough to follow a change within seconds.
_MEASURED_CLAIMS = 64

# Seconds. Clients should look again within a minute, and claims from before
# that say nothing: after an idle night their rate would be one an hour, and a
# burst that the pool gets through in a second would be told to wait.
_LONGEST_RETRY_AFTER = 60


class Capacity:
    """Told of each claim and each completion; knows nothing of the channel itself.

    Attributes:
        turn: Held by the one who waits for room; the others are behind, in
            the order in which they came. Workers have nothing to do with it.
    """

    def __init__(self) -> None:
        self.turn = trio.StrictFIFOLock()
        # A look at this one costs half of `trio.current_time()`, which has to find it.
        self._clock = trio.lowlevel.current_clock()
        self._claims: deque[float] = deque(maxlen=_MEASURED_CLAIMS)
        # Made when somebody begins to wait: a claim while nobody does costs nothing for it.
        self._change: trio.Event | None = None

    def slot_freed(self) -> None:
        """Note a claim, made now: the place of the job has come free. A hook of the store's."""
        self._claims.append(self._clock.current_time())
        if self._change is not None:
            self._wake(self._change)

    def note_completion(self) -> None:
        """Note that a worker will be looking for its next job, and finding none makes room too."""
        if self._change is not None:
            self._wake(self._change)

    def note_close(self) -> None:
        """Note that there will be no room any more: who waits for it shall look again."""
        if self._change is not None:
            self._wake(self._change)

    async def wait_change(self) -> None:
        """Wait until there may be more room than there was.

        Checkpoints:
            Always.
        """
        if self._change is None:
            self._change = trio.Event()
        await self._change.wait()

    def retry_after(self, places: int = 1) -> int:
        """Whole seconds until ``places`` are likely to come free; from 1 to 60."""
        if not self._claims:
            return 1
        now = trio.current_time()
        # One always stays: if even the last is old, nothing has moved since.
        while len(self._claims) > 1 and self._claims[0] < now - _LONGEST_RETRY_AFTER:
            self._claims.popleft()
        seconds_per_claim = (now - self._claims[0]) / len(self._claims)
        return min(max(math.ceil(places * seconds_per_claim), 1), _LONGEST_RETRY_AFTER)

    def _wake(self, change: trio.Event) -> None:
        change.set()
        self._change = None
