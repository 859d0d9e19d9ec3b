"""The journal: what lands, what is refused, and what it holds until the disk takes it."""

import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from tests.stores.sqlite.files import Calls, journal_of, locked_elsewhere, no_rule, opened, read
from tests.support import NOON, SUCCEEDED, make_job
from trio_jobs import Job, JobStatus
from trio_jobs.job import IdempotencyKey
from trio_jobs.pool.store import DuplicateJobError
from trio_jobs.stores.end_of_turn import EndOfTurn
from trio_jobs.stores.sqlite.journal import Journal
from trio_jobs.stores.sqlite.record_writer import RecordWriter
from trio_jobs.stores.sqlite.recovery import recover
from trio_jobs.stores.sqlite.store_file import StoreFile, open_store_file


def completed(job: Job) -> Job:
    return replace(job, status=JobStatus.COMPLETED, completed_at=NOON, ending=SUCCEEDED)


async def test_records_are_in_the_file_when_they_land(tmp_path: Path) -> None:
    path, calls = tmp_path / "jobs.db", Calls()
    seen: list[list[tuple[int, Job]]] = []
    with opened(path) as file:
        async with journal_of(file, calls) as journal:
            journal.append([(1, make_job("a"))], landed=lambda: seen.append(read(path)))
            assert journal.unwritten == 1
            assert journal.oldest_unwritten_seconds > 0
            await journal.settled()

            assert seen == [[(1, make_job("a"))]]
            assert (journal.unwritten, journal.oldest_unwritten_seconds) == (0, 0.0)
            assert journal.failing is None


async def test_records_land_in_the_order_in_which_they_were_handed_over(tmp_path: Path) -> None:
    calls = Calls()
    with opened(tmp_path / "jobs.db") as file:
        async with journal_of(file, calls) as journal:
            for seq in range(1, 501):
                calls.submit(journal, str(seq), [(seq, make_job(f"{seq:04}"))])
                calls.append(journal, f"{seq} ended", [(seq, completed(make_job(f"{seq:04}")))])

    assert calls.landed == [f"{n}{end}" for n in range(1, 501) for end in ("", " ended")]
    assert [job.status for _, job in read(tmp_path / "jobs.db")] == [JobStatus.COMPLETED] * 500


async def test_one_commit_writes_what_is_handed_over_in_a_turn_of_the_loop(tmp_path: Path) -> None:
    commits: list[str] = []
    calls = Calls()
    with opened(tmp_path / "jobs.db") as file:
        file.connection.set_trace_callback(
            lambda text: commits.append(text) if text == "COMMIT" else None
        )
        soon = EndOfTurn(calls.failed.append)
        soon.open()
        journal = Journal(file, failed=calls.failed.append, soon=soon)
        journal.start()

        async def submit(seq: int) -> None:
            calls.submit(journal, str(seq), [(seq, make_job(f"{seq:02}"))])
            time.sleep(0.001)  # noqa: ASYNC251 - the thread could begin now

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for seq in range(1, 21):
                    nursery.start_soon(submit, seq)
            await journal.settled()
            assert len(commits) == 1
            calls.append(journal, "of the last turn", [(21, make_job("21"))])
            assert await journal.close(10)
        soon.close()

    assert len(calls.landed) == len(read(tmp_path / "jobs.db")) == 21


async def test_close_writes_all_that_was_handed_over(tmp_path: Path) -> None:
    calls = Calls()
    file = open_store_file(tmp_path / "jobs.db")
    journal = Journal(file, failed=calls.failed.append)
    journal.start()
    for seq in range(1, 5_001):
        calls.append(journal, "a", [(seq, make_job(str(seq)))])

    assert await journal.close(30)
    file.close()

    assert len(read(tmp_path / "jobs.db")) == len(calls.landed) == 5_000


async def test_settled_does_not_wait_for_what_comes_after(tmp_path: Path) -> None:
    calls = Calls()
    with opened(tmp_path / "jobs.db") as file:
        async with journal_of(file, calls) as journal:
            await journal.settled()  # there is nothing
            calls.append(journal, "a", [(1, make_job("a"))])
            await journal.settled()
            calls.append(journal, "b", [(2, make_job("b"))])

            assert calls.landed == ["a"]


class Disk(sqlite3.Connection):
    """A connection whose commits fail with an error's code, or hang, as its checkpoints may."""

    fails: int | None = None
    hangs_until: threading.Event | None = None
    checkpoint_hangs_until: threading.Event | None = None

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:  # noqa: ANN401
        if sql == "COMMIT" and self.hangs_until is not None:
            self.hangs_until.wait(60)
        if "wal_checkpoint" in sql and self.checkpoint_hangs_until is not None:
            self.checkpoint_hangs_until.wait(60)
        if sql == "COMMIT" and self.fails is not None:
            error = sqlite3.OperationalError(f"error {self.fails}")
            error.sqlite_errorcode = self.fails
            raise error
        return super().execute(sql, *parameters)


def connect_disk(name: str) -> sqlite3.Connection:
    return sqlite3.connect(
        name, uri=True, isolation_level=None, check_same_thread=False, factory=Disk
    )


@contextmanager
def disk_of(path: Path) -> Iterator[tuple[StoreFile, Disk]]:
    file = open_store_file(path, connect=connect_disk)
    try:
        assert isinstance(file.connection, Disk)
        yield file, file.connection
    finally:
        file.close()


PASSING = [
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
]


@pytest.mark.parametrize("code", PASSING)
async def test_disk_that_takes_nothing_refuses_submissions_and_keeps_moves(
    code: int, tmp_path: Path
) -> None:
    calls = Calls()
    with disk_of(tmp_path / "jobs.db") as (file, disk):
        async with journal_of(file, calls) as journal:
            calls.submit(journal, "a", [(1, make_job("a"))])
            await journal.settled()
            disk.fails = code
            calls.append(journal, "a ends", [(1, completed(make_job("a")))])
            calls.submit(journal, "b", [(2, make_job("b"))])
            await wait_until(lambda: bool(calls.refused))

            assert calls.landed == ["a"]
            assert str(calls.refused["b"]) == f"error {code}"
            assert journal.failing is not None
            assert journal.failing[1] == f"error {code}"
            assert read(file.path) == [(1, make_job("a"))]

            calls.submit(journal, "c", [(3, make_job("c"))])  # tries the disk again
            await wait_until(lambda: len(calls.refused) == 2)
            disk.fails = None
            calls.submit(journal, "d", [(4, make_job("d"))])
            await journal.settled()

            assert calls.landed == ["a", "a ends", "d"]
            assert journal.failing is None
    assert read(tmp_path / "jobs.db") == [(1, completed(make_job("a"))), (4, make_job("d"))]
    assert calls.failed == []


async def test_moves_are_written_without_another_record_once_the_disk_takes_them(
    tmp_path: Path,
) -> None:
    calls = Calls()
    with disk_of(tmp_path / "jobs.db") as (file, disk):
        async with journal_of(file, calls) as journal:
            disk.fails = sqlite3.SQLITE_FULL
            calls.append(journal, "a", [(1, make_job("a"))])
            await wait_until(lambda: journal.failing is not None)
            disk.fails = None
            await journal.settled()

            assert calls.landed == ["a"]


async def test_failure_is_over_without_another_record(tmp_path: Path) -> None:
    calls = Calls()
    with disk_of(tmp_path / "jobs.db") as (file, disk):
        async with journal_of(file, calls) as journal:
            disk.fails = sqlite3.SQLITE_FULL
            calls.submit(journal, "a", [(1, make_job("a"))])
            await journal.settled()
            assert journal.failing is not None
            disk.fails = None
            await wait_until(lambda: journal.failing is None)

    assert (calls.landed, calls.failed, read(tmp_path / "jobs.db")) == ([], [], [])


async def test_newer_record_is_not_overwritten_by_one_that_had_to_wait(tmp_path: Path) -> None:
    calls = Calls()
    with disk_of(tmp_path / "jobs.db") as (file, disk):
        async with journal_of(file, calls) as journal:
            disk.fails = sqlite3.SQLITE_FULL
            calls.append(journal, "a", [(1, make_job("a"))])
            await wait_until(lambda: journal.failing is not None)
            calls.append(journal, "a ends", [(1, completed(make_job("a")))])
            calls.submit(journal, "double", [(2, make_job("a"))])
            disk.fails = None
            await journal.settled()

    assert read(tmp_path / "jobs.db") == [(1, completed(make_job("a")))]
    assert calls.landed == ["a", "a ends"]


@pytest.mark.parametrize(
    "code",
    [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC, sqlite3.SQLITE_CORRUPT],
)
async def test_failed_sync_ends_the_journal(code: int, tmp_path: Path) -> None:
    calls = Calls()
    with disk_of(tmp_path / "jobs.db") as (file, disk):
        async with journal_of(file, calls) as journal:
            disk.fails = code
            calls.submit(journal, "a", [(1, make_job("a"))])
            await wait_until(lambda: bool(calls.failed))
            disk.fails = None
            calls.submit(journal, "b", [(2, make_job("b"))])

            assert not await journal.close(1000)
            assert not journal.is_using_the_file
    assert (calls.landed, calls.refused) == ([], {})
    assert [getattr(error, "sqlite_errorcode", None) for error in calls.failed] == [code]


@pytest.mark.parametrize("suffix", ["", "-wal", "-lock"])
@pytest.mark.parametrize("replaced", [False, True])
async def test_file_that_is_gone_ends_the_journal(
    suffix: str, replaced: bool, tmp_path: Path
) -> None:
    calls, path = Calls(), tmp_path / "jobs.db"
    with opened(path) as file:
        async with journal_of(file, calls) as journal:
            calls.submit(journal, "a", [(1, make_job("a"))])
            await journal.settled()
            gone = path.with_name(path.name + suffix)
            gone.rename(tmp_path / "elsewhere")
            if replaced:
                gone.write_bytes(b"")
            calls.submit(journal, "b", [(2, make_job("b"))])
            await wait_until(lambda: bool(calls.failed))

    assert (calls.landed, calls.refused) == (["a"], {})
    assert [str(error) for error in calls.failed] == [
        f"store file {str(gone)!r} was moved, deleted or replaced"
    ]


async def test_journal_that_has_not_begun_closes_at_once(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs.db") as file:
        assert await Journal(file, failed=Calls().failed.append).close(1000)


async def test_bug_in_a_callback_ends_the_journal_but_not_the_loop(tmp_path: Path) -> None:
    calls = Calls()

    def landed() -> None:
        raise KeyError("a")

    with opened(tmp_path / "jobs.db") as file:
        async with journal_of(file, calls) as journal:
            journal.append([(1, make_job("a"))], landed=landed)
            await journal.settled()

    assert [repr(error) for error in calls.failed] == ["KeyError('a')"]


@pytest.mark.parametrize("twice", ["id", "key"])
async def test_job_that_the_file_has_is_refused_alone(twice: str, tmp_path: Path) -> None:
    key = IdempotencyKey(text="mail 7", digest=b"7")
    calls = Calls()
    with opened(tmp_path / "jobs.db") as file:
        async with journal_of(file, calls) as journal:
            calls.submit(journal, "first", [(1, replace(make_job("a"), key=key))])
            calls.submit(journal, "before", [(2, make_job("b")), (3, make_job("c"))])
            other = make_job("a") if twice == "id" else replace(make_job("d"), key=key)
            calls.submit(journal, "double", [(4, make_job("e")), (5, other)])
            calls.append(journal, "end", [(2, completed(make_job("b")))])
            calls.submit(journal, "after", [(6, make_job("f"))])
            await journal.settled()

    assert calls.landed == ["first", "before", "end", "after"]
    assert isinstance(calls.refused["double"], DuplicateJobError)
    assert calls.failed == []
    assert [job.id for _, job in read(tmp_path / "jobs.db")] == ["a", "b", "c", "f"]


async def test_full_file_refuses_and_takes_again(tmp_path: Path) -> None:
    # Not a simulation: SQLite's own error.
    calls = Calls()
    with opened(tmp_path / "jobs.db") as file:
        file.connection.execute("PRAGMA max_page_count = 30")
        async with journal_of(file, calls) as journal:
            calls.submit(journal, "small", [(1, make_job("a"))])
            calls.submit(journal, "large", [(2, replace(make_job("b"), payload=bytes(500_000)))])
            await journal.settled()
            calls.submit(journal, "next", [(3, make_job("c"))])
            await journal.settled()

    assert str(calls.refused["large"]) == "database or disk is full"
    assert [job.id for _, job in read(tmp_path / "jobs.db")][-1] == "c"


async def test_writer_waits_for_another_process_that_holds_the_write_lock(tmp_path: Path) -> None:
    calls = Calls()
    with opened(tmp_path / "jobs.db") as file:
        file.connection.execute("PRAGMA busy_timeout = 0")
        async with journal_of(file, calls) as journal:
            with locked_elsewhere(file):
                calls.submit(journal, "a", [(1, make_job("a"))])
                await journal.settled()
                assert str(calls.refused["a"]) == "database is locked"
            calls.submit(journal, "b", [(2, make_job("b"))])
            await journal.settled()

    assert calls.landed == ["b"]


async def test_journal_of_a_hanging_disk_is_left_behind(tmp_path: Path) -> None:
    calls, go = Calls(), threading.Event()
    with disk_of(tmp_path / "jobs.db") as (file, disk):
        disk.hangs_until = go
        journal = Journal(file, failed=calls.failed.append)
        journal.start()
        calls.append(journal, "a", [(1, make_job("a"))])

        assert not await journal.close(0.01)
        assert journal.is_using_the_file
        assert journal.unwritten == 1
        assert journal.oldest_unwritten_seconds > 0
        go.set()
        assert await journal.close(60)
        assert not journal.is_using_the_file
    assert calls.landed == ["a"]


async def test_journal_ends_cleanly_and_a_kill_does_not(tmp_path: Path) -> None:
    calls = Calls()
    with opened(tmp_path / "jobs.db") as file:
        assert file.clean  # it is new
        async with journal_of(file, calls):
            pass
    with opened(tmp_path / "jobs.db") as file:
        assert file.clean
        recover(file, no_rule, now=NOON)
    with opened(tmp_path / "jobs.db") as file:
        assert not file.clean


# What waits for a commit. ----------------------------------------------------------------------


@asynccontextmanager
async def group_of(file: StoreFile, calls: Calls, began: list[str]) -> AsyncIterator[Journal]:
    """A journal with the turns of the loop, in which a group has just landed.

    Each of its jobs begins with a name in ``began``: "1" to "8". The block is entered in the turn
    of the loop behind the landing: it can hand over the next records before the journal looks.
    """
    soon = EndOfTurn(calls.failed.append)
    soon.open()
    journal = Journal(file, failed=calls.failed.append, soon=soon)
    journal.start()
    landed = trio.Event()
    with trio.fail_after(60):
        for seq in range(1, 9):
            submit_job(journal, calls, seq, began, then=landed.set if seq == 8 else None)
        await landed.wait()
        yield journal
        soon.close()
        await journal.close(10)


def submit_job(
    journal: Journal,
    calls: Calls,
    seq: int,
    began: list[str],
    *,
    then: Callable[[], None] | None = None,
) -> None:
    """Submit a job that begins when `meanwhile` lets it."""

    def land() -> None:
        calls.landed.append(str(seq))
        journal.meanwhile(partial(began.append, str(seq)))
        if then is not None:
            then()

    def refuse(error: Exception) -> None:
        calls.refused[str(seq)] = error

    records = [(seq, make_job(f"{seq:02}"))]
    journal.append(records, landed=land, refused=refuse)


EIGHT = [str(seq) for seq in range(1, 9)]


async def test_group_begins_while_the_disk_is_busy_with_the_next_commit(tmp_path: Path) -> None:
    calls, go = Calls(), threading.Event()
    began: list[str] = []
    with disk_of(tmp_path / "jobs.db") as (file, disk):
        async with group_of(file, calls, began) as journal:
            disk.hangs_until = go
            submit_job(journal, calls, 9, began)
            assert (calls.landed, began) == (EIGHT, [])
            await wait_until(lambda: bool(began))

            assert (calls.landed, began) == (EIGHT, EIGHT)
            go.set()
            await journal.settled()

    assert (calls.landed, began) == ([*EIGHT, "9"], [*EIGHT, "9"])


async def test_group_begins_soon_if_there_is_no_next_commit(tmp_path: Path) -> None:
    calls = Calls()
    began: list[str] = []
    with opened(tmp_path / "jobs.db") as file:
        async with group_of(file, calls, began) as journal:
            begun = trio.Event()
            journal.meanwhile(begun.set)
            assert began == []
            await begun.wait()  # nothing else wakes the loop

            assert began == EIGHT


async def test_group_begins_although_the_next_commit_fails_before_it_is_written(
    tmp_path: Path,
) -> None:
    calls = Calls()
    began: list[str] = []
    with opened(tmp_path / "jobs.db") as file:
        file.connection.execute("PRAGMA busy_timeout = 0")
        async with group_of(file, calls, began) as journal:
            with locked_elsewhere(file):
                calls.append(journal, "end", [(1, completed(make_job("01")))])
                submit_job(journal, calls, 9, began)
                await wait_until(lambda: bool(began))

                assert (list(calls.refused), began) == (["9"], EIGHT)

    assert calls.landed == [*EIGHT, "end"]


async def test_group_does_not_wait_until_many_records_are_ready_for_the_disk(
    tmp_path: Path,
) -> None:
    calls = Calls()
    began: list[str] = []
    with opened(tmp_path / "jobs.db") as file:
        file.connection.execute("PRAGMA busy_timeout = 60000")
        async with group_of(file, calls, began) as journal:
            with locked_elsewhere(file):
                batch = [(seq, make_job(str(seq))) for seq in range(9, 9 + 257)]
                calls.submit(journal, "batch", batch)
                await wait_until(lambda: bool(began))

                assert (calls.landed, calls.refused, began) == (EIGHT, {}, EIGHT)

    assert calls.landed == [*EIGHT, "batch"]


async def test_group_begins_although_the_file_takes_nothing_of_the_next_commit(
    tmp_path: Path,
) -> None:
    calls = Calls()
    began: list[str] = []
    with opened(tmp_path / "jobs.db") as file:
        async with group_of(file, calls, began) as journal:
            calls.submit(journal, "double", [(9, make_job("01"))])
            await wait_until(lambda: bool(began))

    assert (calls.landed, list(calls.refused), began) == (EIGHT, ["double"], EIGHT)


async def test_group_begins_while_the_disk_is_busy_with_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_jobs.stores.sqlite.record_writer._PAGE", 0.001)  # it comes at once
    calls, go = Calls(), threading.Event()
    began: list[str] = []
    with disk_of(tmp_path / "jobs.db") as (file, disk):
        disk.checkpoint_hangs_until = go
        async with group_of(file, calls, began) as journal:
            submit_job(journal, calls, 9, began)
            await wait_until(lambda: bool(began))

            assert (calls.landed, began) == (EIGHT, EIGHT)
            go.set()


async def test_ends_wait_for_the_group_under_way_and_go_with_the_next_submission(
    tmp_path: Path,
) -> None:
    calls, go = Calls(), threading.Event()
    began: list[str] = []
    commits: list[list[str]] = []
    with disk_of(tmp_path / "jobs.db") as (file, disk):
        async with group_of(file, calls, began) as journal:
            disk.hangs_until = go
            for seq in range(9, 17):
                submit_job(journal, calls, seq, began)
            await wait_until(lambda: bool(began))
            for seq in range(1, 9):
                calls.append(journal, f"{seq} ends", [(seq, completed(make_job(f"{seq:02}")))])
            await trio.testing.wait_all_tasks_blocked()
            calls.submit(journal, "17", [(17, make_job("17"))])
            await trio.testing.wait_all_tasks_blocked()
            file.connection.set_trace_callback(
                lambda text: commits.append(calls.landed[8:]) if text == "COMMIT" else None
            )
            go.set()
            await journal.settled()

    second = [str(seq) for seq in range(9, 17)]
    ends = [f"{seq} ends" for seq in range(1, 9)]
    assert calls.landed == [*EIGHT, *second, *ends, "17"]
    # The first of them was handed over while the trace was not there yet.
    assert commits == [[], second]


async def test_ends_that_have_waited_are_written_without_another_submission(
    tmp_path: Path,
) -> None:
    calls, go = Calls(), threading.Event()
    began: list[str] = []
    with disk_of(tmp_path / "jobs.db") as (file, disk):
        async with group_of(file, calls, began) as journal:
            disk.hangs_until = go
            for seq in range(9, 17):
                calls.submit(journal, str(seq), [(seq, make_job(f"{seq:02}"))])
            await wait_until(lambda: bool(began))
            calls.append(journal, "1 ends", [(1, completed(make_job("01")))])
            await trio.testing.wait_all_tasks_blocked()
            go.set()
            await journal.settled()

    assert calls.landed[-1] == "1 ends"


async def test_submission_tries_the_disk_although_a_group_of_ends_can_not_be_written(
    tmp_path: Path,
) -> None:
    calls = Calls()
    began: list[str] = []
    with disk_of(tmp_path / "jobs.db") as (file, disk):
        async with group_of(file, calls, began) as journal:
            disk.fails = sqlite3.SQLITE_FULL
            for seq in range(1, 9):
                calls.append(journal, f"{seq} ends", [(seq, completed(make_job(f"{seq:02}")))])
            await wait_until(lambda: journal.failing is not None)
            calls.submit(journal, "9", [(9, make_job("09"))])
            await wait_until(lambda: bool(calls.refused))
            disk.fails = None
            await journal.settled()

    assert calls.landed == [*EIGHT, *(f"{seq} ends" for seq in range(1, 9))]


async def test_close_writes_what_waits_for_a_group(tmp_path: Path) -> None:
    calls, go = Calls(), threading.Event()
    began: list[str] = []
    with disk_of(tmp_path / "jobs.db") as (file, disk):
        async with group_of(file, calls, began) as journal:
            disk.hangs_until = go
            for seq in range(9, 17):
                submit_job(journal, calls, seq, began)
            await wait_until(lambda: bool(began))
            calls.append(journal, "1 ends", [(1, completed(make_job("01")))])
            await trio.testing.wait_all_tasks_blocked()
            assert not await journal.close(0.01)
            go.set()

    assert calls.landed[-1] == "1 ends"


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for the journal's thread."""
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110  (a thread makes it true)
            await trio.sleep(0.001)


def test_deleted_job_does_not_come_back_with_the_mark_of_its_re_run(tmp_path: Path) -> None:
    old, again = completed(make_job("a")), replace(make_job("b"), rerun_of="a")
    with opened(tmp_path / "jobs.db") as file:
        writer = RecordWriter(file.connection)
        writer.write([(1, old)])
        writer.write([(1, None), (1, replace(old, rerun_as="b")), (2, again)])

    assert read(tmp_path / "jobs.db") == [(2, again)]
