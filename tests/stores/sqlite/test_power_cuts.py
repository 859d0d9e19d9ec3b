"""The power fails at every write: what was on the disk for the journal is there afterwards.

A scenario runs over a disk that records. For each operation of it the files are made as a power cut
there would leave them, and a server starts on them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.proof.share import share_of
from tests.stores.sqlite.disk import Disk, Operation, Unsynced, power_cuts
from tests.support import NOON, make_job
from trio_jobs import Ending, Job, JobError, JobStatus, Outcome
from trio_jobs.job import IdempotencyKey
from trio_jobs.settings import StoreSettings
from trio_jobs.stores.sqlite.record_writer import Record, RecordWriter
from trio_jobs.stores.sqlite.recovery import RecoveryRule, recover
from trio_jobs.stores.sqlite.retention import Retention, count_kept
from trio_jobs.stores.sqlite.rows import SELECT_WHOLE, whole_job
from trio_jobs.stores.sqlite.store_check import check_store
from trio_jobs.stores.sqlite.store_file import StoreFile, Sync, open_store_file

State = dict[int, Job]

BOUNDS = StoreSettings(keep_completed=6, keep_failed=3)
SUCCEEDED = Ending(outcome=Outcome.SUCCEEDED, result=b'{"sent": true}')
FAILED = Ending(outcome=Outcome.FAILED, error=JobError(type="E", message="m"))


class Life:
    """What a server does with a file, and what it may say to its clients.

    Attributes:
        said: The states of all jobs that were on the disk, each with the number of operations
            after which this was certain.
    """

    def __init__(self, path: Path, disk: Disk, sync: Sync) -> None:
        self.said: list[tuple[int, State]] = [(0, {})]
        self._path = path
        self._disk = disk
        self._sync: Sync = sync
        self._seq = 0

    def live(self, jobs: int) -> None:
        """Start, admit and end jobs, and stop; some jobs are left."""
        with opened(self._path, self._disk, self._sync) as file:
            found = recover(file, rule, now=NOON)
            self._say(file)
            retention = Retention(BOUNDS, kept=found.kept, now=lambda: NOON)
            writer = RecordWriter(file.connection, retention)
            live = dict(found.pending + found.suspects)
            for number in range(jobs):
                new = self._new_jobs(3 if number % 4 == 0 else 1)
                live.update(new)
                self._write(file, writer, new)
                if len(live) > 3:
                    self._move(file, writer, live, number)
                writer.checkpoint()
            writer.close()

    def _new_jobs(self, count: int) -> list[tuple[int, Job]]:
        jobs = []
        for _ in range(count):
            self._seq += 1
            key = IdempotencyKey(text=f"key {self._seq}", digest=b"d" * 32)
            payload = b"1" * (9_000 if self._seq % 7 == 0 else 100)
            job = replace(make_job(f"{self._seq:06}", payload=payload), key=key)
            jobs.append((self._seq, job))
        return jobs

    def _move(self, file: StoreFile, writer: RecordWriter, live: State, number: int) -> None:
        first, second, *_ = live
        claimed = replace(live[first], status=JobStatus.PROCESSING, started_at=NOON, attempts=1)
        if number % 3 == 0:
            self._write(file, writer, [(first, claimed)])  # and it runs on when the process dies
        if number % 3 == 1:
            waiting = replace(live[second], run_at=NOON + timedelta(hours=1), attempts=1)
            live[second] = waiting
            self._write(file, writer, [(second, waiting)])
        if number % 5 != 3:
            ending = FAILED if number % 2 else SUCCEEDED
            ended = replace(claimed, status=JobStatus.COMPLETED, completed_at=NOON, ending=ending)
            del live[first]
            self._write(file, writer, [(first, claimed), (first, ended)])
        if number % 6 == 4:
            del live[second]
            self._write(file, writer, [(second, None)])

    def _write(self, file: StoreFile, writer: RecordWriter, records: Sequence[Record]) -> None:
        before = self.said[-1][1]
        writer.write(records)
        after = self._say(file)
        # The jobs are as written, and all others as they were, but for those that were dropped.
        expected = before | dict(records)
        assert {seq: expected[seq] for seq in after} == after
        assert all(job is None or job.ending for seq, job in expected.items() if seq not in after)

    def _say(self, file: StoreFile) -> State:
        state = state_of(file)
        self.said.append((len(self._disk.operations), state))
        return state


# A life, the files that it began with, and the operations on them.
Recording = tuple[Life, dict[str, bytes], list[Operation]]


def rule(_: str) -> RecoveryRule:
    return RecoveryRule(max_interruptions=1000)


def state_of(file: StoreFile) -> State:
    rows = file.connection.execute(f"{SELECT_WHOLE} ORDER BY seq").fetchall()
    return dict(map(whole_job, rows))


@contextmanager
def opened(path: Path, disk: Disk, sync: Sync = "full") -> Iterator[StoreFile]:
    file = open_store_file(path, sync=sync, connect=disk.connect)
    try:
        yield file
    finally:
        file.close()


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Sync, int], Recording]:
    """Runs a scenario, and returns what the server has said and what the disk has seen."""
    # So that the scenario has many checkpoints.
    monkeypatch.setattr("trio_jobs.stores.sqlite.record_writer._CHECKPOINT_PAGES", 60)

    def run(sync: Sync, jobs: int) -> Recording:
        path = tmp_path / "first" / "jobs.db"
        path.parent.mkdir()
        with opened(path, Disk(f"made in {tmp_path}")):
            pass
        made = {path.name: path.read_bytes()}
        disk = Disk(f"recorded in {tmp_path}")
        life = Life(path, disk, sync)
        life.live(jobs)
        life.live(jobs)
        return life, made, disk.operations

    return run


def lost_after(said: list[tuple[int, State]], number: int, path: Path, disk: Disk) -> int:
    """How many of the states that were said at an operation are gone from the files.

    A server starts on them, and finds one of the states: never parts of one.
    """
    before = [state for certain, state in said if certain <= number]
    after = [state for certain, state in said if certain > number][:1]
    with opened(path, disk) as file:
        state = state_of(file)
        found = recover(file, rule, now=NOON)
        assert found.kept == count_kept(file.connection)
        unfinished = [seq for seq, job in state.items() if job.ending is None]
        assert sorted(seq for seq, _ in found.pending + found.suspects) == unfinished
        assert all(job.status is JobStatus.PENDING for _, job in found.pending + found.suspects)
        assert check_store(path, connect=disk.connect).faults == []
    if state in after or state == before[-1]:
        return 0
    return len(before) - 1 - max(at for at, each in enumerate(before) if each == state)


def put(files: dict[str, bytes], folder: Path) -> None:
    for old in folder.iterdir():
        old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def in_turn(number: int) -> list[Unsynced]:
    kinds: list[Unsynced] = ["none", "all", "some"]
    return [kinds[number % 3]]


def each_time(_: int) -> list[Unsynced]:
    return ["none", "all", "some"]


LONG = max(round(share_of(60)), 4)


@pytest.mark.parametrize(
    ("jobs", "unsynced"),
    [
        (6, in_turn),
        pytest.param(10, in_turn, marks=pytest.mark.proof),
        pytest.param(LONG, each_time, marks=pytest.mark.soak),
    ],
    ids=["few jobs", "short", "long"],
)
def test_no_power_cut_loses_what_was_said(
    jobs: int,
    unsynced: Callable[[int], Sequence[Unsynced]],
    recorded: Callable[[Sync, int], Recording],
    tmp_path: Path,
) -> None:
    life, made, operations = recorded("full", jobs)
    kinds = {(operation.kind, operation.file) for operation in operations}
    assert {("write", "jobs.db"), ("write", "jobs.db-wal"), ("sync", "jobs.db-wal")} <= kinds
    folder, disk = tmp_path / "later", Disk(f"later in {tmp_path}")
    folder.mkdir()

    for number, which, files in power_cuts(made, operations, unsynced):
        put(files, folder)
        lost = lost_after(life.said, number, folder / "jobs.db", disk)
        assert lost == 0, f"after operation {number} with {which} of the unsynced writes"


@pytest.mark.proof
def test_the_proof_notices_a_disk_that_is_not_waited_for(
    recorded: Callable[[Sync, int], Recording], tmp_path: Path
) -> None:
    # `normal` syncs at checkpoints alone: a power cut takes the end, but never a part of a commit.
    life, made, operations = recorded("normal", 8)
    folder, disk = tmp_path / "later", Disk(f"later in {tmp_path}")
    folder.mkdir()

    losses = 0
    for number, _, files in power_cuts(made, operations, in_turn):
        put(files, folder)
        losses += lost_after(life.said, number, folder / "jobs.db", disk) > 0

    assert losses > 20, losses


@pytest.mark.proof
def test_no_power_cut_leaves_half_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    disk = Disk(f"recorded in {tmp_path}")
    with opened(tmp_path / "first" / "jobs.db", disk):
        pass
    folder, later = tmp_path / "later", Disk(f"later in {tmp_path}")
    folder.mkdir()

    making = [operation for operation in disk.operations if "-new" in operation.file]
    assert len(making) > 30
    for _, _, files in power_cuts({}, making, each_time):
        put(files, folder)
        with opened(folder / "jobs.db", later) as file:
            assert state_of(file) == {}
        assert {each.name for each in folder.iterdir()} == {"jobs.db", "jobs.db-lock"}
