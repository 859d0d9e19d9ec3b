"""Which server a command talks to, and with which token: by options, environment, configuration."""

import os
import re
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from trio_jobs.commands.command_error import CommandError
from trio_jobs.commands.exit_statuses import MISTAKEN

URL_VARIABLE: Final = "TRIO_JOBS_URL"
TOKEN_VARIABLE: Final = "TRIO_JOBS_TOKEN"  # noqa: S105  # a variable's name

# The default of `http.bind`.
DEFAULT_URL: Final = "http://127.0.0.1:8080"

_CONFIG: Final = Path("config.toml")
_MAX_TOKEN_BYTES: Final = 10_000
# What a header can carry as `Bearer …`.
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
# No user and no password, which would take the place of the token; no query.
_URL: Final = re.compile(r"https?://[^\s/@?#]+(/[^\s?#]*)?", re.IGNORECASE)
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # a listener's


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a server is.

    Attributes:
        url: Its base, without a slash at the end.
        socket: The path of its Unix socket; None over TCP.
        token: Shown to it; None for none.
        is_local: Whether it is of this machine: no proxy leads to it.
    """

    url: str
    socket: str | None = None
    token: str | None = field(default=None, repr=False)
    is_local: bool = False

    def __str__(self) -> str:
        return self.url if self.socket is None else f"unix:{self.socket}"


def add_server_options(parser: ArgumentParser) -> None:
    """Add ``--url`` and ``--token-file``."""
    parser.add_argument(
        "--url",
        metavar="URL",
        help="the server: http://…, https://… or unix:/path (default: TRIO_JOBS_URL, else http.bind"
        f" of config.toml in the current folder, else {DEFAULT_URL})",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="the file with the token to show, in one line (default: TRIO_JOBS_TOKEN, if set)",
    )


def find_server(options: Namespace) -> Server:
    """The server that options, environment and configuration name, in this order.

    Raises:
        CommandError: One of them is wrong.
    """
    from trio_jobs.bounded_read import may_be_there

    token = _token(options.token_file)
    for source, url in (("--url", options.url), (URL_VARIABLE, os.environ.get(URL_VARIABLE))):
        if url is not None:
            return _named(url, source, token)
    # `load_config` takes 0.06 s of CPU, so not without a reason.
    if may_be_there(_CONFIG) or "TRIO_JOBS_HTTP_BIND" in os.environ:
        return _configured(token)
    return Server(url=DEFAULT_URL, token=token, is_local=True)


def _named(url: str, source: str, token: str | None) -> Server:
    from trio_jobs.addresses import AddressError, UnixAddress, parse_address

    if url.startswith("unix:"):
        try:
            address = parse_address(url)
        except AddressError as error:
            raise CommandError(f"{source}: {error}", MISTAKEN) from None
        if isinstance(address, UnixAddress):
            return _at_socket(address.path, token)
    if not _URL.fullmatch(url):
        raise CommandError(
            f"{source} must be http://HOST:PORT, https://HOST:PORT or unix:/path, without a user"
            f" and a query, got {url!r}",
            MISTAKEN,
        )
    return Server(url=url.rstrip("/"), token=token)


def _configured(token: str | None) -> Server:
    from trio_jobs.addresses import UnixAddress, parse_address
    from trio_jobs.config import load_config
    from trio_jobs.setting_type import ConfigError

    try:
        http = load_config(None, environment=os.environ, overrides={}).http
    except ConfigError as error:
        raise CommandError(f"{error}; --url names a server without it", MISTAKEN) from None
    address = parse_address(http.bind[0])
    if isinstance(address, UnixAddress):
        return _at_socket(address.path, token)
    if address.port == 0:
        raise CommandError("http.bind names no port, so --url must name the server", MISTAKEN)
    host = _ANY_ADDRESS.get(address.host, address.host)
    host = f"[{host}]" if ":" in host else host
    scheme = "http" if http.certfile is None else "https"
    return Server(url=f"{scheme}://{host}:{address.port}", token=token, is_local=True)


def _at_socket(path: str, token: str | None) -> Server:
    # The host is one that a server without a name takes.
    return Server(url="http://localhost", socket=path, token=token, is_local=True)


def _token(path: str | None) -> str | None:
    from trio_jobs.bounded_read import read_within

    if path is None:
        token, source = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
        if token is None:
            return None
    else:
        source = f"--token-file {path}"
        try:
            data = read_within(path, max_bytes=_MAX_TOKEN_BYTES)
            token = data.decode("utf-8-sig", errors="replace").strip()
        except OSError as error:
            raise CommandError(f"{source}: {error.strerror}", MISTAKEN) from None
    if not _TOKEN.fullmatch(token):
        # It is not shown: it may be a token nevertheless.
        raise CommandError(f"{source} must hold one token, of ASCII without blanks", MISTAKEN)
    return token
