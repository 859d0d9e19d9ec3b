"""The server's sockets: bound before anything else starts, closed at the end. TCP listens last."""

import errno
import logging
import os
import socket
import ssl
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from zlib import crc32

from trio_jobs.addresses import TCPAddress, UnixAddress, parse_address

# Connections that may wait to be accepted; the kernel lowers this to its own limit.
_BACKLOG = 1024
_UNAVAILABLE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
_REASONS = {
    errno.EADDRINUSE: "the address is already in use",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EACCES: "permission denied",
}


log = logging.getLogger("trio_jobs.server")


class BindError(OSError):
    """A socket could not be bound; the text is one line that names the address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One bound socket.

    Attributes:
        socket: Bound and non-blocking. ``Listeners`` closes it.
        url: The address with the real port, for people.
        loopback: Whether it is a TCP socket that only this machine, with its
            browsers, can reach.
        names: Names of this address that clients may use in ``Host``.
        path: The file of a Unix socket, else None.
        identity: That file's device and inode, else None.
    """

    socket: socket.socket
    url: str
    loopback: bool = False
    names: tuple[str, ...] = ()
    path: str | None = None
    identity: tuple[int, int] | None = None

    @property
    def public(self) -> bool:
        """Whether other machines may be able to reach the socket."""
        return self.path is None and not self.loopback


class Listeners:
    """The bound sockets, and the certificate for them if there is one.

    Attributes:
        bound: The sockets.
        tls: The certificate of the connections that are accepted from now on; None without TLS. A
            reload replaces it.
    """

    def __init__(self, bound: Sequence[Bound], tls: ssl.SSLContext | None) -> None:
        self.bound = tuple(bound)
        self.tls = tls
        self._origins = {_origin(each.socket) for each in bound}

    @property
    def urls(self) -> tuple[str, ...]:
        """Where clients find the server, with the real ports."""
        return tuple(bound.url for bound in self.bound)

    @property
    def names(self) -> list[str]:
        """Names of the addresses that clients may use in ``Host``."""
        return [name for bound in self.bound for name in bound.names]

    @property
    def mark(self) -> str:
        """A short text that no other server of this machine has at the same time: the port."""
        first = self.bound[0]
        if first.path is not None:
            return f"{crc32(first.path.encode()):08x}"
        return str(first.socket.getsockname()[1])

    def listen(self, *, send_timeout: float) -> None:
        """Listen for clients. Accepted sockets inherit the options set here.

        Args:
            send_timeout: Seconds after which the kernel disconnects a client
                that acknowledges no bytes, if the kernel has that option.

        Raises:
            BindError: Another process bound the same port and was the first
                to listen.
        """
        for bound in self.bound:
            # Notices that a client's machine has vanished, even while the server sends nothing.
            bound.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if bound.path is None and hasattr(socket, "TCP_USER_TIMEOUT"):
                milliseconds = max(1, int(send_timeout * 1000))
                bound.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
            # Accepted connections inherit the option. Without it, those that outlive this process
            # would keep the next one from binding the address.
            bound.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                bound.socket.listen(_BACKLOG)
            except OSError as error:
                raise _bind_error(bound.url.rpartition("://")[2], error) from None

    def close(self) -> None:
        """Close the sockets and remove the files of Unix sockets. May be called again."""
        for bound in self.bound:
            bound.socket.close()
            if bound.path is not None:
                try:
                    if _identity(bound.path) == bound.identity:
                        Path(bound.path).unlink(missing_ok=True)
                except OSError as error:  # the folder's permissions may have changed
                    log.warning(
                        "socket_not_removed", extra={"path": bound.path, "reason": str(error)}
                    )

    def close_in_child(self) -> None:
        """Close the child's copies of the sockets and of every connection, after a fork.

        Otherwise the child would keep the port from the next server, and clients would not notice
        that the server has closed their connections. The server's own descriptors stay as they are.
        """
        nowhere = os.open(os.devnull, os.O_RDWR)
        for name in os.listdir("/dev/fd"):  # noqa: PTH208 - numbers are wanted
            # The address identifies them: a connection that was just accepted is on no list yet.
            if (origin := _origin_of(int(name))) is not None and origin in self._origins:
                # Not closed: an object that closes the number later would close another file.
                os.dup2(nowhere, int(name), inheritable=False)
        os.close(nowhere)


def bind_sockets(
    addresses: Sequence[str], *, tls: ssl.SSLContext | None = None, unix_mode: int = 0o600
) -> Listeners:
    """Bind every address, or none.

    A host name is resolved, which may block, and bound at each of its addresses.
    TCP sockets don't listen yet: the kernel refuses clients until ``serve``
    runs. A Unix socket listens at once: a second server can tell a live owner
    from a stale file only by connecting.

    Args:
        addresses: As in ``http.bind``.
        tls: From ``load_certificate``; clients then have to speak TLS.
        unix_mode: The permissions of the Unix sockets.

    Raises:
        AddressError: One of the addresses cannot be understood.
        BindError: One of the addresses cannot be bound.
    """
    parsed = [parse_address(text) for text in addresses]
    scheme = "http" if tls is None else "https"
    with ExitStack() as undo:
        bound: list[Bound] = []
        for address in parsed:
            if isinstance(address, UnixAddress):
                new = [_bind_unix(address, unix_mode)]
            else:
                new = _bind_tcp(address, scheme)
            undo.callback(Listeners(new, None).close)
            bound += new
        undo.pop_all()
    return Listeners(bound, tls)


def _bind_tcp(address: TCPAddress, scheme: str) -> list[Bound]:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise BindError(f"cannot bind {address}: no such host ({error})") from None
    port = address.port
    bound: list[Bound] = []
    missing: BindError | None = None
    for family, kind, protocol, _, sockaddr in dict.fromkeys(found):
        try:
            # With port 0, all addresses of a name get the port that the system chose for the first.
            sock = _open_tcp(family, kind, protocol, (sockaddr[0], port, *sockaddr[2:]))
        except OSError as error:
            missing = _bind_error(str(address), error)
            if error.errno in _UNAVAILABLE:
                continue  # "localhost" has an IPv6 address also where IPv6 is switched off
            Listeners(bound, None).close()
            raise missing from None
        host, port = sock.getsockname()[:2]
        local = ip_address(host.partition("%")[0]).is_loopback
        real = TCPAddress(host=host, port=port)
        names = (str(address), str(real))
        bound.append(Bound(socket=sock, url=f"{scheme}://{real}", loopback=local, names=names))
    if not bound and missing is not None:
        raise missing
    return bound


def _open_tcp(family: int, kind: int, protocol: int, sockaddr: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        if family == socket.AF_INET6:
            # Without this, "[::]:80" and "0.0.0.0:80" could not both be bound.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            # Without SO_REUSEADDR: with it, a second server could bind the address while the first
            # does not listen yet, and would fail only after everything else has started.
            sock.bind(sockaddr)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            # Perhaps only connections of an ended process use it: a restart must not wait for them.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(sockaddr)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(address: UnixAddress, mode: int) -> Bound:
    _remove_stale(address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Not by chmod: any user could connect between the bind and the chmod.
    umask = os.umask(0o777 & ~mode)
    try:
        sock.bind(address.path)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _bind_error(str(address), error) from None
    finally:
        os.umask(umask)
    sock.setblocking(False)
    identity = _identity(address.path)
    return Bound(socket=sock, url=str(address), path=address.path, identity=identity)


def _remove_stale(address: UnixAddress) -> None:
    """Remove the file of a socket without a listener; refuse to touch any other file."""
    path = Path(address.path)
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # no file; bind() reports any other trouble
    if not stat.S_ISSOCK(mode):
        raise BindError(f"cannot bind {address}: the file exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # Without blocking, connect fails with EAGAIN if a live owner's backlog is full.
        probe.setblocking(False)
        outcome = probe.connect_ex(address.path)
    if outcome == errno.ECONNREFUSED:
        path.unlink(missing_ok=True)
    elif outcome != errno.ENOENT:
        reason = errno.EADDRINUSE if outcome in {0, errno.EAGAIN} else outcome
        raise _bind_error(str(address), OSError(reason, os.strerror(reason)))


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - one call for both numbers
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _origin_of(fd: int) -> object:
    """The ``_origin`` of a descriptor; None if the descriptor is no socket."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return None
    except OSError:
        return None  # listdir's own descriptor, which is closed now
    sock = socket.socket(fileno=fd)
    try:
        return _origin(sock)
    finally:
        sock.detach()


def _origin(sock: socket.socket) -> object:
    """A value that a listening socket and its accepted connections share: port or path."""
    name = sock.getsockname()
    if sock.type != socket.SOCK_STREAM or not name:
        return None
    return name[1] if sock.family in {socket.AF_INET, socket.AF_INET6} else name


def _bind_error(address: str, error: OSError) -> BindError:
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return BindError(f"cannot bind {address}: {reason}")
