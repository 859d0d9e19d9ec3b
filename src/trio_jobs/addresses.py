"""The addresses of ``http.bind``: ``host:port``, ``[v6]:port``, ``unix:/path``, nothing else."""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_.])?")
_IN_BRACKETS = re.compile(r"\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?)\]")
_PORT = re.compile(r"[0-9]{1,5}")
# A control character would break a log line, and no TOML file can hold a lone surrogate.
_UNIX_PATH = re.compile(r"/[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
# What the kernel's sockaddr_un holds, less the closing NUL.
_UNIX_PATH_BYTES = 107


class AddressError(ValueError):
    """A bind address cannot be understood; the text names it and what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TCPAddress:
    """A host (a name, or an IP address without brackets) and a port; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixAddress:
    """The path of a Unix domain socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


def parse_address(text: str) -> TCPAddress | UnixAddress:
    """Parse one address, without a DNS lookup.

    Raises:
        AddressError: The text has none of the three forms, or its path is too long for a socket.
    """
    path = text.removeprefix("unix:")
    if path != text:
        if _UNIX_PATH.fullmatch(path) and len(path.encode()) <= _UNIX_PATH_BYTES:
            return UnixAddress(path=path)
        raise AddressError(
            f"expected 'unix:/path' with a path of at most {_UNIX_PATH_BYTES} bytes, got {text!r}"
        )
    host, _, port = text.rpartition(":")
    if _PORT.fullmatch(port) and int(port) <= 65535:
        if (match := _IN_BRACKETS.fullmatch(host)) and _is_ipv6(match[1]):
            return TCPAddress(host=match[1], port=int(port))
        if _HOST.fullmatch(host):
            return TCPAddress(host=host, port=int(port))
    raise AddressError(f"expected 'host:port', '[ipv6]:port' or 'unix:/path', got {text!r}")


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
