"""The stop: nobody is refused before it, and nobody holds it up."""

import logging
from typing import Any

import pytest
import trio
import trio.testing

from tests.support import Access, AccessControl, HttpSettings
from trio_jobs.server.serve import serve
from trio_jobs.server.sockets import bind_sockets

from .serving import (
    AnswerNow,
    Client,
    Fields,
    Receive,
    Scope,
    Send,
    answer,
    body_of,
    echo,
    get,
    http_only,
    now,
    post,
    served,
)

pytestmark = pytest.mark.usefixtures("ways")

GRACE = 0.3
LIMITS: dict[str, Any] = {"graceful_timeout": GRACE}
# How long a stop may take beyond what it has to wait for, on a busy machine; and far longer.
MARGIN = 50.0
FAR = 1000.0


class Application:
    """Holds ``/hold`` requests until they are released, floods, and answers the rest."""

    def __init__(self) -> None:
        self.holding = trio.Event()
        self.release = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/hold":
            self.holding.set()
            await self.release.wait()
        if scope["path"] == "/stream":
            body_of(scope).lift(idle_timeout=60)
        if scope["path"] == "/flood":
            await answer(send, bytes(50_000_000))
        elif scope["path"] == "/shield":
            with trio.CancelScope(shield=True):
                await receive()
                await receive()
        else:
            await echo(scope, receive, send)

    def answer_now(
        self, _method: str, target: bytes, _fields: Fields, body: bytes, _access: Access
    ) -> AnswerNow | None:
        if target in {b"/hold", b"/stream", b"/shield"}:
            return None
        return now(bytes(50_000_000) if target == b"/flood" else body)


@pytest.fixture
def app() -> Application:
    return Application()


async def test_an_idle_server_stops_at_once_with_idle_clients_connected(app: Application) -> None:
    async with served(app, graceful_timeout=FAR) as server:
        clients = [await server.connect() for _ in range(10)]
        for client in clients[:9]:
            assert (await client.request(get())).status == 200

        with trio.fail_after(MARGIN):  # normally 2 ms
            server.closing.set()
            await server.ended.wait()

        for client in clients:
            assert await client.receive_rest() == b""


async def test_a_stop_refuses_new_clients_and_gives_the_answers_that_are_due(
    app: Application,
) -> None:
    async with served(app, graceful_timeout=FAR) as server:
        idle, client = await server.connect(), await server.connect(get("/hold"))
        await app.holding.wait()
        assert (await idle.request(get())).status == 200

        server.closing.set()
        assert await idle.receive_rest() == b""
        with pytest.raises(OSError, match="connect"):
            await server.connect()
        app.release.set()

        reply = await client.receive_answer()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await client.receive_rest() == b""


async def test_a_request_that_never_ends_is_cut_after_the_graceful_timeout(
    app: Application, caplog: pytest.LogCaptureFixture
) -> None:
    """S10."""
    async with served(app, **LIMITS) as server:
        client = await server.connect(get("/hold"))
        await app.holding.wait()

        server.closing.set()

        assert await client.receive_rest() == b""
        with trio.fail_after(MARGIN):
            await server.ended.wait()

    [line] = [record for record in caplog.records if record.getMessage() == "connections_cut"]
    assert vars(line)["count"] == 1


# What a client has sent when the stop begins, and whether it then gets an answer if it goes on.
STAGES = {
    "nothing": (b"", b"", None),
    "half a request line": (b"GE", b"T / HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    "half the headers": (get()[:-2], b"\r\n", 200),
    "half of a short body": (post(b"hello")[:-3], b"llo", 200),
    "half of a long body": (post(bytes(100_000))[:-3], bytes(3), 200),
    "half of a lifted body": (post(bytes(100_000), "/stream")[:-3], bytes(3), 200),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("client_goes_on", [True, False])
async def test_a_stop_at_any_stage_of_a_request(
    app: Application, stage: str, *, client_goes_on: bool
) -> None:
    start, rest, status = STAGES[stage]
    is_answered = client_goes_on and status is not None

    async with served(app, graceful_timeout=FAR if is_answered else GRACE) as server:
        client = await server.connect()
        if start:
            await client.send(start)
        await trio.testing.wait_all_tasks_blocked(0.02)

        with trio.fail_after(GRACE + MARGIN):
            server.closing.set()
            await trio.testing.wait_all_tasks_blocked()
            if is_answered:
                assert (await client.request(rest)).status == status
            else:
                assert await client.receive_rest() == b""
            await server.ended.wait()


async def test_clients_of_every_kind_are_still_connected_and_the_stop_keeps_its_bound(
    app: Application,
) -> None:
    async with served(app, **LIMITS) as server:
        for data in (
            b"",
            get(),
            b"GET / HT",
            post(bytes(10))[:-5],
            post(bytes(100_000))[:-5],
            post(bytes(100_000), "/stream")[:-5],
            get("/flood"),
            get("/flood") * 100,
            get() * 100,
            get("/hold"),
            post(bytes(2_000_000)),
            b"NONSENSE\r\n\r\n",
        ):
            for _ in range(5):
                client = await server.connect()
                with trio.move_on_after(0.01):
                    await client.send(data)

        with trio.fail_after(GRACE + MARGIN):
            server.closing.set()
            await server.ended.wait()


async def test_an_application_that_shields_itself_is_told_by_its_socket(app: Application) -> None:
    async with served(app, **LIMITS) as server:
        await server.connect(get("/shield"))
        await trio.testing.wait_all_tasks_blocked(0.02)

        with trio.fail_after(GRACE + MARGIN):
            server.closing.set()
            await server.ended.wait()


async def test_cancelling_closes_everything_at_once(app: Application) -> None:
    listeners = bind_sockets(["127.0.0.1:0"])
    port = int(listeners.urls[0].rpartition(":")[2])

    async def run(  # noqa: ASYNC114, ASYNC128 - hands it on
        task_status: trio.TaskStatus[tuple[str, ...]],
    ) -> None:
        settings = HttpSettings(graceful_timeout=FAR)
        await serve(
            app,
            listeners,
            settings,
            AccessControl(),
            closing=trio.Event(),
            task_status=task_status,
        )

    with trio.fail_after(50):
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(3)]
            for stream, data in zip(streams, (b"", get("/hold"), get("/flood")), strict=True):
                await stream.send_all(data or b"G")
            await app.holding.wait()

            nursery.cancel_scope.cancel()
        for stream in streams:
            await Client(stream).receive_rest()
            await stream.aclose()


async def test_an_application_that_fails_while_it_is_cut_off_is_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    began = trio.Event()

    @http_only
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        try:
            began.set()
            await trio.sleep_forever()
        finally:
            raise ValueError("while it unwinds")

    async with served(app, graceful_timeout=0.01) as server:
        await server.connect(get())
        await began.wait()

    errors = [record.getMessage() for record in caplog.records if record.levelno > logging.WARNING]
    assert errors == ["request_failed"]
