"""`CarriedApp`: requests of a server on asyncio, answered by an application in a Trio thread."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest
import trio

from tests.command import PATIENCE
from tests.on_asyncio import cancelled_at, on_asyncio
from trio_jobs import trio_thread
from trio_jobs.carried_app import CarriedApp, Receive, Send
from trio_jobs.mounted_api import App
from trio_jobs.trio_thread import TrioThread

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


@asynccontextmanager
async def carried(app: App) -> AsyncIterator[CarriedApp]:
    thread: TrioThread[None] = TrioThread(nullcontext, grace_period=10 * PATIENCE)
    async with thread:
        yield CarriedApp(app, thread, closed=closed)


async def closed(scope: object, receive: Receive, send: Send) -> None:
    assert not trio.lowlevel.in_trio_task()
    await send("closed")


class Server:
    """A server's side of one request.

    Attributes:
        messages: What `receive` gives, one at a time; it waits while there is none.
        story: What has happened, in order.
        receiving: Set while `receive` waits.
    """

    def __init__(self, *messages: object) -> None:
        self.messages: asyncio.Queue[object] = asyncio.Queue()
        for message in messages:
            self.messages.put_nowait(message)
        self.story: list[object] = []
        self.receiving = asyncio.Event()

    async def receive(self) -> object:
        if self.messages.empty():
            self.receiving.set()
        try:
            message = await self.messages.get()
        except asyncio.CancelledError:
            self.story.append("receive cancelled")
            raise
        self.story.append(f"received {message}")
        return message

    async def send(self, message: object) -> None:
        self.story.append(f"sent {message}")


async def echo(scope: Any, receive: Receive, send: Send) -> None:  # noqa: ANN401
    assert trio.lowlevel.in_trio_task()
    await send(scope)
    await send(await receive())


@on_asyncio
async def test_receive_and_send_of_the_server_run_on_its_loop() -> None:
    server = Server(1)
    async with carried(echo) as app:
        await app(0, server.receive, server.send)

    assert server.story == ["sent 0", "received 1", "sent 1"]


@on_asyncio
async def test_server_and_application_have_the_context_of_the_request() -> None:
    seen: list[str] = []

    async def app(scope: object, receive: Receive, send: Send) -> None:
        seen.append(VARIABLE.get())
        await send(None)

    async def send(message: object) -> None:
        seen.append(VARIABLE.get())

    async with carried(app) as carried_app:
        VARIABLE.set("the request's")
        await carried_app(None, Server().receive, send)

    assert seen == ["the request's"] * 2


@on_asyncio
async def test_cancelled_receive_loses_no_message() -> None:
    """A route waits for its job or for a disconnect, and then goes on reading."""
    server = Server()
    given_up = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def app(scope: object, receive: Receive, send: Send) -> None:
        with trio.CancelScope() as scope_:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                scope_.cancel()
        loop.call_soon_threadsafe(given_up.set)
        await send(await receive())

    async with carried(app) as carried_app:
        request = asyncio.create_task(carried_app(None, server.receive, server.send))
        await given_up.wait()
        server.messages.put_nowait("the rest")
        await request

    assert server.story == ["received the rest", "sent the rest"]


@on_asyncio
async def test_receive_that_nobody_waits_for_ends_with_the_request() -> None:
    server = Server()
    receiving = threading.Event()

    async def app(scope: object, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.to_thread.run_sync(receiving.wait)
            nursery.cancel_scope.cancel()

    async def receive() -> object:
        receiving.set()
        return await server.receive()

    async with carried(app) as carried_app:
        await carried_app(None, receive, server.send)

        assert server.story == ["receive cancelled"]


@on_asyncio
async def test_request_that_the_server_cancels_is_cancelled_in_the_thread() -> None:
    server = Server()
    async with carried(echo) as carried_app:
        request = asyncio.create_task(carried_app(0, server.receive, server.send))
        await server.receiving.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

        assert server.story == ["sent 0", "receive cancelled"]


@on_asyncio
async def test_request_may_be_cancelled_at_each_step() -> None:
    """Nothing of it is left on either side."""
    running = 0

    async def app(scope: object, receive: Receive, send: Send) -> None:
        nonlocal running
        running += 1
        try:
            await echo(scope, receive, send)
        finally:
            running -= 1

    async def request(carried_app: CarriedApp) -> None:
        server = Server(1)
        await carried_app(0, server.receive, server.send)

    async def whole(steps: Awaitable[int]) -> int:
        return await steps

    step = 0
    cancelled = True
    async with carried(app) as carried_app:
        while cancelled:
            task = asyncio.create_task(whole(cancelled_at(step, request(carried_app))))
            await asyncio.wait([task])
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert running == 0
            cancelled = task.cancelled()
            step += 1
    assert step > 1


@on_asyncio
async def test_send_that_hangs_is_cancelled_with_its_request() -> None:
    sending, story = asyncio.Event(), []

    async def send(message: object) -> None:
        sending.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            story.append("send cancelled")
            raise

    async with carried(echo) as carried_app:
        request = asyncio.create_task(carried_app(0, Server().receive, send))
        await sending.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    assert story == ["send cancelled"]


@pytest.mark.parametrize("failing", ["receive", "send", "application"])
@on_asyncio
async def test_error_of_one_side_reaches_the_other(failing: str) -> None:
    async def fail(*_: object) -> Any:  # noqa: ANN401
        raise OSError(failing)

    server = Server(1)
    sides: dict[str, Callable[..., Awaitable[Any]]] = {
        "receive": server.receive,
        "send": server.send,
        "application": echo,
    }
    sides[failing] = fail
    async with carried(sides["application"]) as app:
        with pytest.raises(OSError, match=failing):
            await app(0, sides["receive"], sides["send"])


@on_asyncio
async def test_thread_that_has_ended_answers_by_another_application() -> None:
    server = Server()
    async with carried(echo) as app:
        pass

    await app(0, server.receive, server.send)

    assert server.story == ["sent closed"]


@pytest.mark.parametrize("begun", [False, True])
@on_asyncio
async def test_thread_that_ends_under_a_request_leaves_no_half_answer(
    begun: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trio_thread, "_ANSWERING", 0)
    server = Server()
    running = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def app(scope: object, receive: Receive, send: Send) -> None:
        if begun:
            await send("head")
        loop.call_soon_threadsafe(running.set)
        await trio.sleep_forever()

    async with carried(app) as carried_app:
        request = asyncio.create_task(carried_app(None, server.receive, server.send))
        await running.wait()

    if begun:
        with pytest.raises(trio.RunFinishedError):
            await request
    else:
        await request
    assert server.story == (["sent head"] if begun else ["sent closed"])
