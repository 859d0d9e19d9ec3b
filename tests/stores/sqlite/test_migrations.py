"""Migrations: a file of any version opens, and one that is cut off has changed nothing."""

import sqlite3
from pathlib import Path
from shutil import copy

import pytest

from tests.stores.sqlite.disk import Disk, power_cuts
from tests.stores.sqlite.files import opened, read
from tests.stores.sqlite.old_files import jobs_of, path_of
from tests.support import NOON
from trio_jobs import Outcome
from trio_jobs.stores.sqlite.recovery import RecoveryRule, recover
from trio_jobs.stores.sqlite.schema import MIGRATIONS, VERSION, migrate
from trio_jobs.stores.sqlite.store_check import check_store
from trio_jobs.stores.sqlite.store_file import open_store_file

STEPS = [
    (version, statement)
    for version, statements in enumerate(MIGRATIONS)
    for statement in range(len(statements) + 4)  # with the two marks, BEGIN and COMMIT
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


def made(version: int, path: Path) -> None:
    """Put the file of this version there; an empty one for 0."""
    if version:
        copy(path_of(version), path)
    else:
        sqlite3.connect(path).close()


def content(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    version = connection.execute("PRAGMA user_version").fetchone()
    lines = [str(version), *connection.iterdump()]
    connection.close()
    return lines


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_file_of_each_version_opens(version: int, path: Path) -> None:
    made(version, path)

    with opened(path) as file:
        assert tuple(read(path)) == jobs_of(version)
        found = recover(file, lambda _: RecoveryRule(), now=NOON)
    assert [seq for seq, _ in found.pending] == [6, 8]
    assert [seq for seq, _ in found.suspects] == [7, 9]
    others = len(jobs_of(version)) - 5
    assert (found.kept.succeeded, found.kept.others) == (1, others)
    report = check_store(path)
    assert (report.version, report.faults) == (VERSION, [])
    one_each = {outcome.value: 1 for outcome in Outcome}
    assert report.counts == one_each | {"pending": 4, "failed": others - 3}


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_what_a_crash_has_left_in_the_wal_is_migrated_too(version: int, path: Path) -> None:
    old = path.with_name("old.db")
    made(version, old)
    server = sqlite3.connect(old, isolation_level=None)
    server.execute("PRAGMA journal_mode = WAL")
    server.execute("PRAGMA wal_autocheckpoint = 0")
    server.execute("UPDATE jobs SET snoozes = 9 WHERE seq = 6")
    copy(old, path)
    copy(f"{old}-wal", f"{path}-wal")
    server.close()

    with opened(path):
        jobs = dict(read(path))

    assert jobs[6].snoozes == 9
    assert len(jobs) == len(jobs_of(version))
    assert check_store(path).faults == []


def schema(path: Path) -> list[tuple[str, str, str | None]]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()
    connection.close()
    return rows


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_migrated_file_has_the_schema_of_a_new_one(version: int, path: Path) -> None:
    made(version, path)
    with opened(path):
        pass
    new = path.with_name("new.db")
    with opened(new):
        pass

    assert schema(path) == schema(new)


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_check_reads_a_file_that_no_start_has_migrated(version: int, path: Path) -> None:
    made(version, path)
    before = path.read_bytes()

    report = check_store(path)

    assert (report.version, report.faults) == (version, [])
    assert path.read_bytes() == before


@pytest.mark.parametrize(("version", "statement"), STEPS)
def test_migration_that_fails_at_any_statement_leaves_the_file_as_it_was(
    version: int, statement: int, path: Path
) -> None:
    class Failing(sqlite3.Connection):
        left = statement

        def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
            if not sql.startswith("ROLLBACK"):
                self.left -= 1
                if self.left < 0:
                    raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *parameters)  # type: ignore[arg-type]

    made(version, path)
    before = content(path)
    connection = sqlite3.connect(path, isolation_level=None, factory=Failing)
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, version)
    connection.close()

    assert content(path) == before
    with opened(path):
        assert tuple(read(path)) == (jobs_of(version) if version else ())


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_start_that_is_killed_or_loses_power_at_any_write_loses_nothing(
    version: int, path: Path
) -> None:
    made(version, path)
    before = {path.name: path.read_bytes()}
    disk, later = Disk(f"recorded in {path}"), Disk(f"later in {path}")
    open_store_file(path, connect=disk.connect).close()
    folder = path.parent / "later"
    folder.mkdir()

    versions = set()
    # With all of the unsynced writes: that is a kill.
    for number, which, files in power_cuts(
        before, disk.operations, lambda _: ("none", "all", "some")
    ):
        for name, data in files.items():
            (folder / name).write_bytes(data)
        versions.add(check_store(folder / path.name, connect=later.connect).version)
        open_store_file(folder / path.name, connect=later.connect).close()
        assert tuple(read(folder / path.name)) == jobs_of(version), (number, which)
        assert check_store(folder / path.name).faults == []
        for each in folder.iterdir():
            each.unlink()

    assert versions == set(range(version, VERSION + 1))
