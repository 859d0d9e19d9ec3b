"""A job comes out of the file as it went in."""

import sqlite3
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.proof.share import few_or_many, others
from tests.stores.sqlite.files import opened, read, write
from tests.support import NOON, make_job
from trio_jobs import Ending, Job, JobError, JobStatus, Outcome, Progress
from trio_jobs.job import Extras, IdempotencyKey, Left, with_left
from trio_jobs.stores.sqlite.record_writer import RecordWriter
from trio_jobs.stores.sqlite.statements import TOGETHER

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
times = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9000, 1, 1))  # noqa: DTZ001
times_utc = times.map(lambda time: time.replace(tzinfo=UTC))
counts = st.integers(0, 2**40)
errors = st.builds(JobError, type=texts, message=texts)
numbers = st.integers(0, 2**53) | st.floats(0, 2**53)
progress = st.builds(Progress, done=numbers, total=st.none() | numbers, message=texts, at=times_utc)
extras = st.builds(
    Extras.of,
    snoozes=counts,
    progress=st.none() | progress,
    lines=st.lists(texts, max_size=3).map(tuple),
    submitted_by=st.none() | texts,
    trace=st.none() | texts,
)
endings = st.builds(
    Ending, outcome=st.just(Outcome.SUCCEEDED), result=st.just(b"null") | st.binary(max_size=50)
) | st.builds(
    Ending,
    outcome=st.sampled_from([each for each in Outcome if each is not Outcome.SUCCEEDED]),
    error=errors,
)


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    status = draw(st.sampled_from(JobStatus))
    completed = status is JobStatus.COMPLETED
    return Job(
        id=draw(texts),
        type=draw(texts),
        payload=draw(st.binary(max_size=50)),
        created_at=draw(times_utc),
        status=status,
        started_at=draw(st.none() | times_utc),
        completed_at=draw(times_utc) if completed else None,
        duration=draw(st.none() | st.floats(0, 1e9)) if completed else None,
        ending=draw(endings) if completed else None,
        cancel_requested=draw(st.booleans()),
        key=draw(st.none() | st.builds(IdempotencyKey, text=texts, digest=st.binary(max_size=32))),
        attempts=draw(counts),
        interruptions=draw(counts),
        run_at=draw(st.none() | times_utc),
        last_error=None if completed else draw(st.none() | errors),
        rerun_of=draw(st.none() | texts),
        rerun_as=draw(st.none() | texts),
        extras=draw(st.just(None) | extras),
    )


@few_or_many(25, 100)
def test_job_comes_out_as_it_went_in_and_as_it_moved(examples: int, tmp_path: Path) -> None:
    @others
    @settings(max_examples=examples)
    @given(first=jobs(), second=jobs())
    def check(first: Job, second: Job) -> None:
        comes_out_again(first, second, Path(tempfile.mkdtemp(dir=tmp_path)) / "jobs.db")

    check()


def comes_out_again(first: Job, second: Job, path: Path) -> None:
    moved = _with_identity(second, first)

    write(path, [(7, first)])
    assert read(path) == [(7, first)]

    # A result is written once, with the end of its job.
    if first.ending is None:
        with opened(path) as file:
            RecordWriter(file.connection).write([(7, moved)])
            assert read(path) == [(7, moved)]


def _with_identity(job: Job, of: Job) -> Job:
    names = ("id", "type", "payload", "created_at", "key", "rerun_of")
    fixed = {name: getattr(of, name) for name in names}
    left = Left(progress=job.progress, lines=job.lines)
    extras = Extras.of(submitted_by=of.submitted_by, trace=of.trace, snoozes=job.snoozes)
    job = with_left(replace(job, extras=extras), left)
    moved = {name: getattr(job, name) for name in job.__struct_fields__ if name not in fixed}
    return Job(**fixed, **moved)


def test_lone_surrogate_of_an_error_becomes_a_question_mark(tmp_path: Path) -> None:
    job = make_job("a")
    job = Job(
        **{name: getattr(job, name) for name in ("id", "type", "payload", "created_at")},
        last_error=JobError(type="Error", message="\ud800!"),
    )

    write(tmp_path / "jobs.db", [(1, job)])

    ((_, found),) = read(tmp_path / "jobs.db")
    assert found.last_error == JobError(type="Error", message="?!")


def test_one_commit_writes_the_last_record_of_each_job(tmp_path: Path) -> None:
    pending = make_job("a")
    running = Job(
        id="a",
        type="test",
        payload=b"null",
        created_at=NOON,
        status=JobStatus.PROCESSING,
        started_at=NOON + timedelta(seconds=1),
        attempts=1,
    )

    write(tmp_path / "jobs.db", [(1, pending), (2, make_job("b")), (1, running)])

    assert read(tmp_path / "jobs.db") == [(1, running), (2, make_job("b"))]


def _ended(job: Job, number: int) -> Job:
    """The job as it has ended, in one of several ways."""
    ending = [
        Ending(outcome=Outcome.SUCCEEDED, result=b"%d" % number),
        Ending(outcome=Outcome.SUCCEEDED, result=b"null"),
        Ending(outcome=Outcome.FAILED, error=JobError(type="E", message=f"{number}")),
    ][number % 3]
    return replace(
        job,
        status=JobStatus.COMPLETED,
        started_at=NOON + timedelta(seconds=1),
        completed_at=NOON + timedelta(seconds=number),
        duration=[None, 2.0, number / 7][number % 3],
        cancel_requested=number % 5 == 0,
        attempts=1 + number % 4,
        ending=ending,
    )


@pytest.mark.parametrize("count", [1, TOGETHER - 1, TOGETHER, TOGETHER + 1, 3 * TOGETHER])
def test_many_are_written_together_as_one_is(count: int, tmp_path: Path) -> None:
    new = [(n, make_job(f"{n:04}", payload=b"%d" % n)) for n in range(1, count + 1)]
    keyed = [
        (n, replace(job, key=IdempotencyKey(text=f"k{n}", digest=b"d")) if n % 2 else job)
        for n, job in new
    ]
    claimed = [
        (n, replace(job, status=JobStatus.PROCESSING, started_at=NOON, attempts=n % 3 + 1))
        for n, job in keyed
    ]
    ended = [(n, _ended(job, n)) for n, job in keyed]
    more = [(n + count, replace(_ended(job, n), id=f"e{n:04}")) for n, job in new]

    write(tmp_path / "jobs.db", keyed)
    assert read(tmp_path / "jobs.db") == keyed

    with opened(tmp_path / "jobs.db") as file:
        RecordWriter(file.connection).write(claimed)
    assert read(tmp_path / "jobs.db") == claimed

    with opened(tmp_path / "jobs.db") as file:
        RecordWriter(file.connection).write([*more, *ended])
    assert read(tmp_path / "jobs.db") == [*ended, *more]


def test_of_many_with_a_known_key_none_is_written(tmp_path: Path) -> None:
    key = IdempotencyKey(text="k", digest=b"")
    many = [(n, make_job(f"{n:04}")) for n in range(2, 2 * TOGETHER)]
    many[10] = (12, replace(make_job("again"), key=key))
    known = (1, replace(make_job("a"), key=key))

    with pytest.raises(sqlite3.IntegrityError):
        write(tmp_path / "jobs.db", [known], many)

    assert read(tmp_path / "jobs.db") == [known]


def test_forgotten_job_leaves_no_row(tmp_path: Path) -> None:
    write(tmp_path / "jobs.db", [(1, make_job("a")), (2, make_job("b"))], [(1, None)], [(3, None)])

    assert read(tmp_path / "jobs.db") == [(2, make_job("b"))]
    with opened(tmp_path / "jobs.db") as file:
        for table in ("payloads", "results"):
            rows = file.connection.execute(f"SELECT seq FROM {table} WHERE seq <> 2").fetchall()  # noqa: S608
            assert rows == []
