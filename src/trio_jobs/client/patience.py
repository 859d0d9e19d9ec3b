"""`Patience`: for how long, and after which pauses, a client tries again."""

import random
from collections.abc import Callable
from contextlib import suppress

import anyio
import httpx

from trio_jobs.client.client_errors import ServerGoneError
from trio_jobs.client.problem_text import problem_text

# Answers that ask for another try: this client was slow to send; no room; shutting down, paused or
# too busy; the disk. 502 is a proxy's whose server restarts.
TRY_AGAIN = frozenset({408, 429, 502, 503, 504, 507})

# Seconds. A server that stops asks for more than the longest pause, and its successor is often
# there before.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


class Patience:
    """Pauses between the tries of one piece of work, and their end.

    The time counts from the first failure since the last progress: a wait of half a minute that
    ends with the server leaves all of the time for the restart. It is the time of the event loop,
    so a virtual clock rules it.

    Args:
        retry_for: For how many seconds the client tries again; ``inf`` for ever, 0 not at all.
        chance: Returns a number from 0 to 1, for the length of pauses: so a thousand clients of
            one server do not come back at the same moment.
    """

    def __init__(self, retry_for: float, *, chance: Callable[[], float] = random.random) -> None:
        self._retry_for = retry_for
        self._chance = chance
        self._deadline: float | None = None  # set from the first failure on
        self._pause = _FIRST_PAUSE

    def note_progress(self) -> None:
        """The work has got on: a later failure is the first one."""
        self._deadline = None
        self._pause = _FIRST_PAUSE

    async def pause(self, why: httpx.Response | Exception) -> None:
        """Wait until it is time for the next try.

        A pause is what ``Retry-After`` says, or grows from 0.1 s with each failure; it has 5 s at
        the most. The last one ends when the time is over.

        Args:
            why: The answer that asks for another try, its body perhaps not read, or the error.

        Raises:
            ServerGoneError: The time is over.
        """
        now = anyio.current_time()
        if self._deadline is None:
            self._deadline = now + self._retry_for
        if now >= self._deadline:
            raise self._gone(why) from (why if isinstance(why, Exception) else None)
        await anyio.sleep(min(self._next_pause(why), self._deadline - now))

    def _next_pause(self, why: httpx.Response | Exception) -> float:
        if isinstance(why, httpx.Response):
            asked = retry_after(why)
            if asked > 0:
                return min(asked, _LONGEST_PAUSE)
        pause = self._pause * (1 + self._chance()) / 2
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return pause

    def _gone(self, why: httpx.Response | Exception) -> ServerGoneError:
        tried = f"gave up after {self._retry_for:g} s"
        if isinstance(why, Exception):
            return ServerGoneError(f"{tried}: {type(why).__name__}: {why}", why)
        return ServerGoneError(f"{tried}: {why.status_code}: {problem_text(why)}", why.status_code)


def retry_after(answer: httpx.Response) -> float:
    """Seconds until the next try or look by ``Retry-After``; 0 if it says nothing."""
    with suppress(ValueError):  # a proxy may send a date
        return float(answer.headers.get("Retry-After", 0))
    return 0.0
