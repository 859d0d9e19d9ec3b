"""Binding: all or nothing, one line for what is wrong, nobody else's socket touched."""

import errno
import os
import re
import socket
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support import AccessControl, HttpSettings, TokenTable, load_certificate
from trio_jobs.server.serve import serve
from trio_jobs.server.sockets import BindError, bind_sockets

from .serving import Client, echo, get, served
from .test_tls import CERTIFICATE, KEY


def test_port_zero_gives_the_real_port_which_does_not_listen_yet() -> None:
    listeners = bind_sockets(["127.0.0.1:0"])

    port = listeners.bound[0].socket.getsockname()[1]
    assert listeners.urls == (f"http://127.0.0.1:{port}",)
    assert port != 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    listeners.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
def test_a_port_that_another_has_bound_is_in_use_before_anyone_listens(host: str) -> None:
    other = bind_sockets([f"{host}:0"])
    port = other.bound[0].socket.getsockname()[1]

    for address in (f"127.0.0.1:{port}", f"0.0.0.0:{port}"):
        with pytest.raises(BindError, match="the address is already in use"):
            bind_sockets([address])
    other.close()

    for second in ("127.0.0.1", "0.0.0.0"):  # noqa: S104
        with pytest.raises(BindError, match="the address is already in use"):
            bind_sockets([f"{host}:{port}", f"{second}:{port}"])


def test_a_restart_does_not_wait_for_the_connections_of_the_process_before_it() -> None:
    listeners = bind_sockets(["127.0.0.1:0"])
    listeners.listen(send_timeout=5)
    listening = listeners.bound[0].socket
    listening.setblocking(True)
    address = listening.getsockname()
    with socket.create_connection(address) as client:
        listening.accept()[0].close()  # first, so that this side keeps the memory of it
        assert client.recv(1) == b""
        listeners.close()

    for _ in range(2):
        again = bind_sockets([f"127.0.0.1:{address[1]}"])
        with pytest.raises(BindError, match="the address is already in use"):
            bind_sockets([f"127.0.0.1:{address[1]}"])
        again.listen(send_timeout=5)
        again.close()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("192.0.2.1:0", "this machine has no such address"),
        ("does-not-exist.invalid:80", "no such host"),
        ("unix:/no/such/folder", "No such file"),
    ],
)
def test_an_address_that_cannot_be_bound_is_one_line_that_names_it(
    address: str, reason: str
) -> None:
    with pytest.raises(BindError, match=rf"^cannot bind {address}: {reason}"):
        bind_sockets([address])


def test_a_port_for_which_permission_is_missing_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)

    with pytest.raises(BindError) as caught:
        bind_sockets(["127.0.0.1:80"])

    assert str(caught.value) == "cannot bind 127.0.0.1:80: permission denied"


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such option")
def test_the_kernel_gives_up_clients_that_acknowledge_nothing() -> None:
    listeners = bind_sockets(["127.0.0.1:0"])
    listeners.listen(send_timeout=1.5)
    listening = listeners.bound[0].socket
    listening.setblocking(True)

    with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1500
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    listeners.close()


def test_a_name_is_bound_at_each_of_its_addresses_with_one_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [
        (family, socket.SOCK_STREAM, 6, "", address)
        for family, address in [
            (socket.AF_INET, ("127.0.0.1", 0)),
            (socket.AF_INET, ("192.0.2.1", 0)),
            (socket.AF_INET, ("127.0.0.2", 0)),
        ]
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: found)

    listeners = bind_sockets(["localhost:0"])

    names = [bound.socket.getsockname() for bound in listeners.bound]
    assert [host for host, _ in names] == ["127.0.0.1", "127.0.0.2"]
    assert names[0][1] == names[1][1]
    listeners.close()


def test_when_one_address_fails_none_stays_bound(tmp_path: Path) -> None:
    path = tmp_path / "s"

    with pytest.raises(BindError):
        bind_sockets([f"unix:{path}", "192.0.2.1:0"])

    assert not path.exists()


def test_a_unix_socket_is_for_its_owner_only_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"

    listeners = bind_sockets([f"unix:{path}"])

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert listeners.urls == (f"unix:{path}",)
    listeners.close()
    assert not path.exists()
    listeners.close()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o770])
def test_a_unix_socket_has_its_mode_before_anyone_can_connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    path = tmp_path / "s"
    modes: list[int] = []
    listen = socket.socket.listen

    def observed_listen(self: socket.socket, backlog: int) -> None:
        modes.append(stat.S_IMODE(path.stat().st_mode))
        listen(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", observed_listen)
    umask = os.umask(0o027)  # a service's own, which the mode does not depend on

    try:
        listeners = bind_sockets([f"unix:{path}"], unix_mode=mode)
    finally:
        left = os.umask(umask)

    assert modes == [mode]
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert left == 0o027
    listeners.close()


@pytest.mark.parametrize("backlog", [100, 0], ids=["room", "full"])
def test_a_live_owners_unix_socket_is_not_taken_over(tmp_path: Path, backlog: int) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as owner, socket.socket(socket.AF_UNIX) as client:
        owner.bind(str(path))
        owner.listen(backlog)
        client.connect(str(path))

        with pytest.raises(BindError, match="already in use"):
            bind_sockets([f"unix:{path}"])


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))

    listeners = bind_sockets([f"unix:{path}"])

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listeners.close()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_file_that_is_no_socket_is_not_deleted(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    target = tmp_path / "precious"
    target.write_text("precious")
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(target)

    with pytest.raises(BindError, match="is not a socket"):
        bind_sockets([f"unix:{path}"])

    assert os.path.lexists(path)
    assert target.read_text() == "precious"


def test_a_successors_unix_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = bind_sockets([f"unix:{path}"])
    path.unlink()
    second = bind_sockets([f"unix:{path}"])

    first.close()

    assert path.exists()
    second.close()


async def test_several_addresses_serve_the_same_application(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async with served(echo, "127.0.0.1:0", "127.0.0.2:0", f"unix:{path}") as server:
        for url in server.urls[:2]:
            host, _, port = url.removeprefix("http://").partition(":")
            client = Client(await trio.open_tcp_stream(host, int(port)))
            assert (await client.request(get("/", "Connection: close"))).status == 200
            client.close()
        client = Client(await trio.open_unix_socket(str(path)))
        assert (await client.request(get())).status == 200
        client.close()

    assert not path.exists()


async def test_a_port_that_another_listens_on_by_now_is_one_line() -> None:
    """Both were bound, neither listened; the other was first to."""
    listeners = bind_sockets(["127.0.0.1:0"])
    sock = listeners.bound[0].socket
    address = listeners.urls[0].removeprefix("http://")
    # A program that has bound with SO_REUSEADDR in the moment before the address is listened on.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(sock.getsockname())
        other.listen()

        with pytest.raises(BindError) as caught:
            await serve(echo, listeners, HttpSettings(), AccessControl(), closing=trio.Event())

    assert str(caught.value) == f"cannot bind {address}: the address is already in use"


def test_a_unix_socket_that_cannot_be_removed_is_said_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    listeners = bind_sockets([f"unix:{tmp_path}/s"])
    monkeypatch.setattr(Path, "unlink", refuse)

    listeners.close()

    [record] = caplog.records
    assert record.message == "socket_not_removed"


TOKENS = TokenTable.of(["control c-token"])


@pytest.mark.parametrize(
    ("address", "options", "event"),
    [
        ("0.0.0.0:0", {}, "listening_to_anyone"),
        ("0.0.0.0:0", {"tokens": TOKENS}, "page_without_tls"),
        ("0.0.0.0:0", {"tokens": TOKENS, "ui": False}, None),
        ("0.0.0.0:0", {"tokens": TOKENS, "secure_cookie": True}, None),
        ("0.0.0.0:0", {"tokens": TOKENS, "tls": load_certificate(CERTIFICATE, KEY)}, None),
        ("127.0.0.1:0", {}, None),
        ("127.0.0.1:0", {"tokens": TOKENS}, None),
    ],
)
async def test_what_others_can_reach_or_read_is_warned_of(
    caplog: pytest.LogCaptureFixture, address: str, options: dict[str, Any], event: str | None
) -> None:
    async with served(echo, address, **options):
        pass

    warned = [
        record.message
        for record in caplog.records
        if (record.name, record.levelname) == ("trio_jobs.server", "WARNING")
    ]
    assert warned == ([] if event is None else [event])


def test_mark_tells_a_server_from_others_of_its_machine(tmp_path: Path) -> None:
    with (
        closing(bind_sockets(["127.0.0.1:0"])) as tcp,
        closing(bind_sockets([f"unix:{tmp_path}/a"])) as first,
        closing(bind_sockets([f"unix:{tmp_path}/b"])) as second,
    ):
        assert tcp.mark == tcp.urls[0].rpartition(":")[2]
        assert re.fullmatch("[0-9a-f]{8}", first.mark)
        assert first.mark != second.mark
