"""Decides by ``Host``, origin, bearer token and session which requests reach the application."""

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress

import msgspec

from trio_jobs.access import ANYONE, NOBODY, Access
from trio_jobs.problem_details import Problem
from trio_jobs.server.roles import SESSION, Roles, named, roles_for
from trio_jobs.sessions import Session, Sessions
from trio_jobs.tokens import TokenTable

Headers = Sequence[tuple[bytes, bytes]]
# The first value of each header, by its name in lower case.
Fields = Mapping[bytes, bytes]

_LOOPBACK_NAMES = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})
_READING = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}
_FOREIGN = "pages of another origin may not write here"
_MAX_SHOWN = 100
_CHALLENGE = 'Bearer realm="trio-jobs"'


class AccessControl:
    """Admits or refuses a request by its head alone.

    Args:
        allowed_hosts: Names that clients may use in ``Host`` beside those of
            the loopback interface; ``*`` allows any name.
        tokens: What ``Authorization: Bearer`` must carry one of, with a role that may make the
            request; None asks for no token.
        health_path: ``GET`` of this path and of the paths below it needs no token.
        open_paths: ``GET`` of these paths needs none either.
        sessions: Whose cookies stand for a token, in requests without ``Authorization``; None if
            nobody can sign in.

    Attributes:
        tokens: Of these, each request needs one. Another table holds from the next request on.
    """

    def __init__(
        self,
        *,
        allowed_hosts: Iterable[str] = (),
        tokens: TokenTable | None = None,
        health_path: str = "",
        open_paths: Collection[str] = (),
        sessions: Sessions | None = None,
    ) -> None:
        names = {_allowed_name(name) for name in allowed_hosts}
        names.discard(b"")  # a page can make a browser send an empty name
        self._any_host = b"*" in names
        self._names = _LOOPBACK_NAMES | names
        self.tokens = tokens
        self._health_path = health_path
        self._open_paths = frozenset(open_paths)
        self._sessions = sessions

    def check(self, method: str, path: str, fields: Fields, *, loopback: bool) -> Access:
        """Check one request.

        Args:
            method: In capitals.
            path: Decoded, without the query.
            fields: The request's headers.
            loopback: Whether the connection came to a TCP socket bound to loopback.

        Returns:
            Who asks.

        Raises:
            Problem: 403 or 401: the client has no access.
        """
        if loopback and not self._any_host and fields.get(b"host") not in self._names:
            self._check_host(fields)
        if method not in _READING and (b"origin" in fields or b"sec-fetch-site" in fields):
            _check_origin(fields)
        tokens = self.tokens
        if tokens is None:
            return ANYONE
        if path == SESSION and method not in _READING and not _is_own_page(method, fields):
            raise _not_our_page(fields)  # nor may another page sign its visitor in, or out
        session = self._session(fields)
        counts = session is not None and _is_own_page(method, fields)
        access = _find(tokens, fields, session if counts else None) or NOBODY
        roles = roles_for(method, path)
        if access.role in roles or self._is_open(method, path):
            return access
        if session is not None and not counts:
            raise _not_our_page(fields)
        raise _no_access(access, roles, fields)

    def is_probe(self, method: str, path: str) -> bool:
        """Whether the request asks for the server's health."""
        health = self._health_path
        if not health or method not in {"GET", "HEAD"}:
            return False
        return path == health or path.startswith(f"{health}/")

    def _is_open(self, method: str, path: str) -> bool:
        return self.is_probe(method, path) or (
            path in self._open_paths and method in {"GET", "HEAD"}
        )

    def _session(self, fields: Fields) -> Session | None:
        """The session of a request that shows no token itself."""
        if self._sessions is None or b"cookie" not in fields or b"authorization" in fields:
            return None
        return self._sessions.find(fields[b"cookie"])

    def _check_host(self, fields: Fields) -> None:
        # DNS rebinding: a page whose own host name resolves to 127.0.0.1 could read the answers.
        # The browser sends that name as `Host`.
        host = fields.get(b"host")
        if host is None:
            return
        if (name := _host_name(host.lower())) not in self._names:
            raise Problem(
                403,
                f"the host name {_shown(name)} is not served here;"
                " http.allowed_hosts takes further names",
            )


def fields_of(headers: Headers) -> Fields:
    """The first value of each of these headers, whose names are in lower case."""
    return dict(reversed(headers))


def _no_access(access: Access, roles: Roles, fields: Fields) -> Problem:
    """The refusal of a client that has no token, no valid one, or one of another role."""
    if access.role is not None:
        needed = named(roles)
        return Problem(
            403,
            f"this needs the role {' or '.join(needed)}, the token has the role {access.role}",
            headers={"WWW-Authenticate": f'{_CHALLENGE}, error="insufficient_scope"'},
            roles=needed,
        )
    if b"authorization" not in fields:
        return Problem(401, "a bearer token is required", headers={"WWW-Authenticate": _CHALLENGE})
    challenge = f'{_CHALLENGE}, error="invalid_token"'
    return Problem(401, "the bearer token is not valid", headers={"WWW-Authenticate": challenge})


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


def _find(tokens: TokenTable, fields: Fields, session: Session | None) -> Access | None:
    """Who asks, by a session, whose token is looked up each time, or by the token itself."""
    if session is not None:
        fingerprint, expires = session
        access = tokens.find_fingerprint(fingerprint)
        return None if access is None else msgspec.structs.replace(access, expires=expires)
    scheme, _, credentials = fields.get(b"authorization", b"").partition(b" ")
    return tokens.find(credentials.strip()) if scheme.lower() == b"bearer" else None


def _is_own_page(method: str, fields: Fields) -> bool:
    """Whether the request comes from a page of this server.

    A browser sends the cookies of a host with requests of pages on all of its ports. So a session
    needs more than `_check_origin`, which lets programs write that send neither header. A reading
    program may show a cookie without them.
    """
    reading = method in _READING
    if (site := fields.get(b"sec-fetch-site")) is not None:
        return site == b"same-origin" or (reading and site == b"none")
    if (origin := fields.get(b"origin")) is not None:
        host = fields.get(b"host", b"")
        return bool(host) and _same_host(origin, host)
    return reading


def _not_our_page(fields: Fields) -> Problem:
    told = [
        f"{name} is {_shown(value)}"
        for name in ("Sec-Fetch-Site", "Origin")
        if (value := fields.get(name.lower().encode())) is not None
    ]
    found = ", ".join(told) or "neither Sec-Fetch-Site nor Origin is there"
    return Problem(403, f"a session counts only from this server's own page: {found}")


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
