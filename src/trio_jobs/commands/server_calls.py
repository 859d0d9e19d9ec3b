"""Requests of a command to its server: each answer, or one line that says why there is none."""

import contextlib
import json
import re
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

# By the status of a refusal; any other one is a mistake in what was asked for.
_STATUS_OF: Final[Mapping[int, int]] = {
    409: UNSUCCESSFUL,
    429: TRY_AGAIN,
    500: BROKEN,
    502: BROKEN,  # of a proxy, whose server is gone
    503: TRY_AGAIN,
    504: TRY_AGAIN,
    507: TRY_AGAIN,
}

# What a proxy answers without a server behind it, in a form of its own.
_OF_PROXIES: Final = (502, 503, 504)

# Refusals that pass by themselves.
_PASSING: Final = (429, 502, 503, 504)

# The path of one job, or of a request about it.
_JOB_PATH: Final = re.compile(r"/jobs/[0-9a-f-]{36}(/|$)")

# What Python puts before the system's text.
_ERRNO: Final = re.compile(r"^\[Errno -?[0-9]+\] ")

Parameters = Sequence[tuple[str, str | int]]


class GoneError(CommandError):
    """The server gives no answer.

    Attributes:
        passes: Whether it has answered before, and so may come back.
        was_asked: Whether the request may have reached it.
    """

    def __init__(self, text: str, *, passes: bool, was_asked: bool) -> None:
        super().__init__(text, BROKEN)
        self.passes = passes
        self.was_asked = was_asked


class RefusedError(CommandError):
    """The server refuses the request; the text is its reason.

    Attributes:
        http_status: The answer's.
        passes: Whether the same request may be accepted later.
        retry_after: Seconds until the server wants to be asked again; None if it does not say.
    """

    def __init__(self, text: str, answer: "httpx.Response") -> None:
        self.http_status = answer.status_code
        self.passes = self.http_status in _PASSING
        self.retry_after = retry_after(answer)
        status = _STATUS_OF.get(self.http_status, MISTAKEN)
        if self.http_status == 404 and _JOB_PATH.search(answer.url.path):
            status = UNKNOWN
        super().__init__(text, status)


class Calls:
    """Asks one server.

    Args:
        server: The server.
        http: A client for it.

    Attributes:
        server: See there.
    """

    def __init__(self, server: Server, http: "httpx.Client") -> None:
        import httpx

        self.server = server
        self._no_url = url_errors()
        self._failures: tuple[type[Exception], ...] = (httpx.HTTPError, *self._no_url)
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
                self.server.url + path,
                params=list(parameters),
                content=content,
                headers=headers,
                timeout=httpx.Timeout(ANSWER_SECONDS + wait, connect=CONNECT_SECONDS),
            )
        except self._failures as error:
            raise self._gone(error) from None
        self._is_known = True
        check_answer(answer, self.server)
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
                self.server.url + path,
                params=list(parameters),
                headers=headers,
                timeout=timeout,
            ) as answer:
                self._is_known = True
                if not answer.is_success:
                    answer.read()
                check_answer(answer, self.server, content_type="text/event-stream")
                yield answer
        except self._failures as error:
            raise self._gone(error) from None

    def ended(self) -> GoneError:
        """The error of an answer that should go on and has ended."""
        return GoneError(f"{self.server} has ended its answer", passes=True, was_asked=True)

    def _gone(self, error: Exception) -> CommandError:
        import httpx

        if isinstance(error, self._no_url):
            return CommandError(f"{self.server} is no URL: {error}", MISTAKEN)
        is_new = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError)
        what = "cannot be reached" if is_new else "broke off"
        reason = _ERRNO.sub("", str(error)) or type(error).__name__
        return GoneError(
            f"{self.server} {what}: {reason}", passes=self._is_known, was_asked=not is_new
        )


@contextlib.contextmanager
def open_calls(options: Namespace) -> Iterator[Calls]:
    """Requests to the server that the options of `add_server_options` name.

    Raises:
        CommandError: There is no HTTP client, or the options are wrong.
    """
    server = find_server(options)
    with http_arguments(server) as arguments:
        import httpx

        if server.socket is not None:
            arguments["transport"] = httpx.HTTPTransport(uds=server.socket, verify=False)
        if server.token is not None:
            arguments["headers"]["Authorization"] = f"Bearer {server.token}"
        http = httpx.Client(**arguments)
    with http:
        yield Calls(server, http)


@contextlib.contextmanager
def http_arguments(server: Server) -> Iterator[dict[str, Any]]:
    """The arguments of a client of httpx for a server; it is to be made in this block.

    Raises:
        CommandError: There is no httpx, or it refuses its variables in the environment.
    """
    try:
        import httpx
    except ImportError:
        raise no_http_client() from None
    try:
        yield {
            "headers": {"User-Agent": "trio-jobs"},
            # Reading the certificates of all authorities takes a third of a short command's time.
            "verify": server.url.lower().startswith("https:"),
            "trust_env": not server.is_local,
        }
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        # A proxy that it does not know, or has no address; or certificates that cannot be read.
        text = f"the HTTP client refuses its variables in the environment: {error}"
        raise CommandError(text, MISTAKEN) from None


def no_http_client() -> CommandError:
    """The error of a command whose HTTP client is not installed."""
    text = "this command needs an HTTP client: pip install 'trio-jobs[client]'"
    return CommandError(text, MISTAKEN)


def url_errors() -> tuple[type[Exception], ...]:
    """What httpx raises, or lets through, for a host or a port that there cannot be."""
    import httpx

    return (httpx.InvalidURL, UnicodeError, OverflowError)


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is.

    Raises:
        CommandError: It is none.
    """
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise CommandError("the answer is no JSON object", BROKEN)
    return value


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
    if detail is None and status in _OF_PROXIES:
        detail = f"{server} answers with status {status}"
    if detail is None and answer.has_redirect_location:
        raise CommandError(f"{server} leads to {answer.headers['location']}", MISTAKEN)
    if detail is None:
        what = f"status {status} and {found or 'no content type'}"
        text = f"{server} answers with {what}: it is no trio-jobs server"
        raise CommandError(text, BROKEN)
    raise RefusedError(detail, answer)


def _detail(answer: "httpx.Response") -> str | None:
    try:
        detail = read_object(answer.content).get("detail")
    except CommandError:
        return None
    return detail if isinstance(detail, str) else None


def retry_after(answer: "httpx.Response") -> float | None:
    """Seconds until the server wants to be asked again; None if it does not say."""
    text = answer.headers.get("retry-after", "")
    return float(text) if re.fullmatch("[0-9]{1,9}", text) else None
