"""The listening sockets: bound before anything else starts, listening last, removed at the end."""

import errno
import fcntl
import logging
import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from trio_jobs.addresses import TCPAddress, UnixAddress, parse_address

_BACKLOG = 1024
# Servers that start or end at the same moment hold the lock for far less.
_LOCK_SECONDS = 1.0
_UNAVAILABLE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
_REASONS = {
    errno.EADDRINUSE: "the address is already in use",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EACCES: "permission denied",
}


log = logging.getLogger("trio_jobs.server")


class BindError(OSError):
    """A socket could not be bound; the text is one line that names the address."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One socket, with what the front door has to know about it.

    Attributes:
        socket: Bound and non-blocking. ``Listeners`` closes it.
        url: For people, with the real port.
        loopback: Only this machine can reach it, by TCP: browsers included.
        public: Other machines may be able to reach it.
        names: What clients may call this address in ``Host``.
        path: The file of a Unix socket, else None.
        identity: That file's device and inode, else None.
    """

    socket: socket.socket
    url: str
    loopback: bool = False
    public: bool = False
    names: tuple[str, ...] = ()
    path: str | None = None
    identity: tuple[int, int] | None = None


class Listeners:
    """The bound sockets, and the certificate for them if there is one."""

    def __init__(self, bound: Sequence[Bound], tls: ssl.SSLContext | None) -> None:
        self.bound = tuple(bound)
        self.tls = tls
        self._places = {_place(each.socket) for each in bound}

    @property
    def urls(self) -> tuple[str, ...]:
        """Where clients find the server, with the real ports."""
        return tuple(bound.url for bound in self.bound)

    def listen(self, *, send_timeout: float) -> None:
        """Let clients in. Accepted sockets inherit the options set here.

        Args:
            send_timeout: Seconds after which the kernel gives up a client
                that acknowledges nothing, where it has an option for that.

        Raises:
            BindError: Another process bound the same port and was the first
                to listen.
        """
        for bound in self.bound:
            # A client that has vanished without a word, while nothing is sent to it, is found too.
            bound.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if bound.path is None and hasattr(socket, "TCP_USER_TIMEOUT"):
                milliseconds = max(1, int(send_timeout * 1000))
                bound.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
            # Connections that outlive the process inherit it, and so let the next one bind.
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
                    with _locked_folder(bound.path):
                        if _identity(bound.path) == bound.identity:
                            Path(bound.path).unlink(missing_ok=True)
                except OSError as error:  # the folder may have been locked up meanwhile
                    log.warning(
                        "socket_not_removed", extra={"path": bound.path, "cause": str(error)}
                    )

    def close_in_child(self) -> None:
        """Let go of the sockets and of every connection, in a child that has been forked.

        A child that held them would keep the port from the next server, and from clients the
        end of their connections. The server's own are not touched: descriptors are closed here,
        and nothing is told to the sockets.
        """
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in _own_descriptors():
            # Found by their address, and not by a list: a connection that has just been accepted
            # is on none yet.
            if (place := _place_of(fd)) is not None and place in self._places:
                # The number stays in use: an object that still has it may close it later on.
                os.dup2(nowhere, fd, inheritable=False)
        os.close(nowhere)


def bind_sockets(
    addresses: Sequence[str], *, tls: ssl.SSLContext | None = None, unix_mode: int = 0o600
) -> Listeners:
    """Bind every address, or none.

    A host name is resolved (this may block) and bound at each address it has.
    TCP sockets don't listen yet: a client is refused until ``serve`` runs.
    A Unix socket does, since a second server can tell a live owner from a
    stale file only by connecting.

    Args:
        addresses: As in ``http.bind``.
        tls: From ``load_certificate``; clients then have to speak TLS.
        unix_mode: Who may connect to the Unix sockets among them.

    Raises:
        AddressError: One of them cannot be understood.
        BindError: One of them cannot be bound.
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
            # A name's second address gets the port that the system chose for its first.
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
        url = f"{scheme}://{real}"
        bound.append(Bound(socket=sock, url=url, loopback=local, public=not local, names=names))
    if not bound and missing is not None:
        raise missing
    return bound


def _open_tcp(family: int, kind: int, protocol: int, sockaddr: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        if family == socket.AF_INET6:
            # Else "[::]:80" and "0.0.0.0:80" could not stand side by side.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            # Not reusing the address: with that, two sockets can be bound to it as long as neither
            # listens, and the second would learn of the first when everything else has started.
            sock.bind(sockaddr)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            # But a restart must not wait for the last connections of the process before it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(sockaddr)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(address: UnixAddress, mode: int) -> Bound:
    # Else of two servers that find the same stale file, one could remove the other's new one.
    with _locked_folder(address.path):
        return _replace_unix(address, mode)


def _replace_unix(address: UnixAddress, mode: int) -> Bound:
    _remove_stale(address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode has to be right from the first moment, so chmod would come too late.
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
    """Remove the file of a socket that nobody listens on; refuse to touch anything else."""
    path = Path(address.path)
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # nothing there; if it is worse, bind() will say so
    if not stat.S_ISSOCK(mode):
        raise BindError(f"cannot bind {address}: the file exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # An owner whose backlog is full answers "try again": it is alive.
        probe.setblocking(False)
        outcome = probe.connect_ex(address.path)
    if outcome == errno.ECONNREFUSED:
        path.unlink(missing_ok=True)
    elif outcome != errno.ENOENT:
        reason = errno.EADDRINUSE if outcome in {0, errno.EAGAIN} else outcome
        raise _bind_error(str(address), OSError(reason, os.strerror(reason)))


@contextmanager
def _locked_folder(path: str) -> Iterator[None]:
    """The block has the folder of ``path`` to itself, among servers that can read it."""
    try:
        folder = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield  # if that is worse than not being allowed to read it, bind() will say so
        return
    try:
        # In a thread, for a wait that ends: not for what else may have locked the folder.
        lock = threading.Thread(target=_lock, args=[folder], daemon=True)
        lock.start()
        lock.join(_LOCK_SECONDS)
        yield
    finally:
        os.close(folder)


def _lock(folder: int) -> None:
    with suppress(OSError):  # a file system that knows no such locks
        fcntl.flock(folder, fcntl.LOCK_EX)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - one call for both numbers
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _own_descriptors() -> list[int]:
    return [int(name) for name in os.listdir("/dev/fd")]  # noqa: PTH208 - numbers are wanted


def _place_of(fd: int) -> object:
    """Where this descriptor's socket is bound, in the words of `_place`; None if it has none."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return None
    except OSError:
        return None  # the one through which the list was read
    sock = socket.socket(fileno=fd)
    try:
        return _place(sock)
    finally:
        sock.detach()


def _place(sock: socket.socket) -> object:
    """What a listening socket and the connections that it has accepted have in common."""
    name = sock.getsockname()
    if sock.type != socket.SOCK_STREAM or not name:
        return None
    return name[1] if sock.family in {socket.AF_INET, socket.AF_INET6} else name


def _bind_error(address: str, error: OSError) -> BindError:
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return BindError(f"cannot bind {address}: {reason}")
