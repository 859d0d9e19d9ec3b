"""Decides by ``Host``, origin and bearer token which requests reach the application."""

import hmac
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from trio_jobs.bounded_read import read_within
from trio_jobs.problem_details import Problem

Headers = Sequence[tuple[bytes, bytes]]
# The first value of each header, by its name in lower case.
Fields = Mapping[bytes, bytes]

_LOOPBACK_NAMES = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})
_READING = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}
# A client cannot send a longer token: request line and headers have 1 MiB at most.
_MAX_TOKEN_FILE = 2**20
_FOREIGN = "pages of another origin may not write here"
_MAX_SHOWN = 100
_CHALLENGE = 'Bearer realm="trio-jobs"'


class AccessControl:
    """Admits or refuses a request by its head alone.

    Args:
        allowed_hosts: Names that clients may use in ``Host`` beside those of
            the loopback interface; ``*`` allows any name.
        token: The token that ``Authorization: Bearer`` must carry; None asks
            for no token.
        open_path: ``GET`` of this path and of the paths below it needs no token.
    """

    def __init__(
        self, *, allowed_hosts: Iterable[str] = (), token: str | None = None, open_path: str = ""
    ) -> None:
        names = {_allowed_name(name) for name in allowed_hosts}
        names.discard(b"")  # a page can make a browser send an empty name
        self._any_host = b"*" in names
        self._names = _LOOPBACK_NAMES | names
        self._token = None if token is None else token.encode()
        self._open_path = open_path

    @property
    def asks_for_token(self) -> bool:
        """Whether clients need a token."""
        return self._token is not None

    def check(self, method: str, path: str, fields: Fields, *, loopback: bool) -> None:
        """Check one request.

        Args:
            method: In capitals.
            path: Decoded, without the query.
            fields: The request's headers.
            loopback: Whether the connection came to a TCP socket bound to loopback.

        Raises:
            Problem: 403 or 401: the client has no access.
        """
        if loopback and not self._any_host:
            self._check_host(fields)
        if method not in _READING:
            _check_origin(fields)
        if self._token is not None and not self.is_open(method, path):
            _check_token(self._token, fields)

    def is_open(self, method: str, path: str) -> bool:
        """Whether the request needs no token."""
        opened = self._open_path
        if not opened or method not in {"GET", "HEAD"}:
            return False
        return path == opened or path.startswith(f"{opened}/")

    def _check_host(self, fields: Fields) -> None:
        # DNS rebinding: a page whose own host name resolves to 127.0.0.1 could read the answers.
        # The browser sends that name as `Host`.
        host = fields.get(b"host")
        if host is not None and (name := _host_name(host.lower())) not in self._names:
            raise Problem(
                403,
                f"the host name {_shown(name)} is not served here;"
                " http.allowed_hosts takes further names",
            )


def fields_of(headers: Headers) -> Fields:
    """The first value of each of these headers, whose names are in lower case."""
    return dict(reversed(headers))


def read_token(path: str | Path) -> str:
    """Read a token from a file; white space around it does not count.

    Raises:
        ValueError: The file cannot be read, or holds no token. The text names
            the file and quotes none of its content.
    """
    try:
        token = read_within(path, max_bytes=_MAX_TOKEN_FILE).decode("ascii").strip()
    except UnicodeDecodeError:
        raise ValueError(f"the token in {str(path)!r} must be ASCII") from None
    except OSError as error:
        raise ValueError(f"cannot read the token file {str(path)!r}: {error.strerror}") from None
    if not _is_token(token):
        raise ValueError(f"the token file {str(path)!r} must hold one token, without white space")
    return token


def parse_token(text: str) -> str:
    """Take a token from a setting; white space around it does not count.

    Raises:
        ValueError: No client could send such a token. The text does not quote it.
    """
    token = text.strip()
    if not _is_token(token):
        raise ValueError("the token must be ASCII, without white space")
    return token


def _is_token(text: str) -> bool:
    return text.isascii() and text.isprintable() and len(text.split()) == 1


def _check_token(token: bytes, fields: Fields) -> None:
    given = fields.get(b"authorization")
    if given is None:
        raise Problem(401, "a bearer token is required", headers={"WWW-Authenticate": _CHALLENGE})
    scheme, _, credentials = given.partition(b" ")
    if scheme.lower() != b"bearer" or not hmac.compare_digest(credentials.strip(), token):
        challenge = f'{_CHALLENGE}, error="invalid_token"'
        raise Problem(401, "the bearer token is not valid", headers={"WWW-Authenticate": challenge})


def _check_origin(fields: Fields) -> None:
    site, origin = fields.get(b"sec-fetch-site"), fields.get(b"origin")
    if site is not None:
        if site not in {b"same-origin", b"none"}:
            raise Problem(403, f"{_FOREIGN}: Sec-Fetch-Site is {_shown(site)}")
    elif origin is not None:
        host = fields.get(b"host", b"")
        if not host or not _same_host(origin, host):
            raise Problem(
                403,
                f"{_FOREIGN}: Origin is {_shown(origin)}, Host is {_shown(host)};"
                " a proxy must pass both on as they came",
            )


def _shown(value: bytes) -> str:
    """A client's text, bounded and escaped, for the client and for the log."""
    return ascii(value[:_MAX_SHOWN].decode("latin-1"))


def _same_host(origin: bytes, host: bytes) -> bool:
    scheme, _, authority = origin.lower().partition(b"://")
    port = _DEFAULT_PORTS.get(scheme, b"")
    return authority.removesuffix(port) == host.lower().removesuffix(port)


def _allowed_name(name: str) -> bytes:
    """A name of the settings, as ``_host_name`` gives it; an IPv6 address may lack its brackets."""
    with suppress(ValueError):
        name = f"[{ipaddress.IPv6Address(name)}]"
    return _host_name(name.lower().encode())


def _host_name(host: bytes) -> bytes:
    """The name in a ``Host``, without port and closing dot."""
    if host.startswith(b"["):
        name, bracket, port = host.partition(b"]")
        return name + bracket if port[:1] in {b"", b":"} else host
    return host.partition(b":")[0].removesuffix(b".")
