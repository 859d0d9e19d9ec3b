"""`open_jobs(path=…)`: `DurableJobs`, whose jobs are in a file and survive the program."""

import logging
import os
from pathlib import Path

import pytest
import trio

from trio_jobs import (
    DurableJobs,
    Handler,
    InvalidTransitionError,
    JobNotFoundError,
    Jobs,
    KeyReusedError,
    Outcome,
    QueueFullError,
    RetryPolicy,
    ShuttingDownError,
    StoreFileError,
    UnknownTypeError,
    open_jobs,
)


async def double(number: int) -> int:
    return 2 * number


async def fail(_: object) -> None:
    raise ValueError("no")


async def hang(_: object) -> None:
    await trio.sleep_forever()


HANDLERS = {"double": double, "fail": fail, "hang": hang}


async def test_without_a_path_it_is_as_it_was(tmp_path: Path) -> None:
    async with open_jobs(HANDLERS) as jobs:
        assert isinstance(jobs, Jobs)

    assert not any(os.scandir(tmp_path))


async def test_job_and_its_result_are_there_for_the_next_program(tmp_path: Path) -> None:
    async with open_jobs(HANDLERS, path=tmp_path / "jobs.db") as jobs:
        assert isinstance(jobs, DurableJobs)
        job = await jobs.submit("double", 21, key="k")
        assert await jobs.result(job.id) == 42
        late = await jobs.submit("double", 4, delay=1000)

    async with open_jobs(HANDLERS, path=str(tmp_path / "jobs.db")) as jobs:
        assert await jobs.result(job.id, type=int) == 42
        assert (await jobs.submit("double", 21, key="k")).id == job.id
        with pytest.raises(KeyReusedError):
            await jobs.submit("double", 22, key="k")
        assert [each.id for each in await jobs.page()] == [job.id, late.id]
        await jobs.cancel(late.id)
        assert (await jobs.wait(late.id)).outcome is Outcome.CANCELLED
        await jobs.delete(late.id)
        with pytest.raises(JobNotFoundError):
            await jobs.get(late.id)
        with pytest.raises(ValueError, match="limit"):
            await jobs.page(limit=-1)


async def test_file_is_alone_after_the_end_although_it_was_read(tmp_path: Path) -> None:
    async with open_jobs(HANDLERS, path=tmp_path / "jobs.db") as jobs:
        job = await jobs.submit("double", 21)
        await jobs.result(job.id)
        assert (await jobs.get(job.id)).outcome is Outcome.SUCCEEDED
        assert (tmp_path / "jobs.db-wal").stat().st_size

    assert {each.name for each in os.scandir(tmp_path)} == {"jobs.db", "jobs.db-lock"}


async def test_most_jobs_that_a_file_keeps_count_those_that_it_drops_together(
    tmp_path: Path,
) -> None:
    most = []
    for path in (None, tmp_path / "jobs.db"):
        async with open_jobs({}, path=path, keep_completed=150, keep_failed=10) as jobs:
            most.append(jobs.statistics().max_kept)
    assert most == [160, 163]


async def test_pending_jobs_stay_in_the_file_and_go_on_in_order(tmp_path: Path) -> None:
    begun: list[int] = []
    first_begun, may_end = trio.Event(), trio.Event()

    async def note(number: int) -> None:
        begun.append(number)
        first_begun.set()
        await may_end.wait()

    async with open_jobs({"note": note}, path=tmp_path / "jobs.db", workers=1) as jobs:
        ids = [(await jobs.submit("note", n)).id for n in range(5)]
        await first_begun.wait()
        may_end.set()
    assert begun == [0]

    async with open_jobs({"note": note}, path=tmp_path / "jobs.db", workers=1) as jobs:
        for job_id in ids:
            assert (await jobs.wait(job_id)).outcome is Outcome.SUCCEEDED
    assert begun == [0, 1, 2, 3, 4]


async def test_with_drain_all_the_block_waits_for_all_that_is_buffered(tmp_path: Path) -> None:
    async with open_jobs(HANDLERS, path=tmp_path / "jobs.db", workers=1, drain="all") as jobs:
        ids = [(await jobs.submit("double", n)).id for n in range(20)]

    async with open_jobs(HANDLERS, path=tmp_path / "jobs.db", workers=1) as jobs:
        found = [(await jobs.get(job_id)).outcome for job_id in ids]
    assert set(found) == {Outcome.SUCCEEDED}


async def test_batch_is_all_or_none_and_a_rerun_is_once(tmp_path: Path) -> None:
    async with open_jobs(HANDLERS, path=tmp_path / "jobs.db", workers=1, buffer_size=3) as jobs:
        with pytest.raises(QueueFullError):
            await jobs.submit_all([("hang", None)] * 5)
        with pytest.raises(UnknownTypeError):
            await jobs.submit("other")
        [job] = await jobs.submit_all([("fail", 1)])
        assert (await jobs.wait(job.id)).outcome is Outcome.FAILED
        new = await jobs.rerun(job.id)
        assert new.rerun_of == job.id
        with pytest.raises(InvalidTransitionError):
            await jobs.rerun(job.id)
        await jobs.wait(new.id)
        [again] = await jobs.rerun_all(outcome=["failed"])
        assert again.rerun_of == new.id
        await jobs.drain()
        with pytest.raises(ShuttingDownError):
            await jobs.submit("double", 1)


async def test_cancelled_block_names_what_it_has_cut_off_and_the_next_one_runs_it_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun = {"hang": trio.Event(), "once": trio.Event()}

    async def note(name: str) -> None:
        begun[name].set()
        await trio.sleep_forever()

    handlers = {"hang": Handler.of(note), "once": Handler.of(note, repeatable=False)}
    with trio.CancelScope() as scope:
        async with open_jobs(handlers, path=tmp_path / "jobs.db") as jobs:
            job, once = await jobs.submit("hang", "hang"), await jobs.submit("once", "once")
            for event in begun.values():
                await event.wait()
            scope.cancel()
    assert sum(job.id in str(vars(record)) for record in caplog.records) >= 1

    with trio.CancelScope() as scope:
        async with open_jobs(handlers, path=tmp_path / "jobs.db") as jobs:
            assert (await jobs.get(once.id)).outcome is Outcome.INTERRUPTED
            assert (await jobs.get(job.id)).outcome is None
            scope.cancel()


async def test_second_program_on_the_file_is_refused_in_one_line(tmp_path: Path) -> None:
    async with open_jobs(HANDLERS, path=tmp_path / "jobs.db") as jobs:
        with pytest.raises(StoreFileError, match="in use") as refused:
            async with open_jobs(HANDLERS, path=tmp_path / "jobs.db"):
                pass
        assert "\n" not in str(refused.value)
        job = await jobs.submit("double", 1)
        assert await jobs.result(job.id) == 2


async def test_exception_of_the_block_is_raised_alone(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_jobs(HANDLERS, path=tmp_path / "jobs.db"):
            raise KeyError("mine")


async def test_settings_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    for options in ({"drain": "running"}, {"keep_for": 60.0}):
        with pytest.raises(ValueError, match="needs"):
            async with open_jobs(HANDLERS, **options):
                pass
    with pytest.raises(ValueError, match="sync must be one of"):
        async with open_jobs(HANDLERS, path=tmp_path / "jobs.db", sync="off"):  # type: ignore[call-overload]
            pass


async def test_retry_and_not_repeatable_exclude_each_other() -> None:
    with pytest.raises(Exception, match="not repeatable"):
        Handler.of(fail, retry=RetryPolicy(attempts=2), repeatable=False)


@pytest.mark.parametrize(
    "wrong", [{"repeatable": 1}, {"max_interruptions": 0}, {"max_interruptions": True}]
)
async def test_handler_refuses_what_is_no_such_value(wrong: dict[str, object]) -> None:
    with pytest.raises(Exception, match="must have"):
        Handler.of(fail, **wrong)  # type: ignore[arg-type]


async def test_http_over_a_file_is_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with open_jobs(HANDLERS, path=tmp_path / "jobs.db") as jobs:
        assert callable(jobs.asgi())
    assert "store_opened" in caplog.text
