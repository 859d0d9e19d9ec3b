"""The side file: what a run must know to go on, and what it refuses."""

from pathlib import Path

import msgspec
import pytest

from trio_jobs.commands.run.line_files import LineFileError
from trio_jobs.commands.run.side_file import InputMark, RunOptions, SideFile

MARK = InputMark(size=100, sha256="ab")
OPTIONS = RunOptions(type="resize", chunk=10, failed="/failed.jsonl")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return SideFile.path_of(tmp_path / "results.jsonl")


def test_run_goes_on_with_its_id_and_its_repetitions(path: Path) -> None:
    side = SideFile.create(path, MARK, OPTIONS)
    side.note_repeats([3, 1])
    side.note_repeats([])
    side.note_repeats(iter([3]))

    again = SideFile.read(path, MARK, OPTIONS)

    assert path.name == "results.jsonl.run"
    assert again.state == side.state
    assert again.state.repeated == ((3, 1), (3,))
    assert list(path.parent.iterdir()) == [path]


def test_two_runs_have_different_ids(path: Path) -> None:
    first = SideFile.create(path, MARK, OPTIONS).state.run

    assert SideFile.create(path, MARK, OPTIONS).state.run != first


@pytest.mark.parametrize(
    ("mark", "options", "complaint"),
    [
        (InputMark(101, "ab"), OPTIONS, "tells of one with 100 bytes, and this one has 101"),
        (InputMark(100, "ac"), OPTIONS, "this one has 100 and begins otherwise"),
        (MARK, msgspec.structs.replace(OPTIONS, type="mail"), "began with --type resize"),
        (MARK, msgspec.structs.replace(OPTIONS, type=None), "began with --type resize"),
        (MARK, msgspec.structs.replace(OPTIONS, chunk=11), "began with --chunk 10"),
        (MARK, msgspec.structs.replace(OPTIONS, failed=None), "began with --failed /failed"),
    ],
)
def test_another_input_or_option_is_refused(
    path: Path, mark: InputMark, options: RunOptions, complaint: str
) -> None:
    SideFile.create(path, MARK, OPTIONS)

    with pytest.raises(LineFileError, match=complaint):
        SideFile.read(path, mark, options)


def test_option_that_the_run_began_without_is_refused(path: Path) -> None:
    SideFile.create(path, MARK, RunOptions())

    with pytest.raises(LineFileError, match="began without --type"):
        SideFile.read(path, MARK, OPTIONS)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff", b"[1]"])
def test_broken_side_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    with pytest.raises(LineFileError, match=r"results\.jsonl\.run cannot be read"):
        SideFile.read(path, MARK, OPTIONS)


def test_missing_or_unwritable_side_file_is_told_of(path: Path) -> None:
    with pytest.raises(LineFileError, match="is not there"):
        SideFile.read(path, MARK, OPTIONS)
    with pytest.raises(LineFileError, match="cannot be written"):
        SideFile.create(path / "below", MARK, OPTIONS)
    SideFile.create(path, MARK, OPTIONS).remove()
    assert not path.exists()
