"""The reader: from the lines of a file or a pipe to submissions, without those that are done."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_jobs.commands.run import input_file
from trio_jobs.commands.run.done_lines import DoneLines
from trio_jobs.commands.run.input_file import InputError, InputFile
from trio_jobs.commands.run.reader import Reader
from trio_jobs.commands.run.records import Submission


class Read:
    """A reader over a file with this text, and what it has refused."""

    def __init__(
        self,
        path: Path,
        text: bytes = b"",
        *,
        done: Iterable[int] = (),
        chunk: int | None = None,
        job_type: str | None = "t",
    ) -> None:
        if text:
            path.write_bytes(text)
        self.refused: list[int] = []
        self.done = DoneLines()
        for number in done:
            self.done.mark(number, failed=False)
        self.input = InputFile(str(path))
        self.reader = Reader(
            self.input,
            "run",
            self.done,
            job_type=job_type,
            chunk=chunk,
            refuse=lambda number, _: self.refused.append(number),
        )

    async def all(self) -> list[Submission]:
        submissions = []
        while some := await self.reader.next():
            submissions += some
        return submissions

    async def numbers(self) -> list[list[int]]:
        return [[record.number for record in each.records] for each in await self.all()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records"


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n  \n"])
async def test_each_line_that_is_not_blank_is_a_record(path: Path, end: bytes) -> None:
    read = Read(path, b'1\n\n \t\n{"a":2}\r\n[3]' + end)

    got = [(each.records[0].number, each.payload, each.key) for each in await read.all()]

    assert got == [
        (1, b"1", "run:1"),
        (4, b'{"a":2}', "run:4"),
        (5, b"[3]", "run:5"),
    ]
    assert read.input.count_records() == 3
    assert read.reader.is_over


async def test_input_of_a_windows_editor_may_begin_with_a_bom(path: Path) -> None:
    read = Read(path, b"\xef\xbb\xbf1\r\n2\r\n")

    assert [each.payload for each in await read.all()] == [b"1", b"2"]
    assert read.refused == []


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1_000])
async def test_blocks_of_any_size_give_the_same_lines(
    path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(input_file, "_BLOCK", block)
    read = Read(path, b"10\n\n200\n3\n40000\n5")

    assert [each.payload for each in await read.all()] == [b"10", b"200", b"3", b"40000", b"5"]


async def test_done_lines_are_left_out_and_bad_ones_refused(path: Path) -> None:
    read = Read(path, b"1\n{\n3\n{\n5\n", done=[1, 4])

    assert await read.numbers() == [[3], [5]]
    assert read.refused == [2]


async def test_lines_that_want_a_new_job_have_another_key(path: Path) -> None:
    read = Read(path, b"1\n2\n3\n")
    read.done.repeat([2, 3, 3])

    assert [each.key for each in await read.all()] == ["run:1", "run.1:2", "run.2:3"]


async def test_chunks_end_with_their_block_their_type_and_the_input(path: Path) -> None:
    lines = [b'{"type":"a"}'] * 4 + [b"", b"{"] + [b'{"type":"b"}'] * 3 + [b'{"type":"a"}']
    read = Read(path, b"\n".join(lines), chunk=4, job_type=None)

    assert await read.numbers() == [[1, 2, 3, 4], [7, 8], [9], [10]]
    assert read.refused == [6]


async def test_run_that_goes_on_makes_the_same_chunks(path: Path) -> None:
    text = b"".join(b"%d\n" % number for number in range(1, 12))
    first = {each.key: each.records for each in await Read(path, text, chunk=4).all()}

    # The first chunk is done, the second in part, the third not.
    later = Read(path, text, chunk=4, done=[1, 2, 3, 4, 6])
    again = {each.key: each.records for each in await later.all()}

    assert list(again.values()) == [first[key] for key in again]
    assert [len(each) for each in again.values()] == [4, 3]


async def test_chunk_that_wants_a_new_job_has_another_key(path: Path) -> None:
    first, second = await Read(path, b"1\n2\n3\n4\n", chunk=2).all()
    read = Read(path, chunk=2)
    read.done.repeat([1, 2])

    again, unchanged = await read.all()

    assert again.key != first.key
    assert again.key.startswith("run.1:")
    assert unchanged.key == second.key


async def test_lines_of_a_pipe_come_one_by_one_and_a_stop_ends_the_wait(path: Path) -> None:
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    read = Read(path)
    assert not read.input.is_regular

    for number in range(3):
        os.write(writer, b"%d\n" % number)
        assert [each.payload for each in await read.reader.next()] == [b"%d" % number]
    async with trio.open_nursery() as nursery:
        ends: list[list[Submission]] = []

        @nursery.start_soon
        async def wait() -> None:
            ends.append(await read.reader.next())

        await wait_all_tasks_blocked()
        read.reader.stop()
    assert ends == [[]]
    assert await read.reader.next() == []
    assert not read.reader.is_over
    os.write(writer, b"for the thread that is left\n")
    os.close(writer)


async def test_file_that_grows_is_read_up_to_its_first_size(path: Path) -> None:
    read = Read(path, b"1\n2\n")
    mark = read.input.mark()
    append(path, b"3\n")

    assert await read.numbers() == [[1], [2]]
    assert mark != Read(path).input.mark()


async def test_too_long_line_costs_little_memory_and_not_the_next_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (input_file, "trio_jobs.commands.run.records"):
        monkeypatch.setattr(f"{getattr(module, '__name__', module)}.MAX_LINE", 100)
    monkeypatch.setattr(input_file, "_BLOCK", 64)
    read = Read(path, b"1\n" + b"2" * 5_000 + b"\n3\n")

    assert await read.numbers() == [[1], [3]]
    assert read.refused == [2]


def test_input_that_cannot_be_read_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none cannot be read: No such file"):
        InputFile(str(tmp_path / "none"))
    with pytest.raises(InputError, match="is a folder"):
        InputFile(str(tmp_path))


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
