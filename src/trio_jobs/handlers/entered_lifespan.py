"""A lifespan on Trio or in threads, as an async context manager of Trio's."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from trio_jobs.handlers.lifespan import Lifespan


@asynccontextmanager
async def enter_on_trio(lifespan: Lifespan) -> AsyncIterator[object]:
    """Enter the lifespan's async context manager in this task, and leave it after the block.

    Raises:
        LifespanError: The context manager cannot be entered.

    Cancellation:
        Passes to the context manager.
    """
    async with AsyncExitStack() as stack:
        with lifespan.opening(passing=trio.Cancelled):
            state = await stack.enter_async_context(lifespan.make_async())
        yield state


@asynccontextmanager
async def enter_in_thread(lifespan: Lifespan) -> AsyncIterator[object]:
    """Enter the lifespan's plain context manager in a thread, and leave it after the block in one.

    If the block raises, the context manager is not left: `HeldPlace`, the caller, raises nothing in
    an open block.

    Raises:
        LifespanError: The context manager cannot be entered.

    Cancellation:
        Leaves the thread behind.
    """

    def enter() -> tuple[AbstractContextManager[object], object]:
        manager = lifespan.make_plain()
        return manager, manager.__enter__()

    def leave() -> None:
        manager.__exit__(None, None, None)

    with lifespan.opening(passing=trio.Cancelled):
        manager, state = await _in_thread(enter)
    yield state
    await _in_thread(leave)


async def _in_thread(function: Callable[[], Any]) -> Any:  # noqa: ANN401 - what it returns
    # With a limiter of its own: handlers may have filled Trio's.
    return await trio.to_thread.run_sync(
        function,
        thread_name="lifespan",
        abandon_on_cancel=True,
        limiter=trio.CapacityLimiter(1),
    )
