"""Whatever a handler does: its job has failed, the worker lives, the pool keeps its size."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.hostile_errors import HOSTILE, UNKNOWN, NamelessError, NoClassError
from trio_jobs import Handler, Jobs
from trio_jobs.job import Outcome

WORKERS = 3

kept: list[trio.Cancelled] = []


class UnprintableError(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class TwoArgumentsError(Exception):
    """Cannot be made again from its args, as pickle would."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__("cannot be pickled", one, two)


def recurse() -> None:
    recurse()


def raiser(error: BaseException) -> Callable[[object], Awaitable[None]]:
    async def handler(_payload: object) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    return handler


async def recursion(_payload: object) -> None:
    recurse()


async def memory(_payload: object) -> None:
    bytearray(sys.maxsize)


async def raise_stray_cancelled(_payload: object) -> None:
    """Keep a `Cancelled` and raise it again outside the scope that it was for."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            kept.append(cancelled)
    raise kept.pop()


async def raise_stray_cancelled_in_a_group(_payload: object) -> None:
    try:
        await raise_stray_cancelled(None)
    except trio.Cancelled as cancelled:
        raise BaseExceptionGroup("strays", [cancelled, ValueError("and more")]) from None


async def leave_a_scope_open(_payload: object) -> None:
    trio.CancelScope().__enter__()


async def leave_a_cancelled_scope_open(_payload: object) -> None:
    scope = trio.CancelScope()
    scope.__enter__()
    scope.cancel()


ASYNC = {
    "Exception": (raiser(Exception("e")), "Exception", "e"),
    "ExceptionGroup": (
        raiser(ExceptionGroup("group", [ValueError("a"), KeyError("b")])),
        "ExceptionGroup",
        "group (2 sub-exceptions): ValueError: a; KeyError: 'b'",
    ),
    "AssertionError": (raiser(AssertionError("must be")), "AssertionError", "must be"),
    "RecursionError": (recursion, "RecursionError", "maximum recursion depth exceeded"),
    "MemoryError": (memory, "MemoryError", ""),
    "StopIteration": (raiser(StopIteration(1)), "RuntimeError", "coroutine raised StopIteration"),
    "StopAsyncIteration": (raiser(StopAsyncIteration()), "StopAsyncIteration", ""),
    "asyncio.CancelledError": (raiser(asyncio.CancelledError()), "CancelledError", ""),
    "unprintable": (
        raiser(UnprintableError()),
        "UnprintableError",
        "<exception str() failed>",
    ),
    "unprintable inside": (
        raiser(ExceptionGroup("group", [UnprintableError()])),
        "ExceptionGroup",
        "group (1 sub-exception): UnprintableError: <exception str() failed>",
    ),
    **{kind: (raiser(make()), type_, text) for kind, (make, type_, text) in HOSTILE.items()},
    "SystemExit": (raiser(SystemExit(0)), "SystemExit", "0"),
    "KeyboardInterrupt": (raiser(KeyboardInterrupt()), "KeyboardInterrupt", ""),
    "GeneratorExit": (raiser(GeneratorExit()), "GeneratorExit", ""),
    "group of SystemExit": (
        raiser(BaseExceptionGroup("group", [SystemExit(1)])),
        "BaseExceptionGroup",
        "group (1 sub-exception): SystemExit: 1",
    ),
    "stray Cancelled": (raise_stray_cancelled, "Cancelled", ""),
    "stray Cancelled in a group": (
        raise_stray_cancelled_in_a_group,
        "BaseExceptionGroup",
        "strays (2 sub-exceptions): ",
    ),
    "open scope": (leave_a_scope_open, "RuntimeError", "Cancel scope stack corrupted: "),
    "open cancelled scope": (
        leave_a_cancelled_scope_open,
        "RuntimeError",
        "Cancel scope stack corrupted: ",
    ),
}


def raise_system_exit(_payload: object) -> None:
    sys.exit("bye")


def raise_stop_iteration(_payload: object) -> None:
    raise StopIteration


def raise_keyboard_interrupt(_payload: object) -> None:
    raise KeyboardInterrupt


def return_a_coroutine(payload: object) -> object:
    async def inner() -> object:
        return payload

    return inner()


def return_an_awaitable(_payload: object) -> object:
    class Later:
        def __await__(self) -> Generator[None]:
            raise NotImplementedError

    return Later()


def raise_unprintable(_payload: object) -> None:
    raise UnprintableError


def raise_nameless(_payload: object) -> None:
    raise NamelessError("x")


def raise_no_class(_payload: object) -> None:
    raise NoClassError("x")


def raise_two_arguments(_payload: object) -> None:
    raise TwoArgumentsError(1, lambda: None)


AWAITABLE = "a plain function returned an awaitable; make it an async function"
PLAIN = {
    "SystemExit": (raise_system_exit, "SystemExit", "bye"),
    "StopIteration": (raise_stop_iteration, "RuntimeError", "the function raised StopIteration"),
    "KeyboardInterrupt": (raise_keyboard_interrupt, "KeyboardInterrupt", ""),
    "coroutine": (return_a_coroutine, "TypeError", AWAITABLE),
    "awaitable": (return_an_awaitable, "TypeError", AWAITABLE),
    "unprintable": (raise_unprintable, "UnprintableError", "<exception str() failed>"),
    "nameless": (raise_nameless, *UNKNOWN),
    "no class": (raise_no_class, *UNKNOWN),
    "unpicklable": (raise_two_arguments, "TwoArgumentsError", "('cannot be pickled', 1, "),
}


async def sleep_forever(_payload: object) -> None:
    await trio.sleep_forever()


def handlers(
    kinds: Mapping[str, tuple[Callable[[object], object], str, str]], *, run: str | None = None
) -> dict[str, Handler]:
    """The misbehaving ones by kind, and one that keeps a worker."""
    bad = {kind: Handler.of(handler, run=run) for kind, (handler, _, _) in kinds.items()}
    return {**bad, "forever": Handler.of(sleep_forever)}


async def check_failed(jobs: Jobs, job_id: str, error_type: str, message: str) -> None:
    job = await jobs.wait(job_id)
    assert job.ending is not None
    assert job.ending.outcome is Outcome.FAILED
    assert job.ending.error is not None
    assert error_type in job.ending.error.type
    assert message in job.ending.error.message


async def check_size(jobs: Jobs) -> None:
    """The pool has kept it: as many jobs run at once as there were workers."""
    running = jobs.submit_all([("forever", None)] * (WORKERS + 1))
    await wait_all_tasks_blocked()
    assert jobs.statistics().busy == WORKERS
    for job in running:
        jobs.cancel(job.id)


@pytest.mark.parametrize("kind", ASYNC)
@pytest.mark.trio_jobs(handlers(ASYNC), workers=WORKERS)
async def test_an_async_handler_harms_nothing_but_its_job(kind: str, jobs: Jobs) -> None:
    _, error_type, message = ASYNC[kind]

    for job in jobs.submit_all([(kind, None)] * (2 * WORKERS)):
        await check_failed(jobs, job.id, error_type, message)
    await check_size(jobs)


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.trio_jobs(handlers(PLAIN), workers=WORKERS, mock_clock=False)
async def test_a_handler_in_a_thread_harms_nothing_but_its_job(kind: str, jobs: Jobs) -> None:
    _, error_type, message = PLAIN[kind]

    for job in jobs.submit_all([(kind, None)] * (2 * WORKERS)):
        await check_failed(jobs, job.id, error_type, message)
    await check_size(jobs)


@pytest.mark.trio_jobs(
    handlers(PLAIN, run="process"), workers=WORKERS, processes=1, mock_clock=False
)
async def test_a_handler_in_a_process_harms_nothing_but_its_job(jobs: Jobs) -> None:
    for job in jobs.submit_all([(kind, None) for kind in PLAIN]):
        _, error_type, message = PLAIN[job.type]
        await check_failed(jobs, job.id, error_type, message)
    await check_size(jobs)


async def raise_in_cleanup(_payload: object) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise SystemExit(1)


@pytest.mark.trio_jobs(
    {"bad": Handler.of(raise_in_cleanup, timeout=1), "forever": sleep_forever}, workers=WORKERS
)
async def test_a_time_limit_whose_cleanup_raises_harms_nothing_but_its_job(jobs: Jobs) -> None:
    for job in jobs.submit_all([("bad", None)] * (2 * WORKERS)):
        ending = (await jobs.wait(job.id)).ending
        assert ending is not None
        assert ending.outcome is Outcome.TIMED_OUT
    await check_size(jobs)
