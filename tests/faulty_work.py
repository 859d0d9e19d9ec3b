"""Handlers that return and raise what nobody should; copied beside the tests' ``config.toml``."""

import os
from collections.abc import Callable
from typing import Any

import msgspec
import trio


class UnprintableError(Exception):
    """Its text cannot be made."""

    def __str__(self) -> str:
        raise RuntimeError("no text either")


def _cycle() -> list[object]:
    cycle: list[object] = []
    cycle.append(cycle)
    return cycle


def _nested() -> list[object]:
    nested: list[object] = []
    for _ in range(30_000):
        nested = [nested]
    return nested


async def _coroutine() -> None:
    pass


RESULTS: dict[str, Callable[[], object]] = {
    "object": object,
    "nan": lambda: {"deep": [float("nan")]},
    "infinity": lambda: float("inf"),
    "lone surrogate": lambda: "\ud800",
    "lone surrogate as a key": lambda: {"\ud800": 1},
    "cycle": _cycle,
    "huge integer": lambda: 10**5000,
    "nested": _nested,
    "function": lambda: _coroutine,
    "50 MB": lambda: "x" * 50_000_000,
    "raw that is no JSON": lambda: msgspec.Raw(b"no JSON"),
    "raw of two values": lambda: msgspec.Raw(b"1,2"),
    "raw that is no UTF-8": lambda: msgspec.Raw(b'"\xff"'),
    "raw out of range": lambda: msgspec.Raw(b"1e999"),
}

ERRORS: dict[str, Callable[[], BaseException]] = {
    "error": lambda: ValueError("no"),
    "group": lambda: ExceptionGroup("all", [ValueError("one"), ExceptionGroup("in", [OSError(2)])]),
    "unprintable": UnprintableError,
    "huge text": lambda: ValueError("x" * 10_000_000),
    "odd text": lambda: ValueError("\x00 \x1b[31m \ud800 \r\n "),
    "system exit": lambda: SystemExit(0),
    "keyboard interrupt": KeyboardInterrupt,
    "generator exit": GeneratorExit,
    "stop iteration": StopIteration,
    "stop async iteration": StopAsyncIteration,
    "system exit in a group": lambda: BaseExceptionGroup("all", [SystemExit(0)]),
}


async def returns(kind: str) -> object:
    """Return this kind of thing."""
    return RESULTS[kind]()


def thread_returns(kind: str) -> object:
    """The same, in a thread."""
    return RESULTS[kind]()


async def raises(kind: str) -> object:
    """Raise this kind of error."""
    error = ERRORS[kind]()
    raise error


def thread_raises(kind: str) -> object:
    """The same, in a thread."""
    error = ERRORS[kind]()
    raise error


async def raises_foreign_cancelled(_payload: object) -> None:
    """Keep a scope's ``Cancelled``, and raise it again outside that scope."""
    kept: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:
            kept.append(error)
            raise
    raise kept[0]


async def fails_in_its_cleanup(_payload: object) -> None:
    """Run into a time limit of its own, and fail while cleaning up."""
    with trio.fail_after(0):
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("the cleanup failed")


async def exits_at_the_gate(_payload: object) -> None:
    """Exit once the gate is open."""
    gate = os.open("gate", os.O_RDONLY | os.O_NONBLOCK)
    await trio.lowlevel.wait_readable(gate)
    raise SystemExit(3)


_inside: list[Any] = []
_all_inside = trio.Event()


async def four_together(payload: object) -> None:
    """End when four of these are running."""
    _inside.append(payload)
    if len(_inside) == 4:
        _all_inside.set()
    await _all_inside.wait()
