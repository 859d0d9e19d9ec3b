"""The programs that a `JobQueue` may be in: on Trio, on asyncio, on uvloop."""

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec

import pytest
import trio

from tests import on_asyncio
from tests.command import PATIENCE

_P = ParamSpec("_P")

HOSTS = ["trio", *on_asyncio.LOOPS]


def run_on(host: str, program: Callable[[], Awaitable[None]]) -> None:
    """Run a program; it may take `PATIENCE` at most."""
    if host != "trio":
        on_asyncio.run(program, loop=host)
        return

    async def bounded() -> None:
        with trio.fail_after(PATIENCE):
            await program()

    trio.run(bounded)


def on_each_host(test: Callable[_P, Awaitable[None]]) -> Callable[..., None]:
    """Make a plain test that runs an async one in a program of each kind."""

    def run_test(host: str, *args: _P.args, **kwargs: _P.kwargs) -> None:
        run_on(host, functools.partial(test, *args, **kwargs))

    return pytest.mark.parametrize("host", HOSTS)(on_asyncio.as_plain(test, run_test))
