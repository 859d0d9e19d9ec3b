"""Where the server is, and the token for it: as given, or from the environment."""

import os
import re
from urllib.parse import urlsplit

import httpx

# That of a server without a configuration.
_DEFAULT = "http://127.0.0.1:8080"

_VISIBLE = re.compile(r"[\x21-\x7e]+")


def server_url(url: str | None) -> str:
    """The URL of the server, without a slash at its end.

    Args:
        url: As given; None for TRIO_JOBS_URL, and without it for this machine's port 8080.

    Raises:
        ValueError: It is no URL of HTTP.
    """
    source = "url" if url is not None else "TRIO_JOBS_URL"
    url = url if url is not None else os.environ.get("TRIO_JOBS_URL") or _DEFAULT
    if not _is_of_http(url):
        raise ValueError(f"{source} must be like http://host:8080, got {url!r}")
    return url.rstrip("/")


def _is_of_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises an error if it is none
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        return False
    # A user would take the place of the token.
    rest = parts.query or parts.fragment or "@" in parts.netloc
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not rest


def server_token(token: str | None) -> str:
    """The token for the server; empty if there is none.

    Args:
        token: As given; None for TRIO_JOBS_TOKEN.

    Raises:
        ValueError: No header can have it. The text does not quote it.
    """
    source = "token" if token is not None else "TRIO_JOBS_TOKEN"
    token = token if token is not None else os.environ.get("TRIO_JOBS_TOKEN", "")
    if token and not _VISIBLE.fullmatch(token):
        raise ValueError(f"{source} must be visible ASCII characters")
    return token
