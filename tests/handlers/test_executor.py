"""How a job ends: by its handler, a cancel, its time limit, or not at all, as the pool ends."""

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, cast

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.handlers import tasks
from tests.handlers.support import make_executor, message_of, process
from tests.support import HandlerRegistry, Later, current_job_id, make_job, running_pool
from trio_jobs import Ending, JobError, JobStatus, LogFormatter, Outcome
from trio_jobs.handlers.context import JobContext
from trio_jobs.handlers.executor import JobExecutor
from trio_jobs.handlers.handler import Handler
from trio_jobs.handlers.running_job import CANCELLED, RunningJob

if TYPE_CHECKING:
    from trio_jobs.handlers.process_pool import ProcessPool


class Endings:
    """What an executor has made of its jobs, by their ids."""

    def __init__(self) -> None:
        self.by_id: dict[str, Ending | Later] = {}

    async def collect(self, executor: JobExecutor, job_id: str) -> None:
        self.by_id[job_id] = await executor(make_job(job_id))


async def sleep_for_ever(_payload: object) -> None:
    await trio.sleep_forever()


async def test_what_the_handler_raises_is_the_error_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(_payload: object) -> None:
        raise ValueError("no")

    ending = await process(fail)

    assert ending.outcome is Outcome.FAILED
    assert ending.error is not None
    assert (ending.error.type, ending.error.message) == ("ValueError", "no")
    [record] = caplog.records
    assert (record.message, record.levelno) == ("handler_raised", logging.WARNING)
    assert record.exc_info is not None
    assert (record.job_id, record.job_type) == ("a", "test")  # type: ignore[attr-defined]


class CountedError(Exception):
    """Notes each time that it is asked for its text."""

    def __init__(self, asked: list[str], text: str) -> None:
        super().__init__()
        self._asked = asked
        self._text = text

    def __str__(self) -> str:
        self._asked.append(self._text)
        return self._text


@pytest.mark.parametrize("run", ["async", "thread"])
async def test_each_error_is_asked_once_for_its_text(
    run: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def fail(_payload: object) -> None:
        inner = [CountedError(asked, text) for text in "abcde"]
        raise ExceptionGroup("five", inner) from CountedError(asked, "cause")

    async def fail_in_the_loop(payload: object) -> None:
        fail(payload)

    ending = await process(fail if run == "thread" else fail_in_the_loop)

    assert sorted(asked) == ["a", "b", "c", "cause", "d", "e"]
    assert message_of(ending) == "five (5 sub-exceptions): " + "; ".join(
        f"CountedError: {text}" for text in "abcde"
    )
    [record] = caplog.records
    assert "CountedError: cause" in LogFormatter("text").format(record)
    assert "CountedError: cause" in logging.Formatter().format(record)
    assert len(asked) == 6


async def test_a_log_that_fails_over_an_error_gets_the_line_without_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines: list[object] = []

    class Strict(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info:
                raise SystemExit
            lines.append(record.exc_text)

    async def fail(_payload: object) -> None:
        raise ValueError("no")

    logger, handler = logging.getLogger("trio_jobs.handlers.executor"), Strict()
    logger.addHandler(handler)
    try:
        await process(fail)
    finally:
        logger.removeHandler(handler)

    [text] = lines
    assert str(text).endswith("ValueError: no\n")


async def test_a_warning_that_nobody_wants_is_not_made(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_payload: object) -> None:
        raise ValueError("no")

    with caplog.at_level(logging.ERROR):
        await process(fail)

    assert not caplog.records


async def swallow_cancelled(_payload: object) -> str:
    with suppress(trio.Cancelled):
        await trio.sleep_forever()
    return "late"


async def fail_in_cleanup(_payload: object) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise SystemExit(1)


@pytest.mark.parametrize(
    ("handler", "logged"),
    [(sleep_for_ever, []), (swallow_cancelled, []), (fail_in_cleanup, ["handler_raised"])],
)
async def test_the_time_limit_interrupts_the_handler(
    handler: Callable[..., object],
    logged: list[str],
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ending = await process(Handler.of(handler, timeout=30.0))

    error = JobError(type="TimedOut", message="the time limit of 30 s passed")
    assert ending == Ending(outcome=Outcome.TIMED_OUT, error=error)
    assert trio.current_time() == 30
    assert [record.message for record in caplog.records] == logged


async def test_encoding_the_result_is_not_the_handlers_time(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode_slowly(_result: object, *, max_bytes: int) -> bytes:
        mock_clock.jump(max_bytes)
        raise ValueError("and then it fails")

    async def handler(_payload: object) -> int:
        return 1

    monkeypatch.setattr("trio_jobs.handlers.executor.encode_result", encode_slowly)
    ending = await process(Handler.of(handler, timeout=1))

    assert ending.outcome is Outcome.FAILED


@pytest.mark.parametrize("handler", [sleep_for_ever, swallow_cancelled, fail_in_cleanup])
async def test_a_cancel_interrupts_the_handler(handler: Callable[..., object]) -> None:
    executor = make_executor({"test": Handler.of(handler)})
    endings = Endings()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(endings.collect, executor, "a")
        nursery.start_soon(endings.collect, executor, "b")
        await wait_all_tasks_blocked()
        assert executor.cancel("a")
        await wait_all_tasks_blocked()
        assert endings.by_id == {"a": CANCELLED}
        nursery.cancel_scope.cancel()


async def test_a_cancelled_job_completes_when_its_handler_has_unwound(
    autojump_clock: MockClock,
) -> None:
    async def slow_cleanup(_payload: object) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(5, shield=True):
                await trio.sleep_forever()

    executor = make_executor({"test": Handler.of(slow_cleanup)})
    endings = Endings()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(endings.collect, executor, "a")
        await wait_all_tasks_blocked()
        executor.cancel("a")
        await wait_all_tasks_blocked()
        assert not endings.by_id

    assert trio.current_time() == 5
    assert endings.by_id["a"] == CANCELLED


async def test_cancelling_a_job_that_does_not_run_says_so() -> None:
    executor = make_executor({"test": Handler.of(sleep_for_ever)})

    assert not executor.cancel("a")


async def test_a_job_that_was_cancelled_while_pending_runs_nothing() -> None:
    ran: list[object] = []

    async def handler(payload: object) -> None:
        ran.append(payload)

    executor = make_executor({"test": Handler.of(handler)})

    ending = await executor(replace(make_job("a"), cancel_requested=True))

    assert isinstance(ending, Ending)
    assert ending.outcome is Outcome.CANCELLED
    assert not ran


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.interleavings(50)
async def test_cancel_end_and_time_limit_at_the_same_instant_give_one_outcome(
    limit: float | None, autojump_clock: MockClock
) -> None:
    async def second(_payload: object) -> str:
        await trio.sleep(1)
        return "done"

    async with running_pool({"test": Handler.of(second, timeout=limit)}) as pool:
        job = pool.submit("test")
        await trio.sleep(1)
        said = pool.executor.cancel(job.id)

    if limit is None:
        assert pool.outcome(job) is (Outcome.CANCELLED if said else Outcome.SUCCEEDED)
    else:  # the clock stood at the limit before any of them could run
        assert (pool.outcome(job), said) == (Outcome.TIMED_OUT, False)


@pytest.mark.interleavings(50)
async def test_the_pools_end_racing_with_a_cancel_releases_or_completes() -> None:
    async with running_pool({"test": sleep_for_ever}) as pool:
        job = pool.submit("test")
        await wait_all_tasks_blocked()

        async def call(function: Callable[[], object]) -> None:
            function()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, partial(pool.executor.cancel, job.id))
            nursery.start_soon(call, pool.scope.cancel)

    expected = {(JobStatus.COMPLETED, Outcome.CANCELLED), (JobStatus.PENDING, None)}
    assert (pool.status(job), pool.outcome(job)) in expected


@pytest.mark.parametrize(
    ("handler", "ending"),
    [
        (sleep_for_ever, None),
        (fail_in_cleanup, None),
        (swallow_cancelled, Ending(outcome=Outcome.SUCCEEDED, result=b'"late"')),
    ],
)
async def test_the_pools_end_interrupts_the_handler_and_releases_its_job_unless_it_returns(
    handler: Callable[..., object], ending: Ending | None
) -> None:
    async with running_pool({"test": handler}) as pool:
        job = pool.submit("test")
        await wait_all_tasks_blocked()
        pool.scope.cancel()

    assert pool.ending(job) == ending
    assert pool.status(job) is (JobStatus.COMPLETED if ending else JobStatus.PENDING)


@pytest.mark.parametrize(
    ("limit", "ends", "outcome"), [(100, 25, None), (10, 10, Outcome.TIMED_OUT)]
)
async def test_a_time_limit_holds_within_the_grace_period_and_does_not_extend_it(
    limit: float, ends: float, outcome: Outcome | None, autojump_clock: MockClock
) -> None:
    async with running_pool({"test": Handler.of(sleep_for_ever, timeout=limit)}) as pool:
        job = pool.submit("test")
        await wait_all_tasks_blocked()
        pool.parts.admission.close()
        pool.scope.deadline = trio.current_time() + 25

    assert trio.current_time() == ends
    assert pool.outcome(job) is outcome


async def test_the_jobs_id_is_known_while_its_handler_runs() -> None:
    seen: list[str | None] = []

    async def handler(_payload: object, context: JobContext) -> None:
        async def child() -> None:
            seen.append(current_job_id.get())

        seen.append(current_job_id.get())
        context.nursery.start_soon(child)

    await process(handler)

    assert seen == ["a", "a"]
    assert current_job_id.get() is None


async def test_the_oldest_running_job_is_known(autojump_clock: MockClock) -> None:
    executor = make_executor({"test": Handler.of(sleep_for_ever)})
    endings = Endings()
    assert executor.oldest_running_seconds() is None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(endings.collect, executor, "a")
        await trio.sleep(5)
        nursery.start_soon(endings.collect, executor, "b")
        await trio.sleep(3)
        assert executor.oldest_running_seconds() == 8
        executor.cancel("a")
        await wait_all_tasks_blocked()
        assert executor.oldest_running_seconds() == 3
        nursery.cancel_scope.cancel()


def test_a_handler_that_does_not_run_on_trio_is_refused_without_places() -> None:
    registry = HandlerRegistry({"test": Handler.of(math.sqrt)})

    with pytest.raises(ValueError, match="there are no places"):
        JobExecutor(registry, max_result_bytes=1)


async def test_a_cancel_that_is_first_decides_although_a_process_returns_a_value() -> None:
    class Racing:
        async def run(self, _: object, running: RunningJob, **__: object) -> bytes:
            running.start_clock(None)
            assert executor.cancel("a")
            return b"1"  # it had been on its way

    processes = cast("ProcessPool", Racing())
    executor = make_executor({"test": Handler.of(tasks.pid, run="process")}, processes=processes)

    ending = await executor(make_job("a"))

    assert isinstance(ending, Ending)
    assert ending.outcome is Outcome.CANCELLED


async def raise_it(_payload: object) -> None:
    raise ValueError("no")


async def raise_it_with_a_context(_payload: object, _job: JobContext) -> None:
    raise ValueError("no")


async def raise_it_in_a_child(_payload: object, job: JobContext) -> None:
    job.nursery.start_soon(raise_it, None)


@pytest.mark.parametrize(
    ("handler", "first"),
    [
        (raise_it, "raise_it"),
        (raise_it_with_a_context, "raise_it_with_a_context"),
        (raise_it_in_a_child, "raise_it"),
    ],
)
async def test_the_traceback_begins_with_the_handlers_code(
    handler: Callable[..., object], first: str, caplog: pytest.LogCaptureFixture
) -> None:
    await process(handler)

    [record] = [record for record in caplog.records if record.message == "handler_raised"]
    lines = str(record.exc_text).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith(f", in {first}")
    assert lines[-1] == "ValueError: no"


async def test_a_traceback_without_the_handlers_code_is_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(_payload: object) -> object:
        return object()

    await process(handler)

    [record] = [record for record in caplog.records if record.message == "handler_raised"]
    assert ", in encode_result\n" in str(record.exc_text)
