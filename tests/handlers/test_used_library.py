"""A start warns of an async handler whose code uses a library of the other event loop."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest
import trio

from trio_jobs import Handler
from trio_jobs.handlers.used_library import find_wrong_loop

sleep_on_asyncio = asyncio.sleep

ON_TRIO = 'runs on Trio, and uses asyncio: run = "asyncio"'
ON_ASYNCIO = 'runs on asyncio, and uses trio: run = "trio"'


async def uses_it(_: object) -> None:
    await asyncio.sleep(1)


async def uses_a_function_of_it(_: object) -> None:
    await sleep_on_asyncio(1)


async def uses_it_within(_: object) -> None:
    async def inner() -> None:
        await asyncio.sleep(1)

    await inner()


async def uses_it_elsewhere(payload: object) -> None:
    await uses_it(payload)


async def imports_it(_: object) -> None:
    import asyncio.locks  # noqa: F401


async def uses_itself(payload: object) -> None:
    await uses_itself(payload)


async def uses_trio(_: object) -> None:
    await trio.sleep(1)


async def brings_its_own_loop(payload: object) -> None:
    await trio.to_thread.run_sync(asyncio.run, uses_it(payload))


class Worker:
    """An object whose method, and which itself, may be a handler."""

    async def method(self, _: object) -> None:
        await asyncio.sleep(1)

    async def __call__(self, _: object) -> None:
        await asyncio.sleep(1)


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: object) -> object:
        return await function(*args)

    return wrapper


@pytest.mark.parametrize(
    ("function", "on_trio", "on_asyncio"),
    [
        *(
            (each, ON_TRIO, None)
            for each in (
                uses_it,
                uses_a_function_of_it,
                uses_it_within,
                uses_it_elsewhere,
                imports_it,
                functools.partial(uses_it),
                Worker().method,
                Worker(),
            )
        ),
        pytest.param(wrapped(uses_it), ON_TRIO, None, id="wrapped"),
        (uses_itself, None, None),
        (uses_trio, None, ON_ASYNCIO),
        (brings_its_own_loop, None, None),
    ],
)
def test_the_code_of_a_handler_shows_the_loop_that_it_needs(
    function: Callable[..., object], on_trio: str | None, on_asyncio: str | None
) -> None:
    assert find_wrong_loop(Handler.of(function, run="trio"), function) == on_trio
    assert find_wrong_loop(Handler.of(function, run="asyncio"), function) == on_asyncio


def test_a_plain_function_needs_no_loop() -> None:
    def function(_: object) -> None:
        asyncio.run(asyncio.sleep(0))

    assert find_wrong_loop(Handler.of(function), function) is None


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("aiosmtplib", "aiosmtplib"),
        ("sqlalchemy.ext.asyncio", "sqlalchemy.ext.asyncio.engine"),
        ("redis.asyncio", "redis.asyncio"),
    ],
)
def test_a_library_is_known_by_its_module(library: str, name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"async def work(payload):\n    import {name}\n", namespace)  # noqa: S102

    advice = find_wrong_loop(Handler.of(namespace["work"]), namespace["work"])

    assert advice == f'runs on Trio, and uses {library}, which needs asyncio: run = "asyncio"'
