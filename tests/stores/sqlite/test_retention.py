"""Which completed jobs the file keeps."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.proof.share import scaled
from tests.stores.sqlite.files import Calls, no_rule, opened, read
from tests.support import NOON, make_job
from trio_jobs import Ending, Job, JobError, JobStatus, Outcome
from trio_jobs.settings import StoreSettings
from trio_jobs.stores.sqlite.journal import Journal
from trio_jobs.stores.sqlite.record_writer import RecordWriter
from trio_jobs.stores.sqlite.recovery import recover
from trio_jobs.stores.sqlite.retention import Kept, Retention, count_kept
from trio_jobs.stores.sqlite.store_file import StoreFile


def ended(
    number: int,
    outcome: Outcome = Outcome.SUCCEEDED,
    *,
    size: int = 10,
    seconds: float = 0,
) -> tuple[int, Job]:
    """A job of some bytes that ended so many seconds after noon."""
    error = None if outcome is Outcome.SUCCEEDED else JobError(type="E", message="")
    return number, replace(
        make_job(f"{number:06}", type="", payload=b"1" * size),
        status=JobStatus.COMPLETED,
        completed_at=NOON + timedelta(seconds=seconds),
        ending=Ending(outcome=outcome, error=error),
    )


def retention(
    *,
    completed: int = 1000,
    failed: int = 1000,
    size: int = 10**9,
    keep_for: float | None = None,
    kept: Kept | None = None,
    now: datetime = NOON,
) -> Retention:
    bounds = StoreSettings(keep_completed=completed, keep_failed=failed, keep_completed_bytes=size)
    return Retention(bounds, kept=kept or Kept(), now=lambda: now, keep_for=keep_for)


def left(file: StoreFile) -> list[int]:
    """The seqs of the jobs that the file holds, whose payloads are there, and no other ones."""
    seqs = [seq for (seq,) in file.connection.execute("SELECT seq FROM jobs ORDER BY seq")]
    payloads = file.connection.execute("SELECT seq FROM payloads ORDER BY seq").fetchall()
    assert payloads == [(seq,) for seq in seqs]
    return seqs


def test_jobs_that_succeeded_and_others_have_bounds_of_their_own(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs.db") as file:
        writer = RecordWriter(file.connection, retention(completed=2, failed=3))
        for number in range(1, 9):
            outcome = Outcome.SUCCEEDED if number % 2 else Outcome.FAILED
            writer.write([ended(number, outcome, seconds=number)])

        # 1, 3, 5, 7 have succeeded, 2, 4, 6, 8 have not.
        assert left(file) == [4, 5, 6, 7, 8]


def test_unfinished_jobs_stay(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs.db") as file:
        writer = RecordWriter(file.connection, retention(completed=0, failed=0))
        writer.write([(1, make_job("000001")), (2, make_job("000002")), ended(3), ended(4)])

        assert left(file) == [1, 2]
        assert writer.write([ended(1)]) == dict.fromkeys(Outcome, 0) | {Outcome.SUCCEEDED: 1}
        assert left(file) == [2]


def test_bytes_are_taken_from_those_who_hold_more(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs.db") as file:
        writer = RecordWriter(file.connection, retention(size=100))
        writer.write([ended(1, Outcome.FAILED, size=40)])
        for number in range(2, 30):
            writer.write([ended(number, size=20)])

        assert left(file) == [1, 27, 28, 29]


def test_among_those_that_did_not_succeed_the_first_to_end_goes_first(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs.db") as file:
        writer = RecordWriter(file.connection, retention(failed=2))
        writer.write([ended(1, Outcome.FAILED, seconds=9), ended(2, Outcome.FAILED, seconds=5)])
        writer.write([ended(3, Outcome.FAILED, seconds=7)])

        assert left(file) == [1, 3]


def test_job_that_ends_long_after_younger_ones_is_dropped_as_well(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs.db") as file:
        writer = RecordWriter(file.connection, retention(completed=1))
        writer.write([(1, make_job("000001"))])
        for number in range(2, 6):
            writer.write([ended(number)])
        writer.write([ended(1)])
        writer.write([ended(6)])

        assert len(left(file)) == 1


def test_lower_bound_is_reached_in_steps(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs.db") as file:
        RecordWriter(file.connection).write([ended(number) for number in range(1, 3001)])
        bounds = retention(completed=10, kept=count_kept(file.connection))
        writer = RecordWriter(file.connection, bounds)

        writer.write([ended(3001)])
        assert len(left(file)) == 3001 - 201
        steps = 0
        while bounds.seconds_to_next == 0:
            writer.write([])
            steps += 1
        assert steps == 3
        assert left(file) == list(range(2992, 3002))


def test_failed_transaction_changes_no_count(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs.db") as file:
        bounds = retention(completed=1)
        writer = RecordWriter(file.connection, bounds)
        writer.write([ended(1)])
        with pytest.raises(Exception, match="UNIQUE"):
            writer.write([ended(2), (3, ended(1)[1])])

        assert bounds.kept == count_kept(file.connection)
        writer.write([ended(4)])
        assert left(file) == [4]


def test_wrong_counts_correct_themselves(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs.db") as file:
        bounds = retention(completed=5, kept=Kept(succeeded=100))
        writer = RecordWriter(file.connection, bounds)
        writer.write([ended(1)])

        assert left(file) == []
        assert bounds.kept == Kept()
        writer.write([ended(number) for number in range(2, 8)])
        assert left(file) == [3, 4, 5, 6, 7]


def test_rerun_mark_and_deletions_are_counted_right(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs.db") as file:
        bounds = retention()
        writer = RecordWriter(file.connection, bounds)
        number, failed = ended(1, Outcome.FAILED)
        writer.write([(number, failed), ended(2)])
        writer.write([(number, replace(failed, rerun_as="000003")), (3, make_job("000003"))])
        assert bounds.kept == count_kept(file.connection)
        writer.write([(2, None)])

        assert bounds.kept == count_kept(file.connection) == Kept(others=1, others_bytes=10)
        # The mark of a job that has been dropped brings nothing back.
        writer.write([(1, None)])
        writer.write([(number, replace(failed, rerun_as="000004")), (4, make_job("000004"))])
        assert left(file) == [3, 4]


def test_jobs_are_kept_for_some_time(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs.db") as file:
        RecordWriter(file.connection).write(
            [
                ended(1, seconds=10),
                (2, make_job("000002")),
                ended(3, Outcome.FAILED, seconds=20),
                ended(4, seconds=40),
            ]
        )
        now = NOON + timedelta(seconds=100)
        bounds = retention(keep_for=70, kept=count_kept(file.connection), now=now)
        assert bounds.seconds_to_next == 0
        writer = RecordWriter(file.connection, bounds)
        dropped = writer.write([])

        assert left(file) == [2, 4]
        assert (dropped[Outcome.SUCCEEDED], dropped[Outcome.FAILED]) == (1, 1)
        assert bounds.kept == count_kept(file.connection)
        assert bounds.seconds_to_next is not None
        assert 0 < bounds.seconds_to_next <= 7


def test_old_jobs_behind_many_that_stay_are_found(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs.db") as file:
        waiting = [(number, make_job(f"{number:06}")) for number in range(1, 2501)]
        RecordWriter(file.connection).write([*waiting, ended(2501)])
        now = NOON + timedelta(seconds=100)
        bounds = retention(keep_for=70, kept=count_kept(file.connection), now=now)
        writer = RecordWriter(file.connection, bounds)
        while bounds.seconds_to_next == 0:
            writer.write([])

        assert left(file) == list(range(1, 2501))


def test_jobs_beyond_the_bound_go_together(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs.db") as file:
        bounds = retention(completed=100)  # and two more
        writer = RecordWriter(file.connection, bounds)

        held = []
        for number in range(1, 107):
            writer.write([ended(number)])
            held.append(bounds.kept.succeeded)
            assert bounds.seconds_to_next is None

        assert held[98:] == [99, 100, 101, 102, 100, 101, 102, 100]
        assert left(file) == list(range(7, 107))


def test_job_beyond_the_bound_goes_before_one_that_failed(tmp_path: Path) -> None:
    jobs = [ended(number, Outcome.FAILED, size=100) for number in range(1, 11)]
    jobs += [ended(number, size=10) for number in range(11, 62)]
    size = sum(job.size for _, job in jobs[:-1])
    with opened(tmp_path / "jobs.db") as file:
        writer = RecordWriter(file.connection, retention(completed=50, size=size))
        for each in jobs:
            writer.write([each])
        assert left(file) == [*range(1, 11), *range(12, 62)]


@settings(max_examples=scaled(30), deadline=None)
@given(
    commits=st.lists(
        st.lists(st.tuples(st.sampled_from(Outcome), st.integers(0, 60)), min_size=1, max_size=8),
        max_size=12,
    ),
    completed=st.integers(0, 6),
    failed=st.integers(0, 6),
    size=st.integers(0, 300),
)
def test_bounds_hold_after_each_commit(
    commits: Sequence[Sequence[tuple[Outcome, int]]],
    completed: int,
    failed: int,
    size: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with opened(tmp_path_factory.mktemp("kept") / "jobs.db") as file:
        bounds = retention(completed=completed, failed=failed, size=size)
        writer = RecordWriter(file.connection, bounds)
        number = 0
        for commit in commits:
            records = [
                ended(number + n, *each[:1], size=each[1]) for n, each in enumerate(commit, 1)
            ]
            number += len(commit)
            writer.write(records)

            kept = count_kept(file.connection)
            assert bounds.kept == kept
            assert kept.succeeded <= completed
            assert kept.others <= failed
            assert kept.bytes <= size
            left(file)


async def test_journal_counts_what_it_has_dropped_and_the_next_start_what_is_kept(
    tmp_path: Path,
) -> None:
    path = tmp_path / "jobs.db"
    with opened(path) as file:
        found = recover(file, no_rule, now=NOON)
        bounds = retention(completed=3, kept=found.kept)
        journal = Journal(file, failed=Calls().failed.append, retention=bounds)
        journal.start()
        with trio.fail_after(60):
            for number in range(1, 11):
                journal.append([ended(number)], landed=lambda: None)
            await journal.settled()
            kept, dropped = journal.kept, journal.dropped
            assert await journal.close(60)

    assert (kept.succeeded, kept.bytes) == (3, 30)
    assert dropped[Outcome.SUCCEEDED] == 7
    assert [seq for seq, _ in read(path)] == [8, 9, 10]
    with opened(path) as file:
        stored = file.connection.execute("SELECT value FROM meta WHERE name = 'kept'").fetchone()
        assert msgspec.json.decode(stored[0], type=Kept) == kept
        assert recover(file, no_rule, now=NOON).kept == kept
    with opened(path) as file:  # as after a kill
        assert recover(file, no_rule, now=NOON).kept == kept


async def test_journal_with_nothing_to_do_reaches_a_lower_bound(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs.db") as file:
        RecordWriter(file.connection).write([ended(number) for number in range(1, 2501)])
        bounds = retention(completed=5, kept=recover(file, no_rule, now=NOON).kept)
        journal = Journal(file, failed=Calls().failed.append, retention=bounds)
        journal.start()
        with trio.fail_after(60):
            while journal.kept.succeeded > 5:  # noqa: ASYNC110  (a thread makes it true)
                await trio.sleep(0.001)
            await journal.close(60)

    assert [seq for seq, _ in read(tmp_path / "jobs.db")] == list(range(2496, 2501))
