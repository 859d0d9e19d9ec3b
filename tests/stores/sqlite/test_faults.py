"""Each write of the journal fails once: nothing told is lost, nothing refused is seen, it goes on.

A journal runs over a disk that fails, or hangs, at the n-th operation of SQLite, for each n.
"""

import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copy

import pytest
import trio
from msgspec.structs import replace

from tests.stores.sqlite.disk import Disk, Operation, failure
from tests.stores.sqlite.files import Calls, no_rule, opened, read
from tests.support import NOON, make_job
from trio_jobs import Ending, Job, JobStatus, Outcome
from trio_jobs.settings import StoreSettings
from trio_jobs.stores.sqlite.journal import Journal
from trio_jobs.stores.sqlite.recovery import recover
from trio_jobs.stores.sqlite.retention import Retention
from trio_jobs.stores.sqlite.store_check import check_store
from trio_jobs.stores.sqlite.store_file import open_store_file

SUBMISSIONS = 12
SUCCEEDED = Ending(outcome=Outcome.SUCCEEDED, result=b'{"sent": true}')


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store."""
    # So that there are checkpoints, and no waiting.
    monkeypatch.setattr("trio_jobs.stores.sqlite.record_writer._CHECKPOINT_PAGES", 60)
    monkeypatch.setattr("trio_jobs.stores.sqlite.journal._RETRY", 0.002)
    with opened(tmp_path / "made.db"):
        pass
    return tmp_path / "made.db"


def ended(job: Job) -> Job:
    return replace(job, status=JobStatus.COMPLETED, completed_at=NOON, ending=SUCCEEDED)


class Server:
    """Submits jobs one after another, and ends those that are admitted."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self.calls = Calls()
        self.path = path
        self._disk = disk

    async def run(self, fault: "Fault") -> bool:
        """Return whether all is written in the end."""
        with trio.fail_after(60):
            file = await trio.to_thread.run_sync(
                lambda: open_store_file(self.path, connect=self._disk.connect)
            )
            found = recover(file, no_rule, now=NOON)
            bounds = StoreSettings(keep_completed=1_000)
            retention = Retention(bounds, kept=found.kept, now=lambda: NOON)
            journal = Journal(file, failed=self._fail, retention=retention)
            self._failed = trio.Event()
            journal.start()
            self._disk.operations.clear()
            self._disk.before = fault
            for seq in range(1, SUBMISSIONS + 1):
                if not self._failed.is_set():
                    await self._submit(journal, seq)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_after, self._failed.wait, nursery.cancel_scope)
                await journal.settled()
                nursery.cancel_scope.cancel()
            self.fired_before_the_end = fault.fired
            written = await journal.close(60)
            self._disk.before = lambda _: None
            file.close()
            return written

    async def _submit(self, journal: Journal, seq: int) -> None:
        """One job, of which the client gets its answer; its moves are not waited for."""
        job = make_job(f"{seq:03}", payload=b"1" * (9_000 if seq % 5 == 0 else 50))
        answered = trio.Event()

        def landed() -> None:
            self.calls.landed.append(job.id)
            self.calls.append(journal, f"{seq} runs", [(seq, running(job))])
            self.calls.append(journal, f"{seq} ends", [(seq, ended(job))])
            answered.set()

        def refused(error: Exception) -> None:
            self.calls.refused[job.id] = error
            answered.set()

        journal.append([(seq, job)], landed=landed, refused=refused)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_after, self._failed.wait, nursery.cancel_scope)
            await answered.wait()
            nursery.cancel_scope.cancel()

    def _fail(self, error: Exception) -> None:
        self.calls.failed.append(error)
        self._failed.set()

    def admitted(self) -> list[str]:
        """The ids of the jobs whose clients were told so."""
        return [name for name in self.calls.landed if " " not in name]


def running(job: Job) -> Job:
    return replace(job, status=JobStatus.PROCESSING, started_at=NOON, attempts=1)


async def cancel_after(wait: Callable[[], Awaitable[object]], scope: trio.CancelScope) -> None:
    await wait()
    scope.cancel()


@contextmanager
def server_of(made: Path, disk: Disk) -> Iterator[Server]:
    path = made.with_name("jobs.db")
    for each in made.parent.glob("jobs.db*"):
        each.unlink()
    copy(made, path)
    yield Server(path, disk)


class Fault:
    """Calls ``happen`` at the n-th operation of these kinds, and then never again; 0: never."""

    def __init__(self, number: int, kinds: set[str], happen: Callable[[Operation], None]) -> None:
        self.fired = False
        self._left = number
        self._kinds = kinds
        self._happen = happen

    def __call__(self, operation: Operation) -> None:
        if operation.kind in self._kinds:
            self._left -= 1
            if self._left == 0:
                self.fired = True
                self._happen(operation)


async def operations_of(made: Path, disk: Disk, kinds: set[str]) -> int:
    """How many operations there are if nothing fails."""
    with server_of(made, disk) as server:
        assert await server.run(Fault(0, kinds, fail_nothing))
        assert len(server.admitted()) == SUBMISSIONS
    return sum(operation.kind in kinds for operation in disk.operations)


def fail_nothing(operation: Operation) -> None:
    pass


WRITES = {"write", "truncate"}


@pytest.mark.parametrize(
    ("code", "halves"),
    [(sqlite3.SQLITE_FULL, True), (sqlite3.SQLITE_IOERR_WRITE, False)],
    ids=["full in the middle of a write", "error before a write"],
)
@pytest.mark.parametrize("every", [6, pytest.param(2, marks=pytest.mark.proof)])
async def test_write_that_fails(code: int, halves: bool, every: int, made: Path) -> None:
    disk = Disk(f"of {made}")
    count = await operations_of(made, disk, WRITES)
    assert count > 100

    def fail(operation: Operation) -> None:
        if halves and operation.kind == "write":
            with (made.parent / operation.file).open("r+b") as file:
                file.seek(operation.offset)
                file.write(operation.data[: len(operation.data) // 2])
        raise failure(code)

    refusals = 0
    for number in range(1 + halves, count + 1, every):
        with server_of(made, disk) as server:
            written = await server.run(Fault(number, WRITES, fail))

            calls = server.calls
            assert calls.failed == []
            assert sorted([*server.admitted(), *calls.refused]) == [
                f"{seq:03}" for seq in range(1, SUBMISSIONS + 1)
            ]
            assert len(calls.refused) <= 1  # the next one is taken again
            assert written
            jobs = read(server.path)
            assert [job.id for _, job in jobs] == server.admitted()
            assert all(job.ending is not None for _, job in jobs)
            assert check_store(server.path).faults == []
            refusals += len(calls.refused)
    assert refusals > 20 / every


async def test_sync_that_fails_ends_the_journal_and_loses_nothing(made: Path) -> None:
    disk = Disk(f"of {made}")
    count = await operations_of(made, disk, {"sync"})
    ended_journals = 0

    def fail(operation: Operation) -> None:
        raise failure(sqlite3.SQLITE_IOERR_FSYNC)

    for number in range(1, count + 1):
        with server_of(made, disk) as server:
            written = await server.run(Fault(number, {"sync"}, fail))

            calls = server.calls
            assert calls.refused == {}
            # SQLite closes a file whether its last syncs succeed or not: the WAL has all.
            if server.fired_before_the_end:
                ended_journals += 1
                assert len(calls.failed) == 1
            assert written == (not calls.failed)
            ids = [job.id for _, job in read(server.path)]
            # What the client was not told may be there, or not.
            assert ids[: len(server.admitted())] == server.admitted()
            assert len(ids) <= len(server.admitted()) + 1
            assert check_store(server.path).faults == []
    assert ended_journals > 12


class Hang:
    """An operation that takes as long as the test wants."""

    def __init__(self) -> None:
        self.hangs, self.go_on = threading.Event(), threading.Event()

    def __call__(self, operation: Operation) -> None:
        self.hangs.set()
        assert self.go_on.wait(60)

    async def run(self, server: Server, fault: Fault) -> None:
        """Run the server; with fewer commits than usual it does not come to the operation."""
        await server.run(fault)
        self.hangs.set()


async def test_disk_that_hangs_at_any_operation_holds_up_nobody_but_the_writer(
    made: Path,
) -> None:
    disk = Disk(f"of {made}")
    kinds = WRITES | {"sync"}
    count = await operations_of(made, disk, kinds)
    for number in range(1, count + 1, 10):
        hang = Hang()
        with server_of(made, disk) as server:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hang.run, server, Fault(number, kinds, hang))
                await trio.to_thread.run_sync(hang.hangs.wait, 60)
                told = len(server.calls.landed)
                await trio.testing.wait_all_tasks_blocked(0.001)
                assert len(server.calls.landed) == told  # and this loop runs
                hang.go_on.set()
            assert (server.calls.refused, server.calls.failed) == ({}, [])
            assert [job.id for _, job in read(server.path)] == server.admitted()
            assert len(server.admitted()) == SUBMISSIONS


async def test_wal_that_fills_the_disk_is_used_again_once_its_reader_has_gone(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A backup, say, reads one moment of the file, and meanwhile the WAL only grows.
    monkeypatch.setattr("trio_jobs.stores.sqlite.journal._BETWEEN_CHECKPOINTS", 0.0)
    disk = Disk(f"of {made}")

    def no_room(operation: Operation) -> None:
        if operation.kind == "write" and operation.offset > 1_000_000:
            raise failure(sqlite3.SQLITE_FULL)

    with server_of(made, disk) as server:
        file = open_store_file(server.path, connect=disk.connect)
        reader = disk.connect(f"{server.path.as_uri()}?mode=ro")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM jobs").fetchone()
        disk.before = no_room
        calls = server.calls
        journal = Journal(file, failed=calls.failed.append)
        journal.start()
        seq = 0
        while not calls.refused:
            seq += 1
            assert seq < 1_000
            calls.submit(journal, f"{seq}", [(seq, make_job(f"{seq}"))])
            await journal.settled()
        # It takes more pages than the submission for which there was no room.
        result = Ending(outcome=Outcome.SUCCEEDED, result=b"1" * 100_000)
        end = replace(ended(make_job("1")), ending=result)
        calls.append(journal, "1 ends", [(1, end)])

        reader.execute("ROLLBACK")
        with trio.fail_after(60):
            await journal.settled()
        assert await journal.close(60)
        disk.before = fail_nothing
        reader.close()
        file.close()

    assert calls.failed == []
    assert calls.landed == [*map(str, range(1, seq)), "1 ends"]
    jobs = read(server.path)
    assert len(jobs) == seq - 1
    assert jobs[0] == (1, end)
