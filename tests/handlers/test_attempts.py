"""A job ends or runs again by its policy and its handler's wish, and never again after a cancel."""

import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.handlers.support import attempt, make_executor, wait_until_set
from tests.handlers.test_threads import Blocker
from tests.hostile_errors import HOSTILE
from tests.support import Later, make_job
from trio_jobs import (
    Ending,
    GiveUp,
    Handler,
    JobContext,
    JobError,
    Outcome,
    Retry,
    RetryPolicy,
    Snooze,
)
from trio_jobs.handlers.running_job import CANCELLED

POLICY = RetryPolicy(attempts=3, jitter=False, base=7, factor=2)
EXCEPT_LIMITS = RetryPolicy(attempts=3, jitter=False, never=["TimeoutError"])
LIMITS = RetryPolicy(attempts=3, jitter=False, base=7, on=["TimeoutError"])

BUSY = JobError(type="OSError", message="busy")


def raising(
    make: Callable[[], BaseException], run: str, *, retry: RetryPolicy | None = POLICY
) -> Handler:
    """A handler that raises this."""

    def plain(_payload: object) -> None:
        raise make()

    async def coroutine(_payload: object) -> None:
        raise make()

    async def in_its_nursery(_payload: object, context: JobContext) -> None:
        context.nursery.start_soon(coroutine, None)

    functions = {"async": coroutine, "nursery": in_its_nursery, "thread": plain}
    return Handler.of(functions[run], retry=retry)


def retry_from_busy() -> BaseException:
    retry = Retry()
    retry.__cause__ = OSError("busy")
    return retry


class Order(msgspec.Struct):
    """A payload."""

    number: int


RUNS = ["async", "nursery", "thread"]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    ("make", "later"),
    [
        (lambda: OSError("busy"), Later(seconds=7, error=BUSY)),
        (lambda: retry_from_busy(), Later(seconds=7, error=BUSY)),
        (
            lambda: Retry(after=30),
            Later(
                seconds=30,
                error=JobError(type="Retry", message="the handler asks for another attempt"),
            ),
        ),
        (lambda: Snooze(30), Later(seconds=30, snooze=True)),
        (lambda: ExceptionGroup("g", [Snooze(30)]), Later(seconds=30, snooze=True)),
        (
            lambda: ExceptionGroup("g", [OSError("busy")]),
            Later(
                seconds=7,
                error=JobError(type="ExceptionGroup", message="g (1 sub-exception): OSError: busy"),
            ),
        ),
        (lambda: GiveUp("no"), JobError(type="GiveUp", message="no")),
        (lambda: SystemExit(3), JobError(type="SystemExit", message="3")),
        (lambda: KeyboardInterrupt(), JobError(type="KeyboardInterrupt", message="")),
    ],
    ids=[
        "error",
        "retry from",
        "retry",
        "snooze",
        "group of snooze",
        "group",
        "give up",
        "exit",
        "^C",
    ],
)
async def test_what_the_handler_raises_decides(
    run: str, make: Callable[[], BaseException], later: Later | JobError
) -> None:
    end = await attempt(raising(make, run))

    if isinstance(later, Later):
        assert end == later
    else:
        assert end == Ending(outcome=Outcome.FAILED, error=later)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("retry", [None, RetryPolicy(), POLICY])
async def test_after_the_last_attempt_the_job_fails_with_the_cause(
    run: str, retry: RetryPolicy | None
) -> None:
    handler = raising(retry_from_busy, run, retry=retry)

    assert await attempt(handler, number=3) == Ending(outcome=Outcome.FAILED, error=BUSY)


@pytest.mark.parametrize("run", RUNS)
async def test_a_snooze_is_always_granted(run: str) -> None:
    handler = raising(lambda: Snooze(5), run, retry=None)

    assert await attempt(handler, number=30) == Later(seconds=5, snooze=True)


async def test_attempts_are_counted_by_the_job() -> None:
    handler = raising(lambda: OSError("busy"), "async")

    ends = [await attempt(handler, number=number) for number in (1, 2, 3)]

    assert ends == [
        Later(seconds=7, error=BUSY),
        Later(seconds=14, error=BUSY),
        Ending(outcome=Outcome.FAILED, error=BUSY),
    ]


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("run", ["async", "thread"])
async def test_errors_whose_own_code_fails_are_repeated_like_others(run: str, kind: str) -> None:
    make, _, _ = HOSTILE[kind]

    assert isinstance(await attempt(raising(make, run)), Later)
    ending = await attempt(raising(make, run), number=3)

    assert isinstance(ending, Ending)
    assert ending.outcome is Outcome.FAILED


async def sleep_for_ever(_payload: object) -> None:
    await trio.sleep_forever()


async def return_late(_payload: object) -> str:
    with trio.CancelScope(shield=True):
        await trio.sleep(10)
    return "late"


async def fail_late(_payload: object) -> None:
    await return_late(None)
    raise GiveUp("late")


async def snooze_late(_payload: object) -> None:
    await return_late(None)
    raise Snooze(30)


@pytest.mark.parametrize("function", [sleep_for_ever, return_late, fail_late, snooze_late])
async def test_a_time_limit_counts_as_a_timeout_error(
    function: Callable[..., Any], autojump_clock: MockClock
) -> None:
    error = JobError(type="TimedOut", message="the time limit of 5 s passed")
    timed_out = Ending(outcome=Outcome.TIMED_OUT, error=error)

    def handler(retry: RetryPolicy | None) -> Handler:
        return Handler.of(function, timeout=5, retry=retry)

    assert await attempt(handler(LIMITS)) == Later(seconds=7, error=error)
    assert await attempt(handler(POLICY)) == Later(seconds=7, error=error)
    assert await attempt(handler(LIMITS), number=3) == timed_out
    assert await attempt(handler(EXCEPT_LIMITS)) == timed_out
    assert await attempt(handler(None)) == timed_out


async def test_an_error_within_the_time_limit_is_no_timeout() -> None:
    handler = raising(lambda: OSError("busy"), "async", retry=LIMITS)

    assert await attempt(handler) == Ending(outcome=Outcome.FAILED, error=BUSY)


async def test_the_time_limit_of_a_thread_counts_as_a_timeout_error() -> None:
    blocker = Blocker()
    handler = Handler.of(blocker, timeout=0.01, retry=LIMITS)
    ends: list[Ending | Later] = []

    async def run() -> None:
        ends.append(await attempt(handler))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_until_set(blocker.entered)
        await trio.sleep(0.02)
        blocker.let_go.set()

    error = JobError(type="TimedOut", message="the time limit of 0.01 s passed")
    assert ends == [Later(seconds=7, error=error)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: OSError("busy"),
        lambda: Retry(1),
        lambda: Snooze(1),
        lambda: ExceptionGroup("g", [OSError(), Retry(1)]),
        lambda: TimeoutError(),
    ],
    ids=["error", "retry", "snooze", "group", "timeout"],
)
@pytest.mark.interleavings(10)
async def test_a_cancel_is_never_repeated(make: Callable[[], BaseException]) -> None:
    async def fail_in_cleanup(_payload: object) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise make()

    executor = make_executor({"test": Handler.of(fail_in_cleanup, retry=POLICY)})
    ends: list[Ending | Later] = []

    async def run() -> None:
        ends.append(await executor(replace(make_job("a"), attempts=1)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        assert executor.cancel("a")

    assert ends == [CANCELLED]


@pytest.mark.interleavings(50)
async def test_a_cancel_beside_a_failure_gives_one_of_both(autojump_clock: MockClock) -> None:
    async def fail(_payload: object) -> None:
        await trio.sleep(1)
        raise OSError("busy")

    executor = make_executor({"test": Handler.of(fail, timeout=1, retry=POLICY)})
    ends: list[Ending | Later] = []
    cancelled = False

    async def run() -> None:
        ends.append(await executor(replace(make_job("a"), attempts=1)))

    async def cancel() -> None:
        nonlocal cancelled
        await trio.sleep(1)
        cancelled = executor.cancel("a")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        nursery.start_soon(cancel)

    assert (ends == [CANCELLED]) is cancelled
    assert cancelled or isinstance(ends[0], Later)


async def test_the_pools_end_is_no_reason_for_another_attempt() -> None:
    async def retry_in_cleanup(_payload: object) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Retry(1)

    with trio.move_on_after(0.01) as scope:
        await attempt(Handler.of(retry_in_cleanup, retry=POLICY))

    assert scope.cancelled_caught


async def test_a_job_without_a_handler_fails() -> None:
    ending = await make_executor({"other": Handler.of(return_late)})(make_job("a"))

    assert isinstance(ending, Ending)
    assert ending.error is not None
    assert ending.error.type == "UnknownTypeError"


@pytest.mark.parametrize(
    ("retry", "number", "expected"),
    [
        (None, 1, (1, True)),
        (POLICY, 1, (1, False)),
        (POLICY, 2, (2, False)),
        (POLICY, 3, (3, True)),
    ],
)
async def test_the_context_knows_the_attempt(
    retry: RetryPolicy | None, number: int, expected: tuple[int, bool]
) -> None:
    seen = []

    async def handler(_payload: object, context: JobContext) -> None:
        seen.append((context.attempt, context.last_attempt))

    await attempt(Handler.of(handler, retry=retry), number=number)

    assert seen == [expected]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    ("make", "number", "is_logged"),
    [
        (lambda: OSError("busy"), 1, True),
        (retry_from_busy, 1, False),
        (lambda: Snooze(1), 1, False),
        (retry_from_busy, 3, True),
        (lambda: GiveUp("no"), 1, True),
    ],
    ids=["error", "retry", "snooze", "last retry", "give up"],
)
async def test_a_traceback_is_logged_unless_the_handler_got_what_it_asked_for(
    run: str,
    make: Callable[[], BaseException],
    number: int,
    is_logged: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await attempt(raising(make, run), number=number)

    expected = ["handler_raised"] if is_logged else []
    assert [record.message for record in caplog.records] == expected
    assert all(record.levelno == logging.WARNING for record in caplog.records)


@pytest.mark.parametrize("run", ["trio", "thread", "asyncio"])
async def test_payload_that_does_not_fit_gets_no_other_attempt(run: str) -> None:
    """It was submitted by SQL, which knows no handlers, or for another version of the handler."""

    def plain(_payload: Order) -> None:
        raise AssertionError

    async def coroutine(_payload: Order) -> None:
        raise AssertionError

    retry = RetryPolicy(attempts=3, on=["Exception"])
    handler = Handler.of(plain if run == "thread" else coroutine, run=run, retry=retry)
    executor = make_executor({"test": handler})
    places = executor.places
    assert places is not None

    async with places.open():
        end = await executor(make_job("a", payload=b'{"number": "7"}'))

    text = "$.payload.number: expected int, got str"
    error = JobError(type="PayloadError", message=text)
    assert end == Ending(outcome=Outcome.FAILED, error=error)
