"""Whatever a descriptor leads to, writing to it ends in time and changes nothing about it."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from trio_jobs.bounded_write import PIECE_BYTES, open_for_writing, write_each, write_within

TOO_LONG = 60

MUCH = b"x" * 10_000_000


@pytest.fixture(params=["pipe", "terminal", "socket"])
def unread(request: pytest.FixtureRequest) -> Iterator[int]:
    """A descriptor whose other end nobody reads."""
    with ExitStack() as stack:
        if request.param == "socket":
            ends = [stack.enter_context(end) for end in socket.socketpair()]
            yield ends[1].fileno()
            return
        reader, writer = os.pipe() if request.param == "pipe" else os.openpty()
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)
        yield writer


def test_write_takes_what_fits_and_gives_up_at_its_deadline(unread: int) -> None:
    fd = open_for_writing(unread)
    start = time.monotonic()

    for seconds in (0, -1):
        assert write_within(fd, b"line\n", seconds) == 5
    written = write_within(fd, MUCH, 0.05)

    assert 0 < written < len(MUCH)
    assert 0.05 <= time.monotonic() - start < TOO_LONG
    assert os.get_blocking(unread)
    os.close(fd)


def test_pipe_that_cannot_be_opened_anew_is_written_in_pieces_that_fit() -> None:
    reader, writer = os.pipe()

    written = write_within(writer, MUCH, 0.05)

    assert os.read(reader, len(MUCH)) == MUCH[:written]
    os.close(reader)
    os.close(writer)


def test_pieces_end_where_a_line_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[bytes] = []

    def write(_fd: int, piece: bytes) -> int:
        pieces.append(piece)
        return len(piece)

    monkeypatch.setattr(os, "write", write)
    long = b"y" * (PIECE_BYTES + 100) + b"\n"
    data = b"x" * 3000 + b"\n" + b"x" * 3000 + b"\n" + long

    assert write_within(1, data, 1) == len(data)

    assert b"".join(pieces) == data
    assert [len(piece) for piece in pieces] == [3001, 3001, PIECE_BYTES, 101]


def test_last_lines_are_written_when_the_time_is_over() -> None:
    reader, writer = os.pipe()

    write_each(writer, [b"line\n"], -1, last=lambda: [b"one\n", b"two\n"])

    assert os.read(reader, len(MUCH)) == b"one\ntwo\n"
    os.close(reader)
    os.close(writer)


def test_last_lines_begin_a_line_after_one_that_was_not_written_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[bytes] = []

    def write(_fd: int, data: bytes, seconds: float) -> int:
        assert 0 < seconds <= TOO_LONG
        written.append(data[:2])
        return 2

    monkeypatch.setattr("trio_jobs.bounded_write.write_within", write)

    write_each(1, [b"1\n", b"long\n", b"never\n"], TOO_LONG, last=lambda: [b"2\n"])

    assert written == [b"1\n", b"lo", b"\n2"]


def test_last_lines_wait_a_bounded_time_for_room(unread: int) -> None:
    fd = open_for_writing(unread)
    start = time.monotonic()

    write_each(fd, [MUCH], 0.05, last=lambda: [b"2\n"])

    assert 0.15 <= time.monotonic() - start < TOO_LONG
    os.close(fd)


def test_file_keeps_its_position(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb", buffering=0) as file:
        fd = open_for_writing(file.fileno())
        file.write(b"one\n")
        write_within(fd, b"two\n", 1)
        file.write(b"three\n")
        os.close(fd)

    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_error_ends_the_write_and_a_closed_descriptor_leads_nowhere() -> None:
    reader, writer = os.pipe()
    fd = open_for_writing(writer)
    os.close(reader)

    assert write_within(fd, b"line\n", None) == 0

    os.close(writer)
    os.close(fd)
    nowhere = open_for_writing(writer)
    assert write_within(nowhere, b"line\n", None) == 5
    os.close(nowhere)
