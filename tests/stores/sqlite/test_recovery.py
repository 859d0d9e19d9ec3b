"""The start: what becomes of the jobs that a process has left behind."""

from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.stores.sqlite.files import opened, read, write
from tests.support import NOON, SUCCEEDED, make_job
from trio_jobs import Ending, Job, JobError, JobStatus, Outcome
from trio_jobs.stores.sqlite.recovery import _UNFINISHED, Recovered, RecoveryRule, recover
from trio_jobs.stores.sqlite.retention import Kept

LATER = NOON + timedelta(hours=1)
ONCE = {"test": RecoveryRule(repeatable=False)}
REPEATABLE = {"test": RecoveryRule()}


def running(job_id: str, *, interruptions: int = 0) -> Job:
    return replace(
        make_job(job_id),
        status=JobStatus.PROCESSING,
        started_at=NOON,
        attempts=1,
        interruptions=interruptions,
    )


def recovered(path: Path, rules: dict[str, RecoveryRule]) -> Recovered:
    with opened(path) as file:
        return recover(file, rules.get, now=LATER)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


def test_empty_file_has_nothing_to_recover(path: Path) -> None:
    assert recovered(path, {}) == Recovered(
        pending=[], suspects=[], returned=[], ended=[], last_seq=0, last_id="", kept=Kept()
    )


def test_pending_and_waiting_jobs_stay_as_they_are_in_their_order(path: Path) -> None:
    waiting = replace(
        make_job("b"), run_at=LATER, attempts=2, last_error=JobError(type="E", message="m")
    )
    jobs = [(1, make_job("a")), (4, waiting), (9, make_job("c"))]
    write(path, jobs)

    found = recovered(path, REPEATABLE)

    assert (found.pending, found.suspects, found.returned, found.ended) == (jobs, [], [], [])
    assert (found.last_seq, found.last_id) == (9, "c")


def test_running_job_is_put_back_and_counts_an_interruption(path: Path) -> None:
    write(path, [(1, make_job("a")), (2, running("b"))])

    found = recovered(path, REPEATABLE)

    back = replace(make_job("b"), attempts=1, interruptions=1)
    assert (found.pending, found.suspects) == ([(1, make_job("a"))], [(2, back)])
    assert (found.returned, found.ended) == (["b"], [])
    assert read(path) == [(1, make_job("a")), (2, back)]


def test_second_start_finds_nothing_to_put_back(path: Path) -> None:
    write(path, [(1, running("a"))])
    first = recovered(path, REPEATABLE)

    second = recovered(path, REPEATABLE)

    assert (first.returned, second.returned) == (["a"], [])
    assert first.suspects == second.suspects


@pytest.mark.parametrize("interruptions", [0, 1])
def test_job_that_may_not_run_twice_ends(interruptions: int, path: Path) -> None:
    write(path, [(1, running("a", interruptions=interruptions))])

    found = recovered(path, ONCE)

    (ended,) = found.ended
    assert (ended.status, ended.outcome) == (JobStatus.COMPLETED, Outcome.INTERRUPTED)
    assert (ended.completed_at, ended.interruptions) == (LATER, interruptions + 1)
    assert ended.ending == Ending(
        outcome=Outcome.INTERRUPTED,
        error=JobError(
            type="Interrupted",
            message="the server's process ended while the job ran, "
            "and its handler is not repeatable",
        ),
    )
    assert (found.pending, found.suspects, found.returned) == ([], [], [])
    assert read(path) == [(1, ended)]


def test_job_ends_at_the_third_interruption(path: Path) -> None:
    write(path, [(1, running("a", interruptions=1)), (2, running("b", interruptions=2))])

    found = recovered(path, REPEATABLE)

    assert found.returned == ["a"]
    assert [job.id for job in found.ended] == ["b"]
    (ended,) = found.ended
    assert ended.ending is not None
    assert ended.ending.error is not None
    assert ended.ending.error.message == "the server's process ended 3 times while the job ran"


def test_job_of_a_missing_handler_is_put_back_and_decided_when_there_is_one(path: Path) -> None:
    write(path, [(1, running("a"))])

    assert recovered(path, {}).returned == ["a"]
    assert [job.id for job in recovered(path, ONCE).ended] == ["a"]


def test_job_never_ends_before_it_began(path: Path) -> None:
    # The clock was set back.
    write(path, [(1, replace(running("a"), started_at=LATER + timedelta(hours=5)))])

    (ended,) = recovered(path, ONCE).ended

    assert ended.completed_at == ended.started_at


def test_completed_jobs_are_counted(path: Path) -> None:
    done = replace(make_job("a"), status=JobStatus.COMPLETED, completed_at=NOON, ending=SUCCEEDED)
    write(path, [(1, done), (2, running("b"))])

    found = recovered(path, ONCE)

    (ended,) = found.ended
    assert found.kept == Kept(
        succeeded=1, succeeded_bytes=done.size, others=1, others_bytes=ended.size
    )


def test_start_reads_no_completed_job(path: Path) -> None:
    with opened(path) as file:
        plan = file.connection.execute(f"EXPLAIN QUERY PLAN {_UNFINISHED}").fetchall()

    assert any("USING INDEX jobs_live" in row[-1] for row in plan), plan
