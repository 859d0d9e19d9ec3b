"""A lifespan on asyncio, as Trio sees it: an async context manager."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio

from trio_jobs.handlers.asyncio_task import AsyncioTask
from trio_jobs.handlers.lifespan import Lifespan


@asynccontextmanager
async def enter_on_asyncio(
    loop: asyncio.AbstractEventLoop, lifespan: Lifespan
) -> AsyncIterator[object]:
    """A block around which a task on the loop enters the async context manager, and leaves it.

    If the context manager ends before the block does, the block is cancelled. Leaving the block
    raises what the context manager has raised.

    Raises:
        LifespanError: The context manager cannot be entered.

    Cancellation:
        Cancels the task. A task that is still entering gets a bounded time to unwind.
    """
    token = trio.lowlevel.current_trio_token()
    closing = asyncio.Event()  # set and awaited on the loop
    states: list[object] = []
    opened = trio.Event()
    entered = False

    def note_open(state: object) -> None:
        states.append(state)
        opened.set()

    tell_open = partial(_tell, token, note_open)
    until_ended = trio.CancelScope()
    task = AsyncioTask(
        loop,
        _hold,
        lifespan,
        tell_open,
        closing,
        name=f"lifespan {lifespan.name}",
        when_done=until_ended.cancel,
    )
    try:
        with until_ended:
            await opened.wait()
            entered = True
            yield states[0]
        if not states:
            with lifespan.opening():
                task.result.unwrap()
        if not task.done.is_set():
            with suppress(RuntimeError):  # the program has closed its loop
                loop.call_soon_threadsafe(closing.set)
            await task.done.wait()
    except trio.Cancelled:
        if entered:
            task.cancel()
        else:
            # The end of the loop cancels each task that is left. So wait for this one: that second
            # cancel would interrupt its clean-up.
            await task.unwind()  # noqa: ASYNC102 - shielded, and bounded
        raise
    task.result.unwrap()


async def _hold(
    lifespan: Lifespan, tell_open: Callable[[object], None], closing: asyncio.Event
) -> None:
    async with lifespan.make_async() as state:
        tell_open(state)
        await closing.wait()


def _tell(
    token: trio.lowlevel.TrioToken, note_open: Callable[[object], None], state: object
) -> None:
    with suppress(trio.RunFinishedError):
        token.run_sync_soon(note_open, state)
