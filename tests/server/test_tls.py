"""TLS: everything holds there too."""

import logging
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
import trio
import trio.testing

from trio_jobs.server.tls import load_certificate

from .serving import (
    Client,
    Receive,
    Scope,
    Send,
    Served,
    answer,
    echo,
    get,
    http_only,
    post,
    served,
)

pytestmark = pytest.mark.usefixtures("ways")

HERE = Path(__file__).parent
# Made for these tests and for nothing else.
CERTIFICATE, KEY = str(HERE / "localhost.crt"), str(HERE / "localhost.key")


async def connect(server: Served, *alpn: str) -> Client:
    context = ssl.create_default_context(cafile=CERTIFICATE)
    context.set_alpn_protocols(alpn or ["http/1.1"])
    transport = (await server.connect()).stream
    stream = trio.SSLStream(transport, context, server_hostname="localhost", https_compatible=True)
    await stream.do_handshake()
    return Client(stream)


async def test_requests_are_answered_over_tls() -> None:
    async with served(echo, tls=load_certificate(CERTIFICATE, KEY)) as server:
        client = await connect(server)
        assert server.urls[0].startswith("https://127.0.0.1:")
        assert (await client.request(post(b"hello"))).body == b"hello"
        assert (await client.request(post(bytes(500_000)))).body == bytes(500_000)
        assert (await client.request(get("/", "Connection: close"))).status == 200
        assert await client.stream.receive_some(1) == b""


async def test_http_2_is_not_offered_and_the_application_is_told_the_scheme() -> None:
    @http_only
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await answer(send, scope["scheme"].encode())

    async with served(app, tls=load_certificate(CERTIFICATE, KEY)) as server:
        client = await connect(server, "h2", "http/1.1")

        assert client.stream.selected_alpn_protocol() == "http/1.1"
        assert (await client.request(get())).body == b"https"


NO_TLS = [get(), b"\x16\x03\x01\x00\x05hello", b"\0" * 1000, b"G"]


@pytest.mark.parametrize("data", NO_TLS)
async def test_bytes_that_are_no_tls_end_that_connection_only(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(echo, tls=load_certificate(CERTIFICATE, KEY)) as server:
        await server.exchange(data)
        (await server.connect()).close()  # one that merely leaves has no line

        client = await connect(server)
        assert (await client.request(get())).status == 200
    assert not any(record.levelno > logging.WARNING for record in caplog.records)
    assert "connection_failed" not in caplog.text
    # One line that says what it was, unless there was nothing to understand.
    failures = [vars(record) for record in caplog.records if record.message == "tls_failed"]
    assert len(failures) <= 1
    assert all(failure["reason"] and failure["exc_info"] is None for failure in failures)
    if data == get():
        assert [failure["reason"] for failure in failures] == ["HTTP_REQUEST"]


async def test_an_early_answer_reaches_a_client_that_is_still_sending() -> None:
    tls = load_certificate(CERTIFICATE, KEY)
    async with served(echo, tls=tls, max_body_bytes=1000) as server:
        for _ in range(5):
            client = await connect(server)
            assert (await client.request(post(bytes(3_000_000)))).status == 413
            client.close()


async def test_a_client_that_does_not_shake_hands_is_closed_in_time() -> None:
    tls = load_certificate(CERTIFICATE, KEY)
    async with served(echo, tls=tls, header_timeout=0.2) as server:
        assert await (await server.connect()).receive_rest() == b""


async def test_clients_in_the_handshake_do_not_hold_up_the_stop() -> None:
    tls = load_certificate(CERTIFICATE, KEY)
    async with served(echo, tls=tls, graceful_timeout=1000) as server:
        silent = [await server.connect() for _ in range(3)]
        await silent[0].send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        idle = await connect(server)
        await idle.request(get())
        await trio.testing.wait_all_tasks_blocked()
        last = await server.connect()  # accepted perhaps, and no more

        with trio.fail_after(50):  # normally 2 ms
            server.closing.set()
            await server.ended.wait()

        for client in [*silent, last]:
            assert await client.receive_rest() == b""


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a key with a password")
def test_a_certificate_that_cannot_be_used_is_one_line_that_names_the_files(
    tmp_path: Path,
) -> None:
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")

    locked = tmp_path / "locked"
    command = ["openssl", "pkey", "-in", KEY, "-aes256", "-passout", "pass:x", "-out", str(locked)]
    subprocess.run(command, check=True)

    for certfile, keyfile, wrong in [
        (CERTIFICATE, str(locked), str(locked)),
        ("/no/such/file", KEY, "/no/such/file"),
        (CERTIFICATE, "/no/such/file", "/no/such/file"),
        (str(nonsense), KEY, str(nonsense)),
        (CERTIFICATE, str(nonsense), str(nonsense)),
    ]:
        with pytest.raises(ValueError, match="cannot use") as caught:
            load_certificate(certfile, keyfile)

        assert repr(wrong) in str(caught.value)
        assert "\n" not in str(caught.value)
