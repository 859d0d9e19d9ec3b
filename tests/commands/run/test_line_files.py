"""The results file: whole lines only, one writer, and what a full disk leaves."""

import errno
import fcntl
import os
import pty
import stat
import tty
from pathlib import Path

import pytest
import trio
import trio.testing

from trio_jobs.commands.run.line_files import LineFile, LineFileError, LineStream
from trio_jobs.commands.run.screen import Screen


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def content(path: Path) -> bytes:
    return path.read_bytes()


def fill(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def files_beside(path: Path) -> list[Path]:
    return list(path.parent.iterdir())


def nothing(_: bytes) -> None:
    """Take a line."""


async def test_lines_are_there_after_the_flush(path: Path) -> None:
    file = LineFile.create(path)
    file.add(b"1\n")
    file.add(b"2\n")
    assert content(path) == b""

    await file.flush()

    assert (content(path), file.written) == (b"1\n2\n", 2)
    file.close()


def test_existing_file_is_not_made_again(path: Path) -> None:
    fill(path, b"precious")

    with pytest.raises(LineFileError, match=r"results\.jsonl exists already"):
        LineFile.create(path)

    assert content(path) == b"precious"


@pytest.mark.parametrize("torn", [b"", b"3", b'{"line":3,', b"\x00\x00"])
async def test_torn_last_line_is_cut_off(path: Path, torn: bytes) -> None:
    fill(path, b"1\n2\n" + torn)
    taken: list[bytes] = []

    file = LineFile.reopen(path, taken.append)
    file.add(b"4\n")
    await file.flush()
    file.close()

    assert taken == [b"1\n", b"2\n"]
    assert content(path) == b"1\n2\n4\n"


def test_line_that_is_not_taken_leaves_the_file_as_it_is(path: Path) -> None:
    fill(path, b"1\nx\ntorn")

    def take(line: bytes) -> None:
        int(line)

    with pytest.raises(LineFileError, match=r"results\.jsonl, line 2: invalid literal"):
        LineFile.reopen(path, take)

    assert content(path) == b"1\nx\ntorn"


def test_second_writer_is_refused(path: Path) -> None:
    file = LineFile.create(path)

    with pytest.raises(LineFileError, match="another run writes to"):
        LineFile.reopen(path, nothing)

    file.close()
    LineFile.reopen(path, nothing).close()


def test_second_writer_is_refused_after_lines_were_dropped(path: Path) -> None:
    fill(path, b"1\n2\n")
    file = LineFile.reopen(path, nothing)

    file.keep_only(lambda line: line == b"2\n")

    assert content(path) == b"2\n"
    with pytest.raises(LineFileError, match="another run writes to"):
        LineFile.reopen(path, nothing)
    file.close()


def test_writer_that_opened_the_file_before_its_replacement_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path, b"1\n")
    other = path.with_name("other")
    fill(other, b"1\n")
    lock = fcntl.flock

    def replace_then_lock(fd: int, operation: int) -> None:
        other.rename(path)
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", replace_then_lock)

    with pytest.raises(LineFileError, match="another run writes to"):
        LineFile.reopen(path, nothing)


async def test_dropped_lines_are_gone_and_new_ones_follow(path: Path) -> None:
    fill(path, b"".join(b"%d\n" % number for number in range(30_000)))
    fill(path.with_name("results.jsonl.new"), b"of a process that has died")
    file = LineFile.reopen(path, nothing)

    file.keep_only(lambda line: int(line) % 3 == 0)
    file.add(b"new\n")
    await file.flush()
    file.close()

    lines = content(path).splitlines()
    assert lines == [b"%d" % number for number in range(0, 30_000, 3)] + [b"new"]
    assert files_beside(path) == [path]


def test_file_without_its_dropped_lines_keeps_its_mode_and_the_link_to_it(path: Path) -> None:
    real = path.with_name("real")
    real.write_bytes(b"1\n2\n")
    real.chmod(0o604)
    path.symlink_to(real)
    file = LineFile.reopen(path, nothing)

    file.keep_only(lambda line: line == b"2\n")
    file.close()

    assert path.is_symlink()
    assert (real.read_bytes(), stat.S_IMODE(real.stat().st_mode)) == (b"2\n", 0o604)
    assert set(files_beside(path)) == {path, real}


@pytest.mark.parametrize("room", range(13))
async def test_full_disk_leaves_whole_lines(
    path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    write = os.write

    def write_a_part(fd: int, data: bytes) -> int:
        nonlocal room
        if fd != file._fd:
            return write(fd, data)
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = data[: min(room, 3)]
        room -= len(part)
        return write(fd, part)

    fill(path, b"old\n")
    file = LineFile.reopen(path, nothing)
    for line in (b"1234\n", b"1\n", b"12345\n"):
        file.add(line)
    monkeypatch.setattr(os, "write", write_a_part)
    fits = sum(room >= end for end in (5, 7, 13))

    with pytest.raises(OSError, match="No space left"):
        await file.flush()

    assert content(path) == b"old\n" + b"".join([b"1234\n", b"1\n", b"12345\n"][:fits])
    assert file.written == fits
    file.close()


def test_folder_and_pipe_are_no_results_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(LineFileError, match="cannot be opened"):
        LineFile.reopen(tmp_path, nothing)
    with pytest.raises(LineFileError, match="no regular file"):
        LineFile.reopen(tmp_path / "pipe", nothing)
    with pytest.raises(LineFileError, match="cannot be made: No such file"):
        LineFile.create(tmp_path / "none" / "file")


def test_results_may_be_read_by_those_whom_the_umask_lets(path: Path) -> None:
    before = os.umask(0o027)
    try:
        LineFile.create(path).close()
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_stream_gets_lines_while_its_reader_is_slow() -> None:
    reader, writer = os.pipe()
    stream = LineStream(writer)
    lines = [b"%06d\n" % number for number in range(12_000)]  # more than the pipe holds

    async def read() -> bytes:
        data = b""
        while len(data) < sum(map(len, lines)):
            data += await trio.to_thread.run_sync(os.read, reader, 10_000)
        return data

    got = b""
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def take() -> None:
            nonlocal got
            got = await read()

        for line in lines:
            stream.add(line)
            if stream.is_due:
                await stream.flush()

    assert got == b"".join(lines)
    assert stream.written == len(lines)
    os.close(reader)
    os.close(writer)


async def test_terminal_gets_no_order_from_a_result_or_a_message() -> None:
    reader, terminal = pty.openpty()
    tty.setraw(terminal)  # so that line ends stay as they are
    stream, screen = LineStream(terminal), Screen(quiet=True, fd=terminal)

    stream.add('{"result":"\x9b31m\u202e"}\n'.encode())
    stream.add(b'{"result":"\x1b[2J"}\n')
    await stream.flush()
    screen.say("refused: \x1b[2J\x9b31m")

    # The kernel may pass on one write after the other.
    shown = b""
    while shown.count(b"\n") < 3:
        shown += os.read(reader, 1000)
    assert shown.decode() == (
        '{"result":"\\u009b31m\\u202e"}\n{"result":" [2J"}\nrefused:  [2J 31m\n'
    )
    os.close(reader)
    os.close(terminal)


async def test_flush_of_a_stream_that_nobody_reads_can_be_cancelled() -> None:
    reader, writer = os.pipe()
    stream = LineStream(writer)
    stream.add(b"x" * 1_000_000 + b"\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.flush)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    os.close(reader)  # the thread gets EPIPE
