"""What can be a handler, and what is said about what cannot."""

import functools
import math
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from trio_jobs.handlers.handler import Handler, Run
from trio_jobs.handlers.importing import HandlerError


async def async_function(payload: object) -> object:
    return payload


def plain_function(payload: object) -> object:
    return payload


class AsyncObject:
    """Called like an async function."""

    async def __call__(self, payload: object) -> object:
        return payload


class PlainObject:
    """Called like a plain function."""

    def __call__(self, payload: object) -> object:
        return payload

    def method(self, payload: object) -> object:
        return payload

    @staticmethod
    def static(payload: object) -> object:
        return payload

    @classmethod
    def of_class(cls, payload: object) -> object:
        return payload


@pytest.mark.parametrize(
    ("function", "run"),
    [
        (async_function, Run.TRIO),
        (AsyncObject(), Run.TRIO),
        (functools.partial(async_function), Run.TRIO),
        (functools.partial(functools.partial(AsyncObject())), Run.TRIO),
        (plain_function, Run.THREAD),
        (PlainObject(), Run.THREAD),
        (PlainObject().method, Run.THREAD),
        (PlainObject.static, Run.THREAD),
        (PlainObject.of_class, Run.THREAD),
        (functools.partial(PlainObject.method, PlainObject()), Run.THREAD),
        (str, Run.THREAD),
        (str.upper, Run.THREAD),
        (functools.partial(plain_function), Run.THREAD),
        (len, Run.THREAD),
    ],
)
def test_a_function_runs_by_its_kind(function: Callable[..., object], run: Run) -> None:
    assert Handler.of(function).run is run


@pytest.mark.parametrize(
    ("function", "run"),
    [
        (async_function, "trio"),
        (async_function, "asyncio"),
        (plain_function, "thread"),
        (plain_function, "process"),
    ],
)
def test_a_function_runs_where_it_is_asked_to(function: Callable[..., object], run: str) -> None:
    assert Handler.of(function, run=run).run == run


@pytest.mark.parametrize("run", [None, "async"])
@pytest.mark.parametrize("place", ["trio", "asyncio"])
def test_an_async_function_runs_where_async_handlers_do(run: str | None, place: str) -> None:
    assert Handler.of(async_function, run=run, async_handlers=place).run == place
    assert Handler.of(plain_function, async_handlers=place).run is Run.THREAD


def test_async_handlers_run_in_one_of_two_places() -> None:
    with pytest.raises(HandlerError) as refusal:
        Handler.of(plain_function, async_handlers="anyio")

    assert str(refusal.value) == (
        "must have one of 'trio', 'asyncio' as async_handlers, got 'anyio'"
    )


@pytest.mark.parametrize(
    ("function", "run", "message"),
    [
        (plain_function, "async", 'is a plain function; run = "async" needs an async one'),
        (async_function, "thread", 'is an async function; run = "thread" needs a plain one'),
        (async_function, "process", 'is an async function; run = "process" needs a plain one'),
        (plain_function, "asyncio", 'is a plain function; run = "asyncio" needs an async one'),
        (
            plain_function,
            "fork",
            "must run in one of 'async', 'trio', 'asyncio', 'thread', 'process', got 'fork'",
        ),
    ],
)
def test_a_function_that_does_not_fit_its_run_is_refused(
    function: Callable[..., object], run: str, message: str
) -> None:
    with pytest.raises(HandlerError) as refusal:
        Handler.of(function, run=run)

    assert str(refusal.value) == message


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(HandlerError, match="is not callable: 42"):
        Handler.of(42)


def generator(_payload: object) -> Iterator[int]:
    yield 1


async def async_generator(_payload: object) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    "function", [generator, async_generator, functools.partial(async_generator)]
)
def test_a_generator_function_is_refused(function: Callable[..., object]) -> None:
    with pytest.raises(HandlerError, match="is a generator function; a handler returns one result"):
        Handler.of(function)


@pytest.mark.parametrize("timeout", [None, 1, 0.001, 30.0])
def test_a_time_limit_is_a_number_of_seconds(timeout: float | None) -> None:
    assert Handler.of(async_function, timeout=timeout).timeout == timeout


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, True, "30", [30]])
def test_a_time_limit_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(HandlerError) as refusal:
        Handler.of(async_function, timeout=timeout)

    assert str(refusal.value) == f"must have a timeout of more than 0 seconds, got {timeout!r}"


@pytest.mark.parametrize("signature", [5, []])
def test_a_function_with_a_broken_signature_is_refused(signature: object) -> None:
    def function(payload: object) -> object:
        return payload

    function.__signature__ = signature  # type: ignore[attr-defined]

    with pytest.raises(HandlerError, match="has a signature that cannot be read: TypeError: "):
        Handler.of(function)


def make_nested() -> Callable[[object], object]:
    def nested(payload: object) -> object:
        return payload

    return nested


def decorator(function: Callable[[object], object]) -> Callable[[object], object]:
    @functools.wraps(function)
    def wrapper(payload: object) -> object:
        return function(payload)

    return wrapper


PROGRAM = """
from trio_jobs import Handler

def work(payload):
    return payload

Handler.of(work, run="process")
"""

replaced = decorator(plain_function)  # goes by the name of the one inside


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda payload: payload, "has no '<lambda>'"),
        (make_nested(), "has no 'make_nested.<locals>.nested'"),
        (replaced, "'tests.handlers.test_handler:plain_function' is something else"),
        (functools.partial(plain_function), "'functools:partial' is something else"),
        (PlainObject(), "'tests.handlers.test_handler:PlainObject' is something else"),
        (
            PlainObject().method,
            "'tests.handlers.test_handler:PlainObject.method' needs its instance",
        ),
    ],
)
def test_a_function_that_a_process_could_not_find_again_is_refused(
    function: Callable[..., object], message: str
) -> None:
    with pytest.raises(HandlerError) as refusal:
        Handler.of(function, run="process")

    assert str(refusal.value).startswith("cannot be found again by a process: ")
    assert str(refusal.value).endswith(f"{message}; give a function that a module defines")


@pytest.mark.parametrize("arguments", [["-"], ["-c", PROGRAM]])
def test_function_of_a_program_without_a_file_is_refused(arguments: list[str]) -> None:
    command = [sys.executable, *arguments]
    run = subprocess.run(command, input=PROGRAM, capture_output=True, text=True, check=False)

    assert run.stderr.splitlines()[-1].endswith(
        "HandlerError: cannot be found again by a process: its program has no file;"
        " give a function that a module defines"
    )


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (plain_function, "tests.handlers.test_handler:plain_function"),
        (PlainObject.static, "tests.handlers.test_handler:PlainObject.static"),
    ],
)
def test_a_function_is_found_again_by_its_own_name(
    function: Callable[..., object], name: str
) -> None:
    assert Handler.of(function, run="process").name == name


def test_a_function_is_found_again_by_the_name_it_was_loaded_by() -> None:
    handler = Handler.of(lambda payload: payload, run="process", name="myapp.jobs:resize")

    assert handler.name == "myapp.jobs:resize"
