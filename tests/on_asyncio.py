"""Running the tests of asyncio programs: each in a loop of its own, with a time limit."""

import asyncio
import functools
import inspect
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, ParamSpec

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


@types.coroutine
def cancelled_at(step: int, program: Coroutine[Any, Any, None]) -> Generator[Any, Any, int]:
    """Run a program, and cancel its task as it suspends for this time, counted from 0.

    Returns:
        How often the program has suspended, if it comes to its end.
    """
    task = asyncio.current_task()
    assert task is not None
    suspended = 0
    resume: Callable[[Any], Any] = program.send
    value: Any = None
    while True:
        try:
            future = resume(value)
        except StopIteration:
            return suspended
        if suspended == step:
            task.cancel()
        suspended += 1
        try:
            value = yield future
            resume = program.send
        except BaseException as error:  # noqa: BLE001 - the program's to handle
            value, resume = error, program.throw
