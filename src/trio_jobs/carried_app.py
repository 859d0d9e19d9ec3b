"""`CarriedApp`: an ASGI application in a thread of Trio's, for a server that runs asyncio."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from trio_jobs.handlers.asyncio_task import AsyncioTask
from trio_jobs.mounted_api import App
from trio_jobs.trio_thread import TrioThread

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

# Seconds. How long a request that has ended waits for the server's `receive` or `send` to unwind.
_UNWINDING = 1.0


class CarriedApp:
    """An application for servers on asyncio. Each request is a task in the thread.

    The server's ``receive`` and ``send`` are called in tasks on the server's loop. A request that
    the server cancels is cancelled in the thread.

    Args:
        app: Runs in the thread.
        thread: Runs Trio.
        closed: Answers in the server's loop if the thread has ended, or ends before the application
            has begun its answer.
    """

    def __init__(self, app: App, thread: TrioThread[Any], *, closed: App) -> None:
        self._app = app
        self._thread = thread
        self._closed = closed

    async def __call__(self, scope: object, receive: Receive, send: Send) -> None:
        """Run one request.

        Raises:
            trio.RunFinishedError: The thread has ended in the middle of the answer.
            BaseException: The error of the application.
        """
        begun = False

        async def send_and_note(message: object) -> None:
            nonlocal begun
            begun = True
            await send(message)

        loop = asyncio.get_running_loop()
        try:
            await self._thread.call(_run_request, self._app, scope, loop, receive, send_and_note)
        except trio.RunFinishedError:
            if begun:
                raise
            await self._closed(scope, receive, send)


# In the thread. -------------------------------------------------------------------------------


async def _run_request(
    app: App,
    scope: object,
    loop: asyncio.AbstractEventLoop,
    receive: Receive,
    send: Send,
) -> None:
    receiver = _Receiver(loop, receive)
    try:
        await app(scope, receiver.receive, partial(_send, loop, send))
    finally:
        await receiver.close()  # noqa: ASYNC102 - it has a shield


class _Receiver:
    """Calls the server's ``receive``. A cancelled call loses no message: the next call gets it.

    Args:
        loop: The server's.
        receive: The server's function.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Receive) -> None:
        self._loop = loop
        self._receive = receive
        self._task: AsyncioTask[Any] | None = None  # nobody has its message yet

    async def receive(self) -> Any:  # noqa: ANN401
        """The next message."""
        if self._task is None:
            self._task = AsyncioTask(self._loop, self._receive, name="receive")
        task = self._task
        await task.done.wait()
        self._task = None
        return task.result.unwrap()

    async def close(self) -> None:
        """Cancel a call whose message nobody wants, and wait for its end."""
        if self._task is not None:
            await self._task.unwind(seconds=_UNWINDING)


async def _send(loop: asyncio.AbstractEventLoop, send: Send, message: object) -> None:
    task = AsyncioTask(loop, send, message, name="send")
    try:
        await task.done.wait()
    finally:
        await task.unwind(seconds=_UNWINDING)  # noqa: ASYNC102 - it has a shield
    task.result.unwrap()
