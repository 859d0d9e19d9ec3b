"""Whatever a name leads to, reading it ends: with its content, or with an error that says why."""

import os
import threading
from pathlib import Path

import pytest

from tests.support import load_certificate
from trio_jobs.bounded_read import check_regular, read_within
from trio_jobs.tokens import TokenTable


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_file_of_the_longest_length_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)

    assert read_within(path, max_bytes=100_000) == b"x" * 100_000
    with pytest.raises(OSError, match="more than 99999 bytes"):
        read_within(path, max_bytes=99_999)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/urandom"])
def test_device_without_an_end_is_too_long(path: str) -> None:
    with pytest.raises(OSError, match="more than 1000 bytes"):
        read_within(path, max_bytes=1000)


def test_folder_is_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="Is a directory"):
        read_within(tmp_path, max_bytes=1000)


def test_pipe_is_read_to_its_end_however_it_comes(pipe: Path) -> None:
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(read_within(pipe, max_bytes=1000)))
    reader.start()
    with pipe.open("wb", buffering=0) as writer:  # returns when the reader has opened it
        writer.write(b"[pool]\n")
        writer.write(b"workers = 3\n")
    reader.join()

    assert read == [b"[pool]\nworkers = 3\n"]


def test_pipe_that_nobody_writes_to_is_given_up(pipe: Path) -> None:
    with pytest.raises(TimeoutError, match=r"a pipe that has not ended in 0\.05 s"):
        read_within(pipe, max_bytes=1000, seconds=0.05)


def test_pipe_whose_writer_does_not_close_it_is_given_up(pipe: Path) -> None:
    writer = os.open(pipe, os.O_RDWR)
    os.write(writer, b"[pool]\n")

    with pytest.raises(TimeoutError):
        read_within(pipe, max_bytes=1000, seconds=0.05)
    os.close(writer)


def test_pipe_without_an_end_is_too_long(pipe: Path) -> None:
    writer = os.open(pipe, os.O_RDWR)
    os.write(writer, b"x" * 2000)

    with pytest.raises(OSError, match="more than 1000 bytes"):
        read_within(pipe, max_bytes=1000)
    os.close(writer)


def test_token_file_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot read the token file '/dev/zero': more than"):
        TokenTable.of_file("/dev/zero")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
def test_what_is_no_regular_file_is_told_as_such(path: str) -> None:
    with pytest.raises(OSError, match="not a regular file"):
        check_regular(path, max_bytes=1000)


def test_regular_file_may_be_as_long_as_that(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)

    check_regular(path, max_bytes=1000)
    with pytest.raises(OSError, match="more than 999 bytes"):
        check_regular(path, max_bytes=999)


def test_certificate_and_key_are_files_before_a_library_reads_them(
    pipe: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()

    with pytest.raises(ValueError, match="cannot use certfile '/dev/zero': not a regular file"):
        load_certificate("/dev/zero", str(file))
    with pytest.raises(ValueError, match=f"cannot use keyfile '{pipe}': not a regular file"):
        load_certificate(str(file), str(pipe))
    with pytest.raises(ValueError, match=f"cannot use keyfile '{tmp_path}': Is a directory"):
        load_certificate(str(file), str(tmp_path))
