"""The addresses of ``http.bind``: ``host:port``, ``[v6]:port``, ``unix:/path``, nothing else."""

import ipaddress
import re
from dataclasses import dataclass

# What the kernel's sockaddr_un holds, less the closing NUL.
_UNIX_PATH_BYTES = 107
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_.])?")
_PORT = re.compile(r"[0-9]{1,5}")


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
    """Understand one address, without asking the resolver.

    Raises:
        AddressError: It is of none of the three forms.
    """
    if text.startswith("unix:"):
        return _unix(text)
    host, colon, port = text.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > 65535:
        raise AddressError(_expected(text))
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise AddressError(_expected(text)) from None
        return TCPAddress(host=host[1:-1], port=int(port))
    if not _HOST.fullmatch(host):
        raise AddressError(_expected(text))
    return TCPAddress(host=host, port=int(port))


def _unix(text: str) -> UnixAddress:
    path = text.removeprefix("unix:")
    if not path.startswith("/") or "\0" in path:
        raise AddressError(_expected(text))
    if len(path.encode("utf-8", "surrogateescape")) > _UNIX_PATH_BYTES:
        raise AddressError(
            f"the path of a unix socket must be at most {_UNIX_PATH_BYTES} bytes long, got {text!r}"
        )
    return UnixAddress(path=path)


def _expected(text: str) -> str:
    return f"expected 'host:port', '[ipv6]:port' or 'unix:/path', got {text!r}"
