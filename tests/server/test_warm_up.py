"""The request before the first."""

import errno
import socket

import pytest
import trio

from trio_jobs.server.transport import Transport

from .serving import Receive, Scope, Send, answer, echo, get, http_only, served


async def test_the_application_is_asked_once_before_anyone_is_let_in() -> None:
    paths: list[str] = []

    @http_only
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        paths.append(scope["path"])
        await answer(send)

    async with served(app, health_path="/warm") as server:
        assert paths == ["/warm"]
        await server.request(get("/first"))

    assert paths == ["/warm", "/first"]


async def test_a_warm_up_that_fails_does_not_keep_the_server_from_starting() -> None:
    @http_only
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/warm":
            raise ValueError("a fault of the application")
        await echo(scope, receive, send)

    async with served(app, health_path="/warm") as server:
        assert (await server.request(get())).status == 200


async def test_a_warm_up_whose_connection_is_reset_does_not_keep_the_server_from_starting(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        monkeypatch.undo()
        raise ValueError("a fault of the server")

    monkeypatch.setattr(Transport, "receive_nowait", fail)

    async with served(echo, health_path="/warm") as server:
        assert (await server.request(get())).status == 200

    assert "connection_failed" in caplog.text


async def test_a_warm_up_without_descriptors_is_left_out_with_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", refuse)

    async with served(echo, health_path="/warm") as server:
        assert (await server.request(get())).status == 200

    assert "warm_up_failed" in caplog.text


async def test_a_warm_up_that_hangs_is_given_up_with_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_jobs.server.serve._WARM_UP_SECONDS", 0.05)

    @http_only
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/warm":
            await trio.sleep_forever()
        await echo(scope, receive, send)

    async with served(app, health_path="/warm") as server:
        assert (await server.request(get())).status == 200

    assert "warm_up_too_slow" in caplog.text
