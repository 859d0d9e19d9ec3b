"""`ServerRequests`: requests to one server, each made again until it is answered."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

import httpx

from trio_jobs.client.client_errors import RefusedError
from trio_jobs.client.patience import TRY_AGAIN, Patience
from trio_jobs.client.problem_text import problem_text

# Seconds after which a server that has nothing else to say in an answer sends a blank line.
_LONGEST_SILENCE = 15


class ServerRequests:
    """Makes requests to a server.

    Args:
        http: Makes them.
        url: Of the server.
        token: For it; empty for none.
        retry_for: For how many seconds a request is made again, from its first failure on.
    """

    def __init__(self, http: httpx.AsyncClient, *, url: str, token: str, retry_for: float) -> None:
        self._http = http
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._retry_for = retry_for

    async def ask(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        wait: float = 0.0,
    ) -> httpx.Response:
        """Make a request, again and again until the server answers it.

        Args:
            method: The method.
            path: Below the server's URL.
            content: The body.
            headers: Beside the token's.
            wait: For how many seconds the server may let it wait.

        Returns:
            A successful answer.

        Raises:
            RefusedError: The answer is an error, and another try would get it again.
            ServerGoneError: See there.
        """
        patience = self.make_patience()
        why: httpx.Response | httpx.RequestError
        while True:
            try:
                why = answer = await self._http.request(
                    method,
                    f"{self._url}{path}",
                    content=content,
                    headers={**self._headers, **(headers or {})},
                    timeout=_longer(self._http.timeout, wait),
                )
            except httpx.UnsupportedProtocol:
                raise
            except httpx.RequestError as error:  # also an answer that cannot be decompressed
                why = error
            else:
                if answer.is_success:
                    return answer
                if answer.status_code not in TRY_AGAIN:
                    raise RefusedError(answer.status_code, problem_text(answer))
            await patience.pause(why)

    def open_pipe(
        self, body: bytes, *, window: int | None
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Send lines to the pipe; see `OpenPipe`."""
        query = "" if window is None else f"?window={window}"
        return self._http.stream(
            "POST",
            f"{self._url}/jobs/pipe{query}",
            content=body,
            headers={**self._headers, "Content-Type": "application/x-ndjson"},
            timeout=_longer(self._http.timeout, _LONGEST_SILENCE),
        )

    def make_patience(self) -> Patience:
        """The patience of one piece of work."""
        return Patience(self._retry_for)


def _longer(timeout: httpx.Timeout, seconds: float) -> httpx.Timeout:
    """The limits of a request that the server may let wait for so many seconds."""
    read = None if timeout.read is None else timeout.read + seconds
    return httpx.Timeout(connect=timeout.connect, read=read, write=timeout.write, pool=timeout.pool)
