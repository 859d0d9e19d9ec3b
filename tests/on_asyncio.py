"""Running the tests of asyncio programs: each in a loop of its own, with a time limit."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import ParamSpec

import uvloop

from tests.command import PATIENCE

_P = ParamSpec("_P")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def run(program: Callable[[], Awaitable[None]], *, loop: str = "asyncio") -> None:
    """Run a program on a loop of this kind; it may take `PATIENCE` at most."""

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await program()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(bounded())


def on_asyncio(test: Callable[_P, Awaitable[None]]) -> Callable[_P, None]:
    """Make a plain test that runs an async one in an asyncio program."""

    def run_test(*args: _P.args, **kwargs: _P.kwargs) -> None:
        run(functools.partial(test, *args, **kwargs))

    return as_plain(test, run_test)


def as_plain(test: Callable[..., object], run_test: Callable[_P, None]) -> Callable[_P, None]:
    """Give ``run_test`` the name and the fixtures of an async test.

    pytest-trio would run a coroutine function that it finds by ``__wrapped__``.
    """
    own = [each for each in inspect.signature(run_test).parameters.values() if each.kind.value == 1]
    functools.update_wrapper(run_test, test)
    del run_test.__wrapped__  # type: ignore[attr-defined]
    parameters = inspect.signature(test).parameters.values()
    run_test.__signature__ = inspect.Signature([*own, *parameters])  # type: ignore[attr-defined]
    return run_test
