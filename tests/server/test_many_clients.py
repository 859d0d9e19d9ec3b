"""More clients than there should be: the cap, and what happens without descriptors."""

import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from .serving import Client, echo, get, post, served


@contextlib.contextmanager
def descriptors_used_up() -> Iterator[None]:
    """Nobody in this process can open anything in this block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/dev/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_the_end_of_a_connection_is_told_when_its_descriptor_is_free() -> None:
    open_then: list[int] = []

    def open_now() -> int:
        return sum(1 for _ in Path("/dev/fd").iterdir())

    async with served(echo, connection_closed=lambda: open_then.append(open_now())) as server:
        before = open_now()
        client = await server.connect()
        await client.request(get())
        client.close()
        await server.wait_alone()

    assert open_then == [before]


async def test_at_the_cap_others_wait_and_nobody_who_is_connected_suffers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with served(echo, max_connections=3) as server:
        inside = [await server.connect() for _ in range(3)]
        for client in inside:
            await client.request(get())
        waiting = [await server.connect() for _ in range(5)]
        for client in waiting:
            await client.send(post(b"waited"))

        for client in inside:
            assert (await client.request(get())).status == 200
        inside[0].close()

        assert (await waiting[0].receive_answer()).body == b"waited"
        for n, client in enumerate(inside[1:] + waiting[:-1], start=1):
            client.close()
            if n >= 3:
                assert (await waiting[n - 2].receive_answer()).body == b"waited"

    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("connection_limit_reached") == 1


@pytest.mark.parametrize("limit", [1, 3])
async def test_the_cap_holds_over_several_addresses_and_none_of_them_starves(limit: int) -> None:
    addresses = ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"]
    async with served(echo, *addresses, max_connections=limit) as server:

        async def connect(address: int) -> Client:
            host, _, port = server.urls[address].removeprefix("http://").partition(":")
            client = Client(await trio.open_tcp_stream(host, int(port)))
            server.clients.append(client)
            await client.send(post(b"hello"))
            return client

        for _ in range(3):
            inside = [await connect(0) for _ in range(limit)]
            for client in inside:
                assert (await client.receive_answer()).status == 200
            others = [await connect(1), await connect(2)]
            await wait_all_tasks_blocked(0.01)
            assert server.connections() == limit

            others.pop(0).close()  # its loop is woken for nothing
            for client in inside:
                client.close()

            assert (await others[0].receive_answer()).status == 200
            others[0].close()
            await server.wait_alone()
            for address in (2, 1, 0):
                client = await connect(address)
                assert (await client.receive_answer()).status == 200
                client.close()
                await server.wait_alone()


async def test_two_thousand_idle_clients_hold_up_nobody() -> None:
    count = 2000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * count + 1000
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} descriptors, the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        async with served(
            echo, patience=150, keep_alive_timeout=1000, graceful_timeout=1000
        ) as server:
            idle: list[socket.socket] = []
            try:
                for n in range(count):
                    idle.append(socket.create_connection(("127.0.0.1", server.port)))
                    if n % 100 == 0:  # the backlog holds more than that
                        assert (await server.request(get())).status == 200

                # A busy machine takes connections later than `connect` has returned here.
                with trio.fail_after(30):
                    while server.connections() <= count * 0.99:  # noqa: ASYNC110 - nothing tells
                        await trio.sleep(0.01)
                for _ in range(20):
                    with trio.fail_after(30):  # normally a few milliseconds
                        assert (await server.request(post(b"x"))).body == b"x"
                with trio.fail_after(30):  # normally half a second
                    server.closing.set()
                    await server.ended.wait()
            finally:
                for client in idle:
                    client.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_who_is_connected_is_served_and_others_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with served(echo) as server:
        client = await server.connect()
        late = [socket.socket() for _ in range(3)]
        await client.request(get())
        with descriptors_used_up():
            for sock in late:
                sock.connect(("127.0.0.1", server.port))
                sock.sendall(post(b"late"))
            for _ in range(5):
                assert (await client.request(post(b"inside"))).body == b"inside"
                await trio.sleep(0.1)

        for sock in late:
            outside = Client(trio.SocketStream(trio.socket.from_stdlib_socket(sock)))
            with trio.fail_after(30):  # normally 0.1 s
                assert (await outside.receive_answer()).body == b"late"
            outside.close()

    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("cannot_accept") == 1
