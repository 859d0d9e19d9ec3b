"""A pool in a Trio program: submitting from Python, waiting, draining, cutting short."""

import asyncio
import gc
import inspect
import logging
import math
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, assert_type, get_args, get_type_hints

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_jobs
import trio_jobs.asyncio
from tests.support import SETTINGS
from trio_jobs import (
    Handler,
    HandlerError,
    InvalidTransitionError,
    Job,
    JobNotFoundError,
    Jobs,
    JobStatus,
    JobUnsuccessfulError,
    Outcome,
    PayloadError,
    ShuttingDownError,
    UnknownTypeError,
    open_jobs,
)
from trio_jobs.testing import Client

DEEP: Any = None
for _ in range(65):
    DEEP = [DEEP]


class Email(msgspec.Struct):
    """What the handler below takes."""

    to: str
    tries: Annotated[int, msgspec.Meta(ge=0)] = 0


async def send_email(email: Email) -> dict[str, str]:
    await trio.sleep(1)
    return {"sent_to": email.to}


async def echo(payload: object) -> object:
    return payload


async def fail(_payload: object) -> None:
    raise ValueError("no such address")


async def never_returns(_payload: object) -> None:
    await trio.sleep_forever()


async def slow_to_go(_payload: object) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(10)


@pytest.fixture
def no_completion_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has processed a job crashes."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr("trio_jobs.stores.memory.MemoryStore.complete", broken)


async def test_a_pool_leaves_the_programs_garbage_collector_alone() -> None:
    frozen = gc.get_freeze_count()
    async with open_jobs({"email": send_email}):
        # Fewer, if one of the frozen objects has come to its end meanwhile.
        assert gc.get_freeze_count() <= frozen


async def test_job_is_submitted_and_waited_for(autojump_clock: MockClock) -> None:
    async with open_jobs({"email": send_email}) as jobs:
        job = jobs.submit("email", {"to": "user@example.com"})
        assert job.status is JobStatus.PENDING
        job = await jobs.wait(job.id)

        assert job.status is JobStatus.COMPLETED
        assert job.ending is not None
        assert job.ending.outcome is Outcome.SUCCEEDED
        assert await jobs.result(job.id) == {"sent_to": "user@example.com"}
        assert await jobs.result(job.id, type=dict[str, str]) == {"sent_to": "user@example.com"}
        assert jobs.get(job.id) == job
    assert trio.current_time() == 1


async def test_result_is_what_the_caller_asks_for(autojump_clock: MockClock) -> None:
    handlers = {"echo": Handler.of(echo), "fail": fail}  # any values that can be handlers
    async with open_jobs(handlers) as jobs:
        job = jobs.submit("echo", {"to": "user@example.com"})
        many = jobs.submit("echo", [1, 2])

        email = assert_type(await jobs.result(job.id, type=Email), Email)
        assert email.to == "user@example.com"
        assert assert_type(await jobs.result(many.id, type=list[int]), list[int]) == [1, 2]
        assert assert_type(await jobs.result(job.id), Any) == {"to": "user@example.com"}
        with pytest.raises(msgspec.ValidationError):
            await jobs.result(many.id, type=Email)


async def test_payload_is_an_object_that_is_written_as_json_once(autojump_clock: MockClock) -> None:
    email = {"to": "user@example.com", "tries": 1}
    async with open_jobs({"email": send_email, "echo": echo}) as jobs:
        job = jobs.submit("email", Email(to="user@example.com", tries=1))
        echoed = jobs.submit("echo", email)
        email["tries"] = 2

        assert job.payload == b'{"to":"user@example.com","tries":1}'
        assert await jobs.result(echoed.id) == {"to": "user@example.com", "tries": 1}


@pytest.mark.parametrize(
    ("type_", "payload", "complaint"),
    [
        ("email", {"to": 1}, r"^\$\.payload\.to: expected str, got int$"),
        ("email", None, r"^\$\.payload: expected object, got null$"),
        ("email", {"to": "", "tries": -1}, r"^\$\.payload\.tries: expected int >= 0$"),
        ("email", object(), "^the payload is not serialisable: "),
        ("email", math.nan, "^the payload holds NaN or an infinity"),
        ("email", "\ud800", "^the payload holds text that is not valid Unicode: "),
        ("email", "x" * 2000, "^the payload is 2002 bytes of JSON, more than 1000$"),
        ("deep", DEEP, "^the JSON is nested deeper "),
        ("", None, r"^\$\.type must be a non-empty string$"),
        (3, None, r"^\$\.type: expected str, got int$"),
        (None, None, r"^\$\.type: expected str, got null$"),
        ("\ud800", None, r"^\$\.type is not valid Unicode: "),
    ],
)
async def test_bad_submission_is_refused_in_the_words_of_the_http_api(
    type_: Any,  # noqa: ANN401
    payload: object,
    complaint: str,
) -> None:
    handlers = {"email": send_email, "default": echo}
    async with open_jobs(handlers, max_payload_bytes=1000) as jobs:
        with pytest.raises(PayloadError, match=complaint):
            jobs.submit(type_, payload)
        with pytest.raises(PayloadError, match=complaint):
            await jobs.submit_when_possible(type_, payload)
        with pytest.raises(PayloadError, match=complaint):
            jobs.submit_all([(type_, payload)])

        assert jobs.page() == []


async def test_unknown_type_is_refused_and_the_default_takes_every_type() -> None:
    async with open_jobs({"email": send_email}) as jobs:
        with pytest.raises(UnknownTypeError, match="known types: 'email'"):
            jobs.submit("emial")
    async with open_jobs({"default": echo}) as jobs:
        assert await jobs.result(jobs.submit("emial", 1).id) == 1


async def test_leaving_the_block_drains(autojump_clock: MockClock) -> None:
    async with open_jobs({"email": send_email}, workers=2) as jobs:
        jobs.submit_all([("email", {"to": "a"})] * 10)

    assert trio.current_time() == 5
    assert jobs.unfinished() == ([], [])
    with pytest.raises(ShuttingDownError):
        jobs.submit("email", {"to": "a"})
    with pytest.raises(ShuttingDownError):
        await jobs.submit_when_possible("email", {"to": "a"})
    assert jobs.statistics().status == "shutting down"


async def test_draining_takes_no_more_jobs_and_waits_for_the_rest(
    autojump_clock: MockClock,
) -> None:
    async with open_jobs({"email": send_email}, workers=2, keep_completed=3) as jobs:
        jobs.submit_all([("email", {"to": "a"})] * 10)
        await jobs.drain()

        assert trio.current_time() == 5
        assert jobs.unfinished() == ([], [])
        with pytest.raises(ShuttingDownError):
            jobs.submit("email", {"to": "a"})
        await jobs.drain()
    assert trio.current_time() == 5


async def test_jobs_that_did_not_succeed_are_kept_apart(autojump_clock: MockClock) -> None:
    async with open_jobs(
        {"email": send_email, "wrong": raise_error}, workers=1, keep_completed=2, keep_failed=1
    ) as jobs:
        jobs.submit_all([("wrong", None), ("email", {"to": "a"})] * 3)
        await jobs.drain()

        assert [job.type for job in jobs.page()] == ["email", "wrong", "email"]
        dropped = jobs.statistics().dropped
        assert (dropped[Outcome.SUCCEEDED], dropped[Outcome.FAILED]) == (1, 2)


async def raise_error(_payload: object) -> None:
    raise ValueError("no")


async def test_cancelling_cuts_jobs_short_and_names_them(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.move_on_after(10) as scope:
        async with open_jobs({"forever": never_returns}, workers=1) as jobs:
            begun, waiting = jobs.submit("forever"), jobs.submit("forever")
            await trio.sleep_forever()

    assert scope.cancelled_caught
    assert trio.current_time() == 10
    assert jobs.unfinished() == ([begun.id], [waiting.id])
    assert jobs.get(begun.id).status is JobStatus.PENDING  # released
    named = [
        (record.message, vars(record)["job_ids"])
        for record in caplog.records
        if record.levelno >= logging.WARNING
    ]
    assert named == [("jobs_interrupted", begun.id), ("jobs_not_started", waiting.id)]


async def test_thread_is_left_behind_when_jobs_are_cut_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun, goes_on, returned = threading.Event(), threading.Event(), threading.Event()

    def wait(_payload: object) -> None:
        begun.set()
        goes_on.wait(60)
        returned.set()

    with trio.CancelScope() as scope:
        async with open_jobs({"wait": wait}) as jobs:
            job = jobs.submit("wait")
            await trio.to_thread.run_sync(begun.wait)
            scope.cancel()

    assert jobs.unfinished() == ([job.id], [])
    assert not returned.is_set()
    assert "thread_still_running" in caplog.messages
    goes_on.set()
    assert await trio.to_thread.run_sync(returned.wait, 60)


async def test_drain_has_the_length_that_the_scope_around_it_gives(
    autojump_clock: MockClock,
) -> None:
    with trio.CancelScope() as scope:
        async with open_jobs({"email": send_email, "forever": never_returns}) as jobs:
            job = jobs.submit("email", {"to": "a"})
            stuck = jobs.submit("forever")
            scope.deadline = trio.current_time() + 25

    assert trio.current_time() == 25
    assert jobs.get(job.id).status is JobStatus.COMPLETED
    assert jobs.unfinished() == ([stuck.id], [])


@pytest.mark.parametrize(
    "error", [OSError("disk"), ExceptionGroup("two", [OSError("disk"), ValueError()])], ids=repr
)
async def test_exception_in_the_block_cuts_jobs_short_and_leaves_as_it_is(
    error: Exception, autojump_clock: MockClock
) -> None:
    with pytest.raises(type(error)) as caught:  # noqa: PT012  (it leaves the block as it is)
        async with open_jobs({"forever": never_returns}) as jobs:
            job = jobs.submit("forever")
            await wait_all_tasks_blocked()
            raise error

    assert caught.value is error
    assert error.__context__ is None
    assert jobs.unfinished() == ([job.id], [])
    assert trio.current_time() == 0


async def test_block_that_is_cut_short_takes_no_more_jobs_while_its_handlers_unwind(
    autojump_clock: MockClock,
) -> None:
    told_at: list[float] = []

    async def needy(_payload: object) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.fail_after(50, shield=True):
                with pytest.raises(ShuttingDownError):
                    await jobs.submit_when_possible("needy")
                told_at.append(trio.current_time())
                await trio.sleep(10)

    with trio.move_on_after(1):
        async with open_jobs({"needy": needy}, workers=1, buffer_size=1) as jobs:
            job = jobs.submit("needy")
            await wait_all_tasks_blocked()
            jobs.submit("needy")
            try:
                await trio.sleep_forever()
            finally:
                with trio.fail_after(100, shield=True):
                    await wait_all_tasks_blocked()
                    assert jobs.statistics().status == "shutting down"
                    with pytest.raises(ShuttingDownError):
                        jobs.submit("needy")
                    await jobs.wait(job.id)

    assert told_at == [1]
    assert trio.current_time() == 11


@pytest.mark.parametrize("cut_short", [True, False])
async def test_end_of_a_pool_is_told_where_ctrl_c_cannot_come_between(
    monkeypatch: pytest.MonkeyPatch, *, cut_short: bool
) -> None:
    protected: list[bool] = []

    def note(*_: object) -> None:
        protected.append(trio.lowlevel.currently_ki_protected())

    monkeypatch.setattr("trio_jobs.pool.waiters.CompletionWaiters.end", note)

    with trio.CancelScope() as scope:
        async with open_jobs({"echo": echo}):
            if cut_short:
                scope.cancel()

    assert protected == [True]


async def test_clean_up_of_a_block_that_is_cut_short_is_told_that_the_pool_has_ended(
    autojump_clock: MockClock,
) -> None:
    """The pool's end must not wait for the block's, which waits for the pool's."""
    with trio.move_on_after(1):
        async with open_jobs({"forever": never_returns}, workers=1, buffer_size=1) as jobs:
            begun = jobs.submit("forever")
            await wait_all_tasks_blocked()
            waiting = jobs.submit("forever")
            try:
                await trio.sleep_forever()
            finally:
                with trio.fail_after(5, shield=True):
                    with pytest.raises(ShuttingDownError):
                        await jobs.submit_when_possible("forever")
                    assert (await jobs.wait(begun.id)).status is JobStatus.PENDING
                    with pytest.raises(JobUnsuccessfulError, match="is pending, and the pool has"):
                        await jobs.result(waiting.id)
                    await jobs.drain()

    assert trio.current_time() == 1
    assert jobs.unfinished() == ([begun.id], [waiting.id])


@pytest.mark.usefixtures("no_completion_is_recorded")
async def test_crash_of_a_worker_refuses_what_the_blocks_clean_up_submits(
    autojump_clock: MockClock,
) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="a bug of ours")):
        async with open_jobs({"echo": echo}) as jobs:
            job = jobs.submit("echo")
            try:
                await trio.sleep_forever()
            finally:
                with trio.fail_after(5, shield=True):
                    await wait_all_tasks_blocked()  # the workers have gone
                assert jobs.statistics().status == "shutting down"
                with pytest.raises(ShuttingDownError):
                    jobs.submit("echo")

    assert jobs.page() == [jobs.get(job.id)]


async def test_exception_beside_a_cancellation_is_not_lost(autojump_clock: MockClock) -> None:
    # In a group, for once, because the cancellation is on its way as well.
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="disk")), trio.move_on_after(5):
        async with open_jobs({"slow": slow_to_go}) as jobs:
            jobs.submit("slow")
            await wait_all_tasks_blocked()
            raise OSError("disk")
    assert trio.current_time() == 10


@pytest.mark.usefixtures("pythons_own_ctrl_c")
def test_ctrl_c_while_a_handler_runs_is_the_programs_and_not_the_jobs() -> None:
    interrupted: list[str] = []

    async def press_ctrl_c(_payload: object) -> None:
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    async def main() -> None:
        async with open_jobs({"press": press_ctrl_c}) as jobs:
            try:
                jobs.submit("press")
                await trio.sleep_forever()
            finally:
                interrupted.extend(jobs.unfinished()[0])

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)

    assert len(interrupted) == 1


async def test_result_of_an_unsuccessful_job_is_its_error(autojump_clock: MockClock) -> None:
    slow = Handler.of(never_returns, timeout=5)
    async with open_jobs({"fail": fail, "slow": slow}, workers=1) as jobs:
        failed, timed_out, cancelled = (jobs.submit(each) for each in ("fail", "slow", "slow"))
        jobs.cancel(cancelled.id)

        with pytest.raises(JobUnsuccessfulError, match=r"failed: ValueError: no such address$"):
            await jobs.result(failed.id)
        with pytest.raises(JobUnsuccessfulError, match="timed_out: ") as caught:
            await jobs.result(timed_out.id)
        with pytest.raises(JobUnsuccessfulError, match="cancelled: "):
            await jobs.result(cancelled.id)

        assert caught.value.job == jobs.get(timed_out.id)
        assert trio.current_time() == 5


async def test_running_job_is_cancelled(autojump_clock: MockClock) -> None:
    async with open_jobs({"forever": never_returns}, workers=1) as jobs:
        job = jobs.submit("forever")
        await wait_all_tasks_blocked()
        assert jobs.cancel(job.id).status is JobStatus.PROCESSING
        job = await jobs.wait(job.id)

        assert job.ending is not None
        assert job.ending.outcome is Outcome.CANCELLED
        with pytest.raises(InvalidTransitionError):
            jobs.cancel(job.id)
        jobs.delete(job.id)
        with pytest.raises(JobNotFoundError):
            await jobs.wait(job.id)


async def test_pools_do_not_know_of_each_other(autojump_clock: MockClock) -> None:
    async with (
        open_jobs({"echo": echo}, workers=1) as one,
        open_jobs({"echo": echo, "forever": never_returns}, workers=3) as two,
    ):
        job = one.submit("echo", 1)
        two.submit_all([("echo", 2), ("echo", 3)])

        assert await one.result(job.id) == 1
        with pytest.raises(JobNotFoundError):
            two.get(job.id)
        with pytest.raises(UnknownTypeError):
            one.submit("forever")
        assert (one.statistics().workers, two.statistics().workers) == (1, 3)


@pytest.mark.parametrize("file", [None, "jobs.db"], ids=["memory", "file"])
@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("submit", ["echo"]),
        ("submit_all", [[("echo", 1)]]),
        ("submit_when_possible", ["echo"]),
        ("wait", ["id"]),
        ("result", ["id"]),
        ("cancel", ["id"]),
        ("cancel_all", []),
        ("rerun", ["id"]),
        ("rerun_all", []),
        ("run_now", ["id"]),
        ("delete", ["id"]),
        ("drain", []),
    ],
)
async def test_call_in_another_thread_is_refused_and_costs_no_worker(
    tmp_path: Path, file: str | None, method: str, arguments: list[object]
) -> None:
    def call() -> None:  # as a plain handler does
        result = getattr(jobs, method)(*arguments)
        if inspect.iscoroutine(result):
            result.send(None)

    path = None if file is None else str(tmp_path / file)
    async with open_jobs({"echo": echo, "call": call}, workers=2, path=path) as jobs:
        with pytest.raises(RuntimeError, match=r"runs in another thread; .*trio\.from_thread"):
            await trio.to_thread.run_sync(call)
        with pytest.raises(JobUnsuccessfulError, match="runs in another thread"):
            await jobs.result((await jobs.submit_when_possible("call")).id)

        for number in range(4):
            job = await jobs.submit_when_possible("echo", number)
            assert await jobs.result(job.id) == number


def test_program_on_the_other_loop_is_told_what_it_needs() -> None:
    async def open_it(open_jobs: Any) -> None:  # noqa: ANN401 - of either module
        async with open_jobs({"echo": echo}):
            pass

    with pytest.raises(RuntimeError, match=r"an asyncio program has trio_jobs\.asyncio"):
        asyncio.run(open_it(open_jobs))
    with pytest.raises(RuntimeError, match=r"Trio has trio_jobs\.open_jobs"):
        trio.run(open_it, trio_jobs.asyncio.open_jobs)


async def test_plain_handler_submits_in_the_thread_of_the_block() -> None:
    def first(number: int) -> str:
        job: Job = trio.from_thread.run_sync(jobs.submit, "echo", number + 1)
        return job.id

    async with open_jobs({"first": first, "echo": echo}, workers=2) as jobs:
        follower = await jobs.result(jobs.submit("first", 1).id)

        assert await jobs.result(follower) == 2


async def test_generators_are_watched_for_as_long_as_there_is_a_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    class Watch(trio.abc.Instrument):
        def task_spawned(self, task: trio.lowlevel.Task) -> None:
            seen.append(task.name)

    monkeypatch.setattr("trio_jobs.embed.GeneratorEnds", Watch)

    async with open_jobs({"echo": echo}, workers=2):
        await trio.lowlevel.checkpoint()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.lowlevel.checkpoint)
        await trio.lowlevel.checkpoint()

    assert {"worker-0", "worker-1"} <= set(seen)
    assert not any("checkpoint" in name for name in seen)


async def test_pool_has_the_http_api_as_an_application_of_its_own() -> None:
    async with open_jobs({"echo": echo}, max_payload_bytes=100) as jobs:
        client = Client(jobs.asgi())
        answer = await client.post("/jobs", b'{"type":"echo","payload":1}', prefer="wait=5")

        assert answer.json()["result"] == 1
        assert answer.headers["location"] == f"/jobs/{answer.json()['id']}"
        assert (await client.post("/jobs", b" " * 101)).status == 413


async def takes_any_names(**_members: object) -> None:
    pytest.fail("it is called")


@pytest.mark.parametrize(
    ("handlers", "complaint"),
    [
        (
            {"email": "shop:send_email"},
            "the function for type 'email' is not callable: 'shop:send_email'",
        ),
        (
            {"echo": echo, "bad": takes_any_names},
            r"the function for type 'bad' \(.*:takes_any_names\) takes '_members': .*",
        ),
        ({3: echo}, "a job type must be a string, got 3"),
    ],
)
async def test_function_that_cannot_be_a_handler_is_refused_with_its_type(
    handlers: dict[Any, object], complaint: str
) -> None:
    with pytest.raises(HandlerError, match=f"^{complaint}$"):
        async with open_jobs(handlers):
            pytest.fail("the block is entered")


@pytest.mark.parametrize(
    ("name", "wrong", "range_"),
    [
        ("workers", 0, "an integer from 1 to 100000"),
        ("workers", True, "an integer from 1 to 100000"),
        ("workers", 2.0, "an integer from 1 to 100000"),
        ("buffer_size", 0, "an integer from 1 to 10000000"),
        ("buffer_size", math.inf, "an integer from 1 to 10000000"),
        ("max_waiting", -1, "an integer from 0 to 10000000"),
        ("max_waiting", 10_000_001, "an integer from 0 to 10000000"),
        ("processes", 0, "an integer from 1 to 1000"),
        ("keep_completed", -1, "an integer from 0 to 10000000"),
        ("keep_failed", -1, "an integer from 0 to 10000000"),
        ("keep_failed", True, "an integer from 0 to 10000000"),
        ("keep_completed_bytes", -1, "an integer from 0 to 1099511627776"),
        ("max_payload_bytes", -1, "an integer from 1 to 1073741824"),
        ("max_result_bytes", 0, "an integer from 1 to 1073741824"),
        ("max_waiters", -1, "an integer from 0 to 1000000"),
    ],
)
async def test_number_that_is_out_of_range_is_refused_before_anything_runs(
    name: str, wrong: object, range_: str
) -> None:
    options: Any = {name: wrong}
    with pytest.raises(ValueError, match=rf"^{name} must be {range_}, got {wrong!r}$"):
        async with open_jobs({"echo": echo}, **options):
            pytest.fail("the block is entered")


@pytest.mark.parametrize(
    ("name", "wrong", "range_"),
    [
        ("max_wait_seconds", -1, "a number of seconds from 0 to 604800"),
        ("max_wait_seconds", math.nan, "a number of seconds from 0 to 604800"),
        ("stream_idle_timeout", -1, r"a number of seconds from 0\.1 to 604800"),
        ("shutdown_retry_after", 2.5, "an integer from 1 to 604800"),
        ("shutdown_retry_after", 0, "an integer from 1 to 604800"),
    ],
)
async def test_number_of_the_http_api_that_is_out_of_range_is_refused(
    name: str, wrong: object, range_: str
) -> None:
    options: Any = {name: wrong}
    complaint = rf"^{name} must be {range_}, got {wrong!r}$"
    async with open_jobs({"echo": echo}) as jobs:
        with pytest.raises(ValueError, match=complaint):
            jobs.asgi(**options)


@pytest.mark.parametrize("limit", [-1, 1.5, None])
async def test_limit_of_a_page_that_is_no_count_is_refused(limit: object) -> None:
    async with open_jobs({"echo": echo}) as jobs:
        job = jobs.submit("echo")

        with pytest.raises(ValueError, match=rf"^limit must be an integer from 0 to .*{limit}$"):
            jobs.page(limit=limit)  # type: ignore[arg-type]
        assert (jobs.page(limit=0), jobs.page(limit=sys.maxsize)) == ([], [job])


@pytest.mark.parametrize("after", ["nope", "", 3])
async def test_page_after_what_is_no_id_is_refused(after: Any) -> None:  # noqa: ANN401
    async with open_jobs({"echo": echo}) as jobs:
        jobs.submit("echo")

        with pytest.raises(ValueError, match=rf"^after must be the id of a job, got {after!r}$"):
            jobs.page(after=after)


@pytest.mark.parametrize("function", [open_jobs, Jobs.asgi, Jobs.page])
def test_every_number_has_the_default_of_its_setting(
    function: Callable[..., object],
) -> None:
    settings = {path.partition(".")[2]: setting for path, setting in SETTINGS.items()}
    settings["max_payload_bytes"] = settings["max_body_bytes"]
    del settings["max_types"]  # unless it is given, an embedded pool counts nothing
    del settings["ui"]  # below a mount the page is there if it is asked for
    for name, parameter in inspect.signature(function).parameters.items():
        if name in settings:
            assert parameter.default == settings[name].default


def test_everything_public_is_there() -> None:
    for name in trio_jobs.__all__:
        assert getattr(trio_jobs, name).__name__ == name
    assert set(trio_jobs.__all__) <= set(dir(trio_jobs))
    with pytest.raises(AttributeError, match="has no attribute 'open_job'"):
        trio_jobs.open_job  # type: ignore[attr-defined]  # noqa: B018


def test_what_public_things_are_made_of_is_public() -> None:
    for name in trio_jobs.__all__:
        for module, used in sorted(used_by(getattr(trio_jobs, name))):
            assert module.partition(".")[0] != "trio_jobs" or used in trio_jobs.__all__, name


def used_by(public: object) -> set[tuple[str, str]]:
    """The classes in the annotations of a function, or of a class's attributes and methods."""
    hints: list[object] = []
    for each in [public, *(getattr(public, name) for name in vars(public) if name[0] != "_")]:
        each = each.fget if isinstance(each, property) else each
        if inspect.isclass(each) or inspect.isroutine(each):
            hints += get_type_hints(
                each,
                vars(sys.modules[each.__module__])
                | {
                    "trio": trio,
                    "asyncio": asyncio,
                    "LoopChoice": str,
                    "RetryPolicy": trio_jobs.RetryPolicy,
                },
            ).values()
    found = set()
    while hints:
        hint = hints.pop()
        hints += get_args(hint)
        if isinstance(hint, type):
            found.add((hint.__module__, hint.__name__))
    return found
