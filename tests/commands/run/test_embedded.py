"""`EmbeddedRunner`: jobs in this process: window, refusals, outcomes, stop, cancel, lifespans."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_jobs.commands.run.done_lines import DoneLines
from trio_jobs.commands.run.embedded import EmbeddedRunner, for_run
from trio_jobs.commands.run.input_file import InputFile
from trio_jobs.commands.run.reader import Reader
from trio_jobs.commands.run.runner import JobEnd, RunnerError
from trio_jobs.handlers.handler import Handler
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.handlers.retry_policy import RetryPolicy
from trio_jobs.retries import Retry
from trio_jobs.settings import Config, HttpSettings, PoolSettings, StoreSettings


class Jobs:
    """A runner over handlers of a test, and the answers that it has delivered."""

    def __init__(self, folder: Path, *handlers: object, **pool: Any) -> None:  # noqa: ANN401
        self.folder = folder
        self.answers: list[dict[str, Any]] = []
        self.delivered = trio.Event()
        self.most = 0
        in_flight = pool.pop("in_flight", None)
        lifespan = pool.pop("lifespan", None)
        table = {getattr(each, "__name__", "h"): each for each in handlers}
        self.config = Config(
            pool=PoolSettings(**{"workers": 2} | pool),
            http=HttpSettings(max_body_bytes=1_024),
            store=StoreSettings(path="jobs.db", keep_for=60.0),  # neither has an effect
        )
        registry = HandlerRegistry.of(table, async_handlers="trio", lifespan=lifespan)
        self.runner = EmbeddedRunner(self.config, registry, in_flight=in_flight)

    async def run(self, *lines: str, deliver: Callable[[], Awaitable[None]] | None = None) -> None:
        path = self.folder / "records"
        path.write_text("".join(f"{line}\n" for line in lines))
        self.reader = Reader(
            InputFile(str(path)),
            "r",
            DoneLines(),
            job_type=None,
            chunk=None,
            refuse=lambda *_: None,
        )

        async def take(answers: Sequence[JobEnd]) -> None:
            self.most = max(self.most, self.runner.in_flight)
            if deliver is not None:
                await deliver()
            for each in answers:
                answer = json.loads(b"{" + each.members)
                assert answer["outcome"] == each.outcome
                self.answers.append(answer | {"line": each.submission.records[0].number})
                self.delivered.set()

        await self.runner.run(self.reader, take)

    def outcomes(self) -> dict[int, str]:
        return {each["line"]: each["outcome"] for each in self.answers}


class Count:
    """A number that tasks wait for; what has read the input by then is no thread any more."""

    def __init__(self) -> None:
        self.number = 0
        self._wanted = 0
        self._reached = trio.Event()

    def add(self) -> None:
        self.number += 1
        if self.number == self._wanted:
            self._reached.set()

    async def wait(self, number: int) -> None:
        if self.number < number:
            self._wanted = number
            await self._reached.wait()
        await wait_all_tasks_blocked()


def job(type_: str, payload: object = None) -> str:
    return json.dumps({"type": type_, "payload": payload})


async def double(payload: int) -> int:
    await trio.lowlevel.checkpoint()
    return 2 * payload


async def fail(_: object) -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError("no")


async def test_each_record_gets_the_answer_of_its_job(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, double, fail)
    await jobs.run(job("double", 4), job("fail"), job("double", "x"), job("none"), job("double", 1))

    answers = {each.pop("line"): each for each in jobs.answers}
    assert answers[1] == {"id": answers[1]["id"], "outcome": "succeeded", "result": 8}
    assert answers[2]["error"] == {"type": "ValueError", "message": "no"}
    assert answers[3] == {
        "outcome": "refused",
        "error": {"type": "Refused", "message": "$.payload: expected int, got str"},
    }
    assert answers[4]["outcome"] == "refused"
    assert "none" in answers[4]["error"]["message"]
    assert answers[5]["result"] == 2
    assert not (tmp_path / "jobs.db").exists()
    assert jobs.runner.in_flight == 0


async def test_payload_larger_than_a_body_may_be_is_refused(tmp_path: Path) -> None:
    async def take(payload: str) -> None: ...

    jobs = Jobs(tmp_path, take)
    await jobs.run(job("take", "x" * 1_022), job("take", "x" * 1_023))

    assert jobs.outcomes() == {1: "succeeded", 2: "refused"}


async def test_hidden_values_are_hidden_in_results(tmp_path: Path) -> None:
    async def login(_: object) -> dict[str, object]:
        return {"user": "a", "token": "secret"}

    jobs = Jobs(tmp_path, Handler.of(login, hide=("token",), name="login"))
    await jobs.run(job("h"))

    assert jobs.answers[0]["result"] == {"user": "a", "token": "•••"}


@pytest.mark.parametrize(("in_flight", "most"), [(None, 16), (1, 1), (3, 3), (40, 40)])
async def test_no_more_jobs_are_under_way_than_the_window_holds(
    tmp_path: Path, in_flight: int | None, most: int
) -> None:
    jobs = Jobs(tmp_path, double, in_flight=in_flight, buffer_size=1_000)
    await jobs.run(*[job("double", 1)] * 200)

    assert jobs.outcomes() == dict.fromkeys(range(1, 201), "succeeded")
    assert jobs.most == most


async def test_window_that_is_larger_than_pool_and_buffer_waits_for_room(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, double, in_flight=100, workers=1, buffer_size=1)
    await jobs.run(*[job("double", 1)] * 300)

    assert len(jobs.answers) == 300


async def test_slow_reader_of_answers_holds_up_the_jobs(tmp_path: Path) -> None:
    begun = Count()
    go_on = trio.Event()

    async def note(_: object) -> None:
        begun.add()

    jobs = Jobs(tmp_path, note, in_flight=5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: jobs.run(*[job("note")] * 100, deliver=go_on.wait))
        await begun.wait(5)
        assert begun.number == 5
        go_on.set()

    assert begun.number == len(jobs.answers) == 100


async def test_stop_submits_no_more_and_waits_for_what_is_under_way(tmp_path: Path) -> None:
    begun = Count()
    go_on = trio.Event()

    async def wait(_: object) -> None:
        begun.add()
        await go_on.wait()

    jobs = Jobs(tmp_path, wait, in_flight=4)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(jobs.run, *[job("wait")] * 100)
        await begun.wait(2)
        jobs.reader.stop()
        jobs.runner.stop()
        await wait_all_tasks_blocked()
        assert jobs.runner.in_flight == 4
        go_on.set()

    assert len(jobs.answers) == 4


async def test_cancel_ends_running_and_waiting_jobs(tmp_path: Path) -> None:
    begun = Count()

    async def endless(_: object) -> None:
        begun.add()
        await trio.sleep_forever()

    jobs = Jobs(tmp_path, endless, in_flight=10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(jobs.run, *[job("endless")] * 100)
        await begun.wait(2)
        jobs.reader.stop()
        jobs.runner.cancel()

    assert jobs.outcomes() == dict.fromkeys(range(1, 11), "cancelled")


async def test_cancelled_run_ends_its_pool(tmp_path: Path) -> None:
    begun, ended = Count(), Count()

    async def note_end(_: object) -> None:
        begun.add()
        try:
            await trio.sleep_forever()
        finally:
            ended.add()

    jobs = Jobs(tmp_path, note_end)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(jobs.run, *[job("note_end")] * 100)
        await begun.wait(2)
        nursery.cancel_scope.cancel()

    assert (ended.number, jobs.answers) == (2, [])


async def test_postponed_job_is_waited_for(tmp_path: Path) -> None:
    tries = 0

    async def third(_: object) -> int:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Retry(0)
        return tries

    jobs = Jobs(tmp_path, Handler.of(third, name="third", retry=RetryPolicy(attempts=5)))
    await jobs.run(job("h"))

    assert jobs.answers[0]["result"] == 3


async def test_lifespan_that_does_not_open_is_an_error_of_the_runner(tmp_path: Path) -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        raise OSError("no database")
        yield

    jobs = Jobs(tmp_path, double, lifespan={"trio": broken})

    with pytest.raises(RunnerError, match="no database"):
        await jobs.run(job("double", 1))


async def test_error_of_who_takes_the_answers_ends_the_run(tmp_path: Path) -> None:
    async def fail_to_take() -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    jobs = Jobs(tmp_path, double)

    with pytest.raises((ZeroDivisionError, ExceptionGroup)):
        await jobs.run(job("double", 1), deliver=fail_to_take)


async def test_full_waiting_room_of_a_limited_type_does_not_end_the_run(tmp_path: Path) -> None:
    limited = Handler.of(double, name="double", max_running=1)
    jobs = Jobs(tmp_path, limited, workers=4, max_waiting=0, in_flight=50)
    await jobs.run(*[job("h", 1)] * 100)

    assert len(jobs.answers) == 100


def test_settings_of_a_run_keep_nothing() -> None:
    config = for_run(replace(Config(), pool=PoolSettings(drain="running", leftovers="x")), 77)

    assert config.store.path is config.pool.leftovers is config.pool.drain is None
    assert config.pool.max_waiting >= 77
