"""Requests of a command to its server: each answer, or one line that says why there is none."""

import contextlib
import random
import re
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from trio_jobs.commands.command_error import CommandError
from trio_jobs.commands.exit_statuses import BROKEN, MISTAKEN, TRY_AGAIN, UNKNOWN, UNSUCCESSFUL
from trio_jobs.commands.server_option import Server, find_server

if TYPE_CHECKING:
    import httpx

# Seconds: for a connection, and for an answer beyond the time that the server is asked to wait.
CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 30.0

# Seconds without progress after which a server that was there counts as gone.
PATIENCE_SECONDS: Final = 60.0
_LONGEST_PAUSE: Final = 5.0

# By the status of a refusal; any other one is a mistake in what was asked for.
_STATUS_OF: Final[Mapping[int, int]] = {
    404: UNKNOWN,
    409: UNSUCCESSFUL,
    429: TRY_AGAIN,
    503: TRY_AGAIN,
    504: TRY_AGAIN,
    507: TRY_AGAIN,
}

Parameters = Sequence[tuple[str, str | int]]


class GoneError(CommandError):
    """The server gives no answer.

    Attributes:
        is_known: Whether it has been there before: then the request may have reached it.
    """

    def __init__(self, text: str, *, is_known: bool) -> None:
        super().__init__(text, BROKEN)
        self.is_known = is_known


class RefusedError(CommandError):
    """The server refuses the request; the text is its reason.

    Attributes:
        http_status: The answer's.
        retry_after: Seconds until the server wants to be asked again; None if it does not say.
    """

    def __init__(self, text: str, *, http_status: int, retry_after: float | None) -> None:
        status = BROKEN if http_status == 500 else _STATUS_OF.get(http_status, MISTAKEN)
        super().__init__(text, status)
        self.http_status = http_status
        self.retry_after = retry_after


class Calls:
    """Asks one server.

    Args:
        server: The server.
        http: A client for it.
    """

    def __init__(self, server: Server, http: "httpx.Client") -> None:
        self._server = server
        self._http = http
        self._is_known = False

    def ask(
        self,
        method: str,
        path: str,
        *,
        parameters: Parameters = (),
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        wait: float = 0.0,
    ) -> "httpx.Response":
        """The answer to one request, read to its end; a success.

        Args:
            method: The request's method.
            path: Its path, from ``/jobs`` on.
            parameters: Its query.
            content: Its body, JSON.
            headers: Further headers.
            wait: Seconds that the server may let the client wait for the answer.

        Raises:
            GoneError: There is no answer.
            RefusedError: It is a refusal.
            CommandError: It is not one of this server's.
        """
        import httpx

        try:
            answer = self._http.request(
                method,
                self._server.url + path,
                params=list(parameters),
                content=content,
                headers=headers,
                timeout=httpx.Timeout(ANSWER_SECONDS + wait, connect=CONNECT_SECONDS),
            )
        except httpx.HTTPError as error:
            raise self._gone(error) from None
        self._is_known = True
        check_answer(answer, self._server)
        return answer

    @contextlib.contextmanager
    def stream(
        self, path: str, *, parameters: Parameters, headers: Mapping[str, str], silence: float
    ) -> Iterator["httpx.Response"]:
        """The answer to a GET that goes on; a success.

        Args:
            path: As for `ask`, like the others.
            parameters: See there.
            headers: See there.
            silence: Seconds without a byte after which the server counts as gone.

        Raises:
            GoneError: There is no answer, or it breaks off.
            RefusedError: It is a refusal.
            CommandError: It is not one of this server's.
        """
        import httpx

        timeout = httpx.Timeout(silence, connect=CONNECT_SECONDS)
        try:
            with self._http.stream(
                "GET",
                self._server.url + path,
                params=list(parameters),
                headers=headers,
                timeout=timeout,
            ) as answer:
                self._is_known = True
                if not answer.is_success:
                    answer.read()
                check_answer(answer, self._server, content_type="text/event-stream")
                yield answer
        except httpx.HTTPError as error:
            raise self._gone(error) from None

    def _gone(self, error: Exception) -> GoneError:
        import httpx

        is_new = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError)
        is_known = self._is_known or not is_new
        what = "cannot be reached" if is_new else "broke off"
        reason = str(error) or type(error).__name__
        return GoneError(f"{self._server} {what}: {reason}", is_known=is_known)


class Patience:
    """Pauses between repetitions of a request, until there was no progress for too long.

    Args:
        seconds: How long.
    """

    def __init__(self, seconds: float = PATIENCE_SECONDS) -> None:
        self._seconds = seconds
        self._pause = 0.1
        self._end: float | None = None

    def note_progress(self) -> None:
        """The server has answered."""
        self._pause = 0.1
        self._end = None

    def pause(self, error: "GoneError | RefusedError") -> None:
        """Wait before the next try: as long as the server asks for, but at most five seconds.

        Args:
            error: Why the last try was in vain.

        Raises:
            CommandError: The same, since there is no time left.
        """
        now = time.monotonic()
        if self._end is None:
            self._end = now + self._seconds
        if now >= self._end:
            raise error
        seconds = error.retry_after if isinstance(error, RefusedError) else None
        if seconds is None:
            # Clients that a restart has cut off come back at different times.
            seconds = self._pause * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        time.sleep(min(seconds, _LONGEST_PAUSE))

    def wait_after(self, answer: "httpx.Response") -> None:
        """Wait as long as an answer asks for, but at most five seconds."""
        time.sleep(min(_retry_after(answer) or 1.0, _LONGEST_PAUSE))


@contextlib.contextmanager
def open_calls(options: Namespace) -> Iterator[Calls]:
    """Requests to the server that the options of `add_server_options` name.

    Raises:
        CommandError: There is no HTTP client, or the options are wrong.
    """
    server = find_server(options)
    try:
        import httpx
    except ImportError:
        text = "this command needs an HTTP client: pip install 'trio-jobs[client]'"
        raise CommandError(text, MISTAKEN) from None
    headers = {"User-Agent": "trio-jobs"}
    if server.token is not None:
        headers["Authorization"] = f"Bearer {server.token}"
    transport = None if server.socket is None else httpx.HTTPTransport(uds=server.socket)
    with httpx.Client(headers=headers, transport=transport, trust_env=not server.is_local) as http:
        yield Calls(server, http)


def check_answer(
    answer: "httpx.Response", server: Server, *, content_type: str = "application/json"
) -> None:
    """Check that an answer is a success.

    Args:
        answer: The answer; if it is no success, it has been read.
        server: Who has given it.
        content_type: What a success is.

    Raises:
        RefusedError: It is a refusal.
        CommandError: It is neither.
    """
    found = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    status = answer.status_code
    if answer.is_success and (found == content_type or status == 204):
        return
    detail = _detail(answer) if found == "application/problem+json" else None
    if detail is None:
        what = f"status {status} and {found or 'no content type'}"
        text = f"{server} answers with {what}: it is no trio-jobs server"
        raise CommandError(text, BROKEN)
    raise RefusedError(detail, http_status=status, retry_after=_retry_after(answer))


def _detail(answer: "httpx.Response") -> str | None:
    try:
        problem: Any = answer.json()
    except ValueError:
        return None
    detail = problem.get("detail") if isinstance(problem, dict) else None
    return detail if isinstance(detail, str) else None


def _retry_after(answer: "httpx.Response") -> float | None:
    text = answer.headers.get("retry-after", "")
    return float(text) if re.fullmatch("[0-9]{1,9}", text) else None
