"""`SignIn`: checks the tokens that people sign in with, slowly if they are wrong."""

import logging
from collections.abc import Callable
from math import inf

import trio

from trio_jobs.access import Access
from trio_jobs.problem_details import Problem
from trio_jobs.sessions import Sessions
from trio_jobs.tokens import TokenTable

log = logging.getLogger(__name__)

# Each wrong token takes so many seconds, and only so many are waited for at a time. A right one is
# never refused: a client that sends wrong ones must not keep others from the page. The limit
# would bound no guesses anyway, since any route says of any token in `Authorization` whether it is
# valid; what keeps tokens secret is their length.
FAILURE_SECONDS = 0.3
MAX_FAILURES = 5
# Seconds between two warnings.
_WARNING_INTERVAL = 60.0


class SignIn:
    """The door to the page of a server with tokens.

    Args:
        tokens: Returns the present table.
        sessions: Makes the cookies.
    """

    def __init__(self, tokens: Callable[[], TokenTable | None], sessions: Sessions) -> None:
        self._tokens = tokens
        self.sessions = sessions
        self._failing = 0
        self._warned_at = -inf
        self._left_out = 0

    async def check(self, token: str, *, client: str) -> Access:
        """What this token gives.

        Args:
            token: White space around it does not count.
            client: Its address, for the log.

        Raises:
            Problem: The token is not valid. 401, after a delay; or 429, at once, if too many wrong
                ones are waited for.

        Cancellation:
            Ends the delay.
        """
        tokens = self._tokens()
        access = None if tokens is None else tokens.find(token.strip().encode(errors="replace"))
        if access is not None:
            return access
        self._warn(client)
        if self._failing >= MAX_FAILURES:
            raise Problem(
                429,
                "too many wrong tokens at the same time; try again in 1 s",
                headers={"Retry-After": "1"},
                retry_after=1,
            )
        self._failing += 1
        try:
            await trio.sleep(FAILURE_SECONDS)
        finally:
            self._failing -= 1
        raise Problem(401, "the token is not valid")

    def _warn(self, client: str) -> None:
        """Log the first failure of a minute, with the number of those that had no line."""
        now = trio.current_time()
        if now - self._warned_at < _WARNING_INTERVAL:
            self._left_out += 1
            return
        log.warning("login_failed", extra={"client": client, "left_out": self._left_out})
        self._warned_at, self._left_out = now, 0
