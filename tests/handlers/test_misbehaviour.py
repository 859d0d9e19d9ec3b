"""Whatever a handler does: its job has failed, the worker lives, the pool keeps its size."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Generator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.hostile_errors import HOSTILE, UNKNOWN, NamelessError, NoClassError
from trio_jobs import Handler, Jobs, Outcome

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
    "unprintable": (raiser(UnprintableError()), "UnprintableError", "<exception str() failed>"),
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


class Later:
    """Can be awaited, and is no coroutine."""

    def __await__(self) -> Generator[None]:
        raise NotImplementedError


def misbehave(kind: str) -> object:
    """In a thread or a process."""

    async def coroutine() -> None: ...

    match kind:
        case "SystemExit":
            sys.exit("bye")
        case "StopIteration":
            raise StopIteration
        case "KeyboardInterrupt":
            raise KeyboardInterrupt
        case "coroutine":
            return coroutine()
        case "awaitable":
            return Later()
        case "unprintable":
            raise UnprintableError
        case "nameless":
            raise NamelessError("x")
        case "no class":
            raise NoClassError("x")
    raise TwoArgumentsError(1, lambda: None)


AWAITABLE = "a plain function returned an awaitable; make it an async function"
PLAIN = {
    "SystemExit": ("SystemExit", "bye"),
    "StopIteration": ("RuntimeError", "the function raised StopIteration"),
    "KeyboardInterrupt": ("KeyboardInterrupt", ""),
    "coroutine": ("TypeError", AWAITABLE),
    "awaitable": ("TypeError", AWAITABLE),
    "unprintable": ("UnprintableError", "<exception str() failed>"),
    "nameless": UNKNOWN,
    "no class": UNKNOWN,
    "unpicklable": ("TwoArgumentsError", "('cannot be pickled', 1, "),
}


async def sleep_forever(_payload: object) -> None:
    await trio.sleep_forever()


ASYNC_HANDLERS = {
    "forever": sleep_forever,
    **{kind: handler for kind, (handler, _, _) in ASYNC.items()},
}
PLAIN_HANDLERS = {"forever": sleep_forever, "bad": misbehave}
PROCESS_HANDLERS = {"forever": sleep_forever, "bad": Handler.of(misbehave, run="process")}


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
@pytest.mark.trio_jobs(ASYNC_HANDLERS, workers=WORKERS)
async def test_an_async_handler_harms_nothing_but_its_job(kind: str, jobs: Jobs) -> None:
    for job in jobs.submit_all([(kind, None)] * (2 * WORKERS)):
        await check_failed(jobs, job.id, *ASYNC[kind][1:])
    await check_size(jobs)


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.trio_jobs(PLAIN_HANDLERS, workers=WORKERS, mock_clock=False)
async def test_a_handler_in_a_thread_harms_nothing_but_its_job(kind: str, jobs: Jobs) -> None:
    for job in jobs.submit_all([("bad", kind)] * (2 * WORKERS)):
        await check_failed(jobs, job.id, *PLAIN[kind])
    await check_size(jobs)


@pytest.mark.trio_jobs(PROCESS_HANDLERS, workers=WORKERS, processes=1, mock_clock=False)
async def test_a_handler_in_a_process_harms_nothing_but_its_job(jobs: Jobs) -> None:
    submitted = jobs.submit_all([("bad", kind) for kind in PLAIN])
    for kind, job in zip(PLAIN, submitted, strict=True):
        await check_failed(jobs, job.id, *PLAIN[kind])
    await check_size(jobs)
