"""What a handler reports of its progress is seen while the job runs, and kept if it fails."""

import asyncio
import math
import threading
from datetime import timedelta
from enum import IntEnum
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from tests.api.support import Api
from tests.api.test_openapi import document, validator
from tests.handlers.support import wait_until, wait_until_set
from tests.support import NOON, make_job, running_pool
from trio_jobs import Handler, JobContext, Jobs, JobStatus, Outcome, RetryPolicy
from trio_jobs import open_jobs as open_any_jobs
from trio_jobs.handlers.child_progress import ChildProgress
from trio_jobs.handlers.progress_report import ProgressReport
from trio_jobs.handlers.running_job import RunningJob


class Steps:
    """A handler that reports, waits for the test, and ends as its payload says."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    async def on_trio(self, end: str, context: JobContext) -> None:
        self._begin(context)
        await wait_until_set(self.go_on)
        self._end(end)

    async def on_asyncio(self, end: str, context: JobContext) -> None:
        self._begin(context)
        await asyncio.to_thread(self.go_on.wait)
        self._end(end)

    def in_thread(self, end: str, context: JobContext) -> None:
        self._begin(context)
        self.go_on.wait()
        self._end(end)

    def _begin(self, context: JobContext) -> None:
        context.progress(1, message="begun")
        context.progress(2.5, 10, "page 2")
        self.begun.set()

    def _end(self, end: str) -> None:
        if end == "fail":
            raise ValueError(end)


KINDS = {"on_trio": "trio", "on_asyncio": "asyncio", "in_thread": "thread"}


@pytest.mark.parametrize("end", ["fail", "succeed", "cancel"])
@pytest.mark.parametrize("kind", KINDS)
async def test_report_is_on_the_running_job_and_stays_if_it_does_not_succeed(
    kind: str, end: str
) -> None:
    steps = Steps()
    handler = Handler.of(getattr(steps, kind), run=KINDS[kind])
    async with open_any_jobs({"steps": handler}) as jobs:
        job = jobs.submit("steps", end)
        await wait_until_set(steps.begun)
        running = jobs.get(job.id)
        if end == "cancel":
            jobs.cancel(job.id)
        steps.go_on.set()
        ended = await jobs.wait(job.id)

    progress = running.progress
    assert progress is not None
    assert (progress.done, progress.total, progress.message) == (2.5, 10, "page 2")
    assert running.status is JobStatus.PROCESSING
    assert running.started_at is not None
    assert progress.at >= running.started_at
    assert ended.progress == (None if end == "succeed" else progress)
    assert ended.ending is not None
    assert ended.ending.left is None


async def reports_now_and_then(_payload: object, context: JobContext) -> None:
    await trio.sleep(5)
    context.progress(1, 2)
    await trio.sleep(100)


@pytest.mark.trio_jobs({"slow": Handler.of(reports_now_and_then, timeout=50)})
async def test_time_of_a_report_is_that_of_the_call(jobs: Jobs) -> None:
    job = jobs.submit("slow")

    ended = await jobs.wait(job.id)

    assert ended.outcome is Outcome.TIMED_OUT
    assert ended.progress is not None
    assert ended.started_at is not None
    assert ended.progress.at == ended.started_at + timedelta(seconds=5)


class Attempts:
    """A handler that reports the number of its attempt, the second time nothing, and fails."""

    contexts: list[JobContext]

    def __init__(self) -> None:
        self.contexts = []

    async def __call__(self, _payload: object, context: JobContext) -> None:
        self.contexts.append(context)
        await trio.sleep(1)
        if context.attempt != 2:
            context.progress(context.attempt, message="copying")
        raise OSError(context.attempt)


async def test_attempt_shows_its_own_reports_and_the_waiting_job_the_last_ones(
    autojump_clock: MockClock,
) -> None:
    assert autojump_clock
    attempts = Attempts()
    retry = RetryPolicy(attempts=3, base=10, factor=1, jitter=False)
    async with open_any_jobs({"copy": Handler.of(attempts, retry=retry)}) as jobs:
        job = jobs.submit("copy")
        seen = []
        for seconds in (0.5, 1, 10, 1):  # within an attempt, and before the next one
            await trio.sleep(seconds)
            progress = jobs.get(job.id).progress
            seen.append(None if progress is None else progress.done)
        ended = await jobs.wait(job.id)
        attempts.contexts[0].progress(99)  # a task that has outlasted the job

    assert seen == [None, 1, None, None]
    assert ended.progress is not None
    assert (ended.progress.done, ended.progress.message) == (3, "copying")
    assert jobs.get(job.id).progress == ended.progress


async def test_report_is_no_checkpoint_and_wakes_no_task() -> None:
    reported: list[object] = []

    async def report(_payload: object, context: JobContext) -> None:
        with assert_no_checkpoints():
            for number in range(1_000):
                context.progress(number)
        reported.append(trio.lowlevel.current_statistics().tasks_runnable)

    async with running_pool({"report": report}) as running:
        running.submit("report")
        await wait_all_tasks_blocked()

    assert reported == [0]


class Page(IntEnum):
    """A number of another type."""

    FIRST = 1


class Text(str):
    """A text of another type."""

    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("not to be called")


async def test_numbers_and_texts_of_other_types_become_plain() -> None:
    report = ProgressReport.of(Page.FIRST, True + 1.0, Text("page"))

    assert report == ProgressReport(1, 2.0, "page")
    assert [type(each) for each in (report.done, report.total, report.message)] == [int, float, str]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((-1,), ValueError, "done must be a number from 0 to 2**53, got -1"),
        ((1, -0.5), ValueError, "total must be a number from 0 to 2**53, got -0.5"),
        ((math.nan,), ValueError, "done must be a number from 0 to 2**53, got nan"),
        ((1, math.inf), ValueError, "total must be a number from 0 to 2**53, got inf"),
        ((2**53 + 1,), ValueError, "done must be a number from 0 to 2**53, got 9007199254740993"),
        ((10**5000,), ValueError, "done must be a number from 0 to 2**53, got more"),
        (("1",), TypeError, "done must be a number, got str"),
        ((True,), TypeError, "done must be a number, got bool"),
        ((None,), TypeError, "done must be a number, got NoneType"),
        ((1, 2, b"page"), TypeError, "message must be a text, got bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_else_is_refused(
    arguments: tuple[Any, ...], error: type[Exception], text: str
) -> None:
    context = JobContext(id="a", type="t", submitted_at=NOON, state=None)

    with pytest.raises(error) as raised:
        context.progress(*arguments)

    assert str(raised.value) == text


def test_context_that_a_test_has_made_takes_reports() -> None:
    context = JobContext(id="a", type="t", submitted_at=NOON, state=None)

    context.progress(1, 2, "page")


HOSTILE = "<img onerror=x>\x1b[31m\u202e\ud800" + "x" * 10_000_000


async def report_and_wait(_payload: object, context: JobContext) -> None:
    context.progress(0, None, HOSTILE)
    await trio.sleep_forever()


async def test_hostile_message_is_cut_and_readable_in_each_view() -> None:
    async with running_pool({"wait": report_and_wait}) as running:
        api = Api(parts=running.parts)
        job = running.submit("wait")
        await wait_all_tasks_blocked()
        view = (await api.client.get(f"/jobs/{job.id}")).json()
        pool = (await api.client.get("/pool")).json()
        waited = await api.client.post(f"/jobs/{job.id}/cancel")
        await wait_all_tasks_blocked()
        ended = (await api.client.get(f"/jobs/{job.id}")).json()

    message = view["progress"]["message"]
    assert message.startswith("<img onerror=x>\ufffd[31m\u202e\ufffdxxx")
    assert len(message) == 200
    progress = {"done": 0, "message": message, "at": view["progress"]["at"]}
    assert view["progress"] == waited.json()["progress"] == ended["progress"] == progress
    assert pool["slots"][0]["progress"] == progress
    described = await document()
    validator(described, "Job").validate(view)
    validator(described, "Job").validate(ended)
    validator(described, "PoolState").validate(pool)


class Frames:
    """Takes the reports that a child sends, and counts the threads that send them."""

    def __init__(self) -> None:
        self.sent: list[ProgressReport] = []
        self.progress = ChildProgress(self.sent.append)

    def report(self, done: int) -> None:
        self.progress.report(ProgressReport(done, None, ""))

    @property
    def numbers(self) -> list[float]:
        return [report.done for report in self.sent]


async def test_child_sends_the_first_report_at_once_and_the_last_one_soon() -> None:
    frames = Frames()

    for number in range(1_000):
        frames.report(number)
    at_once = frames.numbers
    await wait_until(lambda: frames.numbers[-1] == 999)

    assert at_once[0] == 0
    assert len(frames.numbers) <= 50  # some if this takes its time


@pytest.mark.parametrize(("send", "last"), [(True, 7), (False, 0)])
def test_child_sends_nothing_behind_the_end(send: bool, last: int) -> None:
    frames = Frames()
    frames.report(0)
    frames.report(7)

    frames.progress.end(send=send)
    frames.report(8)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()

    assert frames.numbers[-1] == last


def test_child_without_another_thread_sends_a_waiting_report_at_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    frames = Frames()

    frames.report(0)
    frames.report(1)
    frames.report(2)
    frames.progress.end(send=True)

    assert frames.numbers == [0, 2]


def test_signal_handler_may_report_while_a_report_is_sent() -> None:
    sent: list[float] = []

    def send(report: ProgressReport) -> None:
        sent.append(report.done)
        if report.done == 0:
            progress.report(ProgressReport(1, None, ""))

    progress = ChildProgress(send)
    progress.report(ProgressReport(0, None, ""))
    progress.end(send=True)

    assert sent == [0, 1]


def test_lines_are_bounded_in_number_and_the_kept_ones_in_bytes() -> None:
    running = RunningJob(make_job("a"), 0.0)
    assert (running.now, running.left) == (None, None)

    for number in range(30):
        running.note_line(f"{number:02} " + "\N{SNOWMAN}" * 1_000, most=20)

    assert running.now is not None
    assert running.left is not None
    assert [line[:2] for line in running.now.lines] == [f"{n:02}" for n in range(10, 30)]
    assert {len(line) for line in running.now.lines} == {500}
    # A snowman has three bytes.
    assert [line[:2] for line in running.left.lines] == ["28", "29"]
