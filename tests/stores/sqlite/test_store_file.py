"""Files that cannot be opened: one line says why, and the file stays as it is."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copy

import pytest

from tests.stores.sqlite.files import opened, read, write
from tests.support import NOON, as_nobody, make_job
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.settings import StoreSettings
from trio_jobs.store_in_file import RecoveredFile
from trio_jobs.stores.sqlite.file_location import _file_system
from trio_jobs.stores.sqlite.record_writer import RecordWriter
from trio_jobs.stores.sqlite.schema import APPLICATION_ID, VERSION
from trio_jobs.stores.sqlite.store_check import check_store
from trio_jobs.stores.sqlite.store_file import (
    StoreFileError,
    connect,
    open_store_file,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the lock's, and but for what a reader of a WAL leaves: it says nothing."""
    return {
        each.name: each.read_bytes()
        for each in folder.iterdir()
        if each.is_file() and not each.name.endswith(("-lock", "-shm")) and each.stat().st_size
    }


def refused(path: Path) -> str:
    """The one line of the refusal, without the path."""
    before = contents(path.parent) if path.parent.is_dir() else {}
    with pytest.raises(StoreFileError) as refusal:
        open_store_file(path)
    if path.parent.is_dir():
        assert contents(path.parent) == before
    text = str(refusal.value)
    assert "\n" not in text
    return text.replace(str(path.parent), "").replace("'/jobs.db'", "X")


def test_new_file_is_private_and_has_the_version(path: Path) -> None:
    with opened(path) as file:
        file.connection.execute("INSERT INTO meta VALUES ('a', 1)")
        modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
        assert modes == dict.fromkeys(
            ["jobs.db", "jobs.db-lock", "jobs.db-shm", "jobs.db-wal"], 0o600
        )
        assert file.connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert file.connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert file.connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert {each.name for each in path.parent.iterdir()} == {"jobs.db", "jobs.db-lock"}


def test_mode_of_a_file_that_exists_stays(path: Path) -> None:
    with opened(path):
        path.chmod(0o640)
    with opened(path):
        assert path.stat().st_mode & 0o777 == 0o640


def test_relative_name_and_odd_names_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("jobs.db", "a b?c#d%20.db", "ü.db"):
        write(Path(name), [(1, make_job("a"))])
        assert (tmp_path / name).stat().st_size
        with opened(Path(name)) as file:
            assert file.path == tmp_path / name


def test_sync_normal(path: Path) -> None:
    file = open_store_file(path, sync="normal")
    assert file.connection.execute("PRAGMA synchronous").fetchone() == (1,)
    file.close()


def test_missing_folder(tmp_path: Path) -> None:
    path = tmp_path / "no" / "jobs.db"

    with pytest.raises(StoreFileError) as refusal:
        open_store_file(path)

    assert (
        str(refusal.value) == f"store file {str(path)!r}: there is no folder {str(path.parent)!r}"
    )
    assert list(tmp_path.iterdir()) == []


def test_folder_in_place_of_the_file(path: Path) -> None:
    path.mkdir()

    assert refused(path) == "store file X is a folder"


def test_file_with_two_names_is_refused_by_either_until_one_is_removed(path: Path) -> None:
    with opened(path):
        pass
    other = path.with_name("other.db")
    other.hardlink_to(path)

    for name in (path, other):
        assert "has 2 names (hard links)" in refused(name)

    path.unlink()
    with opened(other):
        pass


def test_fifo_in_place_of_the_file(path: Path) -> None:
    os.mkfifo(path)

    with pytest.raises(StoreFileError, match="is no regular file"):
        open_store_file(path)


@pytest.mark.parametrize("size", [1, 20, 100, 5_000])
def test_garbage(size: int, path: Path) -> None:
    path.write_bytes(b"my diary! " * size)

    assert refused(path) == "store file X is no SQLite file"


def test_garbage_behind_a_header(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + b"?" * 5_000)

    assert refused(path) == "store file X: file is not a database"


def test_file_of_another_program(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE recipes(name)")
    other.close()

    assert refused(path) == "store file X is an SQLite file of another program"


def test_file_of_a_newer_version(path: Path) -> None:
    write(path, [(1, make_job("a"))])
    newer = sqlite3.connect(path)
    newer.execute(f"PRAGMA user_version = {VERSION + 1}")
    newer.close()

    assert refused(path) == (
        f"store file X is of version {VERSION + 1}, and this program reads versions up to "
        f"{VERSION}; start the newer program"
    )


def test_truncated_file(path: Path) -> None:
    write(path, [(n, make_job(f"{n:05}", payload=b"1" * 500)) for n in range(1, 500)])
    with opened(path):  # and after an unclean end
        pass
    os.truncate(path, path.stat().st_size // 2)

    assert refused(path).startswith("store file X")


def test_file_that_is_truncated_within_its_last_page(path: Path) -> None:
    # A payload of more than a page ends in the last page.
    write(path, [(1, make_job("a", payload=b"1" * 20_000))])
    with opened(path) as file:
        RecordWriter(file.connection).close()
    os.truncate(path, path.stat().st_size - 4_000)

    assert refused(path).startswith("store file X is damaged: ")


def test_page_that_is_broken_is_found_after_an_unclean_end(path: Path) -> None:
    write(path, [(n, make_job(f"{n:05}", payload=b"1" * 500)) for n in range(1, 500)])
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096)

    assert re.match(r"store file X is damaged: .+", refused(path))
    assert check_store(path).faults


def test_wal_does_not_grow_with_the_number_of_killed_processes(path: Path) -> None:
    wal = path.with_name("jobs.db-wal")
    sizes = []
    for n in range(1, 7):
        with opened(path) as file:
            file.connection.execute("DELETE FROM meta")
            RecordWriter(file.connection).write([(n, make_job(f"{n:05}", payload=b"1" * 20_000))])
            left = {each: each.read_bytes() for each in (path, wal)}
        for each, content in left.items():
            each.write_bytes(content)
        sizes.append(len(left[wal]))

    assert max(sizes) < 2 * sizes[0], sizes
    assert len(read(path)) == len(sizes)


def test_damaged_file_keeps_the_wal_of_a_process_that_was_killed(path: Path) -> None:
    killed = path.parent / "killed"
    killed.mkdir()
    with opened(path) as file:
        file.connection.execute("DELETE FROM meta")
        RecordWriter(file.connection).write([(1, make_job("1"))])
        for name in ("jobs.db", "jobs.db-wal"):
            copy(path.parent / name, killed / name)
    path = killed / "jobs.db"
    os.truncate(path, 8192)

    assert re.match(r"store file X is damaged: .+", refused(path))
    assert "jobs.db-wal" in contents(killed)


def test_damage_that_only_the_recovery_finds_is_one_line(path: Path) -> None:
    with opened(path) as file:  # its end is clean: nothing checks the whole file
        jobs = [(n, make_job(f"{n:05}", payload=b"1" * 500)) for n in range(1, 100)]
        RecordWriter(file.connection).write(jobs)
        query = "SELECT rootpage FROM sqlite_schema WHERE name = 'payloads'"
        (page,) = file.connection.execute(query).fetchone()
    with path.open("r+b") as raw:
        raw.seek((page - 1) * 4096)
        raw.write(b"\xff" * 4096)

    with pytest.raises(StoreFileError, match=r"store file '.+': database disk image is malformed"):
        RecoveredFile(path, HandlerRegistry({}), StoreSettings(), now=lambda: NOON)
    assert refused(path).startswith("store file X")


def test_wal_without_its_file_is_not_deleted(path: Path) -> None:
    with opened(path) as file:
        file.connection.execute("INSERT INTO meta VALUES ('a', 1)")
        wal = path.with_name("jobs.db-wal").read_bytes()
    path.unlink()
    path.with_name("jobs.db-wal").write_bytes(wal)

    assert "is missing or empty, but '/jobs.db-wal' is there" in refused(path)


@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "expected"),
    [
        (0o444, 0o777, "store file X: Permission denied"),
        (0o000, 0o777, "store file X: Permission denied"),
        (0o644, 0o555, "store file X: can not open '/jobs.db-lock': Permission denied"),
    ],
)
def test_read_only(file_mode: int, folder_mode: int, expected: str, path: Path) -> None:
    write(path, [(1, make_job("a"))])
    path.with_name("jobs.db-lock").unlink()
    path.chmod(file_mode)
    for folder in path.parents:  # pytest makes them for their owner alone
        if folder.stat().st_mode & 0o011 != 0o011:
            folder.chmod(folder.stat().st_mode | 0o011)
    path.parent.chmod(folder_mode)

    with as_nobody(), pytest.raises(StoreFileError) as refusal:
        open_store_file(path)
    path.parent.chmod(0o755)

    text = str(refusal.value).replace(str(path.parent), "").replace("'/jobs.db'", "X")
    assert text == expected


HOLDER = """
    import os, sys, time
    from pathlib import Path
    from trio_jobs.stores.sqlite.store_file import open_store_file
    file = open_store_file(Path(sys.argv[1]))
    if sys.argv[2] == "child" and not os.fork():
        print(os.getpid(), flush=True)
        os.close(0)
        time.sleep(60)
        os._exit(0)
    if sys.argv[2] == "alone":
        print(os.getpid(), flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(path: Path, how: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Another process that has the file open, and the process id that it has printed."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), path, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


def test_second_server_is_refused_and_changes_nothing(path: Path) -> None:
    write(path, [(1, make_job("a"))])
    with held(path, "alone") as (process, _):
        assert refused(path) == (
            f"store file X is in use by another server (process {process.pid})"
        )
        link = path.with_name("link.db")
        link.symlink_to(path)
        assert "is in use by another server" in refused(link)
        process.kill()
        process.wait()
        with opened(path):
            pass


def test_lock_ends_with_its_process_even_if_a_child_lives(path: Path) -> None:
    with held(path, "child") as (process, child):
        process.kill()
        process.wait()
        try:
            with opened(path):
                os.kill(child, 0)  # it lives
        finally:
            os.kill(child, signal.SIGKILL)


def test_second_opening_in_a_process_is_refused_and_the_lock_stays(path: Path) -> None:
    with opened(path):
        assert refused(path) == "store file X is in use by this process already"
        code = "import sys; from pathlib import Path\n" + textwrap.dedent(
            """
            from trio_jobs.stores.sqlite.store_file import open_store_file
            open_store_file(Path(sys.argv[1]))
            """
        )
        second = subprocess.run(
            [sys.executable, "-c", code, path], check=False, capture_output=True, text=True
        )
        assert f"is in use by another server (process {os.getpid()})" in second.stderr
    with opened(path):
        pass


def test_lock_that_is_no_file_is_one_line(path: Path) -> None:
    os.mkfifo(path.with_name("jobs.db-lock"))

    assert refused(path) == "store file X: can not lock '/jobs.db-lock': Invalid argument"


def test_failed_opening_leaves_neither_lock_nor_descriptors(path: Path) -> None:
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208
    path.write_bytes(b"garbage" * 1000)
    for _ in range(3):
        refused(path)
    path.unlink()

    with opened(path):
        pass
    assert len(os.listdir("/dev/fd")) == before  # noqa: PTH208


def test_old_sqlite(path: Path) -> None:
    with pytest.raises(StoreFileError) as refusal:
        open_store_file(path, version=(3, 36, 0))

    assert str(refusal.value) == (
        "the store file needs SQLite 3.37 or later, and this Python has 3.36.0"
    )
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_network_file_system(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_jobs.stores.sqlite.file_location._file_system", lambda _: kind)

    assert refused(path) == (
        f"store file X is on a network file system ({kind}); the store needs a local one"
    )


def test_type_of_a_file_system_is_that_of_the_nearest_mount() -> None:
    assert _file_system(Path("/proc/self")) == "proc"
    assert _file_system(Path("/")) not in ("", "proc")


@pytest.mark.parametrize("name", [b"b\xc3\xbcro", b"b\xfcro", b"a b\\040", b"a\xe2\x80\xa8b"])
def test_mount_of_any_name_is_recognised(
    name: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    written = name.replace(b"\\", b"\\134").replace(b" ", b"\\040")  # as the kernel does
    mounts.write_bytes(
        b"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:39 / /mnt/" + written + b" rw - nfs4 x rw\n"
    )
    monkeypatch.setattr("trio_jobs.stores.sqlite.file_location._MOUNTS", mounts)

    assert _file_system(Path("/mnt", os.fsdecode(name), "jobs")) == "nfs4"
    assert _file_system(Path("/mnt")) == "ext4"


def test_process_killed_while_it_makes_the_file_has_made_none(path: Path) -> None:
    path.touch()  # somebody else does so
    path.with_name("jobs.db-new").write_bytes(b"half of")
    path.with_name("jobs.db-new-wal").write_bytes(b"a store")
    with opened(path):
        pass
    assert {each.name for each in path.parent.iterdir()} == {"jobs.db", "jobs.db-lock"}


def test_file_of_sqlite_without_tables_becomes_a_store(path: Path) -> None:
    empty = sqlite3.connect(path, isolation_level=None)
    empty.execute("PRAGMA journal_mode = WAL")
    empty.close()
    assert path.stat().st_size

    write(path, [(1, make_job("a"))])
    assert read(path) == [(1, make_job("a"))]


def test_another_connection_does_not_hold_up_the_opening(path: Path) -> None:
    write(path, [(1, make_job("a"))])
    shell = connect(f"file:{path}")
    shell.execute("BEGIN")
    shell.execute("SELECT * FROM jobs").fetchall()
    with opened(path):
        pass
    shell.close()


def test_write_lock_that_stays_is_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_jobs.stores.sqlite.store_file._BUSY_TIMEOUT", 10)
    write(path, [(1, make_job("a"))])
    shell = connect(f"file:{path}")
    shell.execute("BEGIN IMMEDIATE")

    assert refused(path) == "store file X: database is locked"
    shell.close()


def test_check_of_a_whole_file(path: Path) -> None:
    with opened(path) as file:
        assert check_store(path).faults == []
        assert file.connection.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
    write(path, [(1, make_job("a")), (2, make_job("b"))])

    report = check_store(path)

    assert (report.version, report.counts, report.faults) == (VERSION, {"pending": 2}, [])


def test_check_finds_what_does_not_fit_together(path: Path) -> None:
    write(path, [(n, make_job(str(n))) for n in range(1, 5)])
    shell = sqlite3.connect(path)
    shell.execute("DELETE FROM payloads WHERE seq = 1")
    shell.execute("DELETE FROM jobs WHERE seq = 2")
    shell.execute("INSERT INTO results VALUES (9, x'00')")
    shell.execute("UPDATE jobs SET status = 2 WHERE seq = 3")
    shell.execute("UPDATE jobs SET status = 1 WHERE seq = 4")
    shell.commit()
    shell.close()

    assert check_store(path).faults == [
        "1 jobs without a payload",
        "1 payloads without a job",
        "1 results without a job",
        "1 jobs that run without having begun",
        "1 completed jobs without an end",
    ]


def test_check_finds_a_status_that_there_is_not(path: Path) -> None:
    write(path, [(1, make_job("a"))])
    with opened(path) as file:
        # The writer of a file does not check.
        file.connection.execute("UPDATE jobs SET status = 3")

    assert "1 jobs with an unknown status" in check_store(path).faults


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda _: None, "there is no store file X"),
        (lambda path: path.touch(), "store file X is empty"),
        (lambda path: path.write_bytes(b"garbage" * 999), "store file X: file is not a database"),
        (
            lambda path: path.symlink_to(path),
            "store file X: Too many levels of symbolic links",
        ),
    ],
)
def test_check_of_no_store(make: Callable[[Path], None], expected: str, path: Path) -> None:
    make(path)
    before = contents(path.parent)

    with pytest.raises(StoreFileError) as refusal:
        check_store(path)

    assert str(refusal.value).replace(repr(str(path)), "X") == expected
    assert contents(path.parent) == before
