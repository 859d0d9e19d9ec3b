"""The files of a run that goes on: what counts as done, at each place where a process may die."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from trio_jobs.commands.run.line_files import LineFileError
from trio_jobs.commands.run.run_files import RunFiles, create_files, resume_files
from trio_jobs.commands.run.side_file import InputMark, RunOptions

MARK = InputMark(size=1_000, sha256="ab")
OPTIONS = RunOptions(type="t")


def line(number: int, outcome: str = "succeeded") -> bytes:
    return json.dumps({"line": number, "outcome": outcome}).encode() + b"\n"


class Folder:
    """A run's files in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.out = path / "out"
        self.failed = path / "failed"

    def begin(self, out: bytes = b"", failed: bytes = b"") -> str:
        """A run that has ended with these contents of its files; its id."""
        files = create_files(self.out, self.failed, MARK, OPTIONS)
        files.close()
        self.out.write_bytes(out)
        self.failed.write_bytes(failed)
        return files.run_id

    def resume(self, *, retry_failed: bool = False) -> RunFiles:
        return resume_files(self.out, self.failed, MARK, OPTIONS, retry_failed=retry_failed)

    def numbers(self, path: Path) -> list[int]:
        return [json.loads(each)["line"] for each in path.read_bytes().splitlines()]

    def close_all(self) -> None:
        for each in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                if each.readlink().parent == self.path:
                    os.close(int(each.name))

    def side(self) -> Any:  # noqa: ANN401
        return json.loads((self.path / "out.run").read_bytes())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_results_say_what_is_done(folder: Folder) -> None:
    run_id = folder.begin(line(3) + line(1, "failed") + b'{"line":2,"outcome":"succ', line(1, "x"))

    files = folder.resume()

    assert [files.done.is_done(number) for number in (1, 2, 3, 4)] == [True, False, True, False]
    assert (files.done.failed, files.run_id, files.lost_failures) == (1, run_id, 0)
    assert folder.numbers(folder.out) == [3, 1]
    files.close()


def test_failures_that_the_results_lack_are_dropped(folder: Folder) -> None:
    failed = line(5, "failed") + line(1, "failed") + line(3, "failed") + line(1, "failed")
    folder.begin(line(1, "failed") + line(3), failed + b'{"line":7')

    folder.resume().close()

    assert folder.numbers(folder.failed) == [1]


def test_failures_that_only_the_results_have_are_counted(folder: Folder) -> None:
    folder.begin(line(1, "failed") + line(2, "timed_out"), line(1, "failed"))

    files = folder.resume()

    assert files.lost_failures == 1
    files.close()
    folder.failed.unlink()
    assert folder.resume().lost_failures == 2


def test_failed_lines_are_tried_again_with_other_keys(folder: Folder) -> None:
    folder.begin(line(1, "failed") + line(2) + line(3, "refused"), line(1, "x") + line(3, "x"))

    files = folder.resume(retry_failed=True)

    assert [files.done.is_done(number) for number in (1, 2, 3)] == [False, True, False]
    assert [files.done.repeats(number) for number in (1, 2, 3)] == [1, 0, 1]
    assert folder.numbers(folder.out) == [2]
    assert folder.numbers(folder.failed) == []
    assert folder.side()["repeated"] == [[1, 3]]
    files.close()
    files = folder.resume(retry_failed=True)  # nothing has failed since
    assert folder.side()["repeated"] == [[1, 3]]
    assert files.done.repeats(1) == 1
    files.close()


@pytest.mark.parametrize("place", ["side", "results", "failures"])
def test_retry_that_dies_loses_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder.begin(line(1, "failed") + line(2), line(1, "failed"))
    step = {
        "side": "trio_jobs.commands.run.line_files.LineFile.keep_only",
        "results": "trio_jobs.commands.run.run_files._reopen_failures",
        "failures": "trio_jobs.commands.run.run_files.RunFiles.__init__",
    }[place]
    with monkeypatch.context() as patches:
        patches.setattr(step, lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            folder.resume(retry_failed=True)
    folder.close_all()  # as the end of the process does

    files = folder.resume(retry_failed=True)

    assert [files.done.is_done(1), files.done.is_done(2)] == [False, True]
    assert files.done.repeats(1) >= 1
    assert (folder.numbers(folder.out), folder.numbers(folder.failed)) == ([2], [])
    files.close()


@pytest.mark.parametrize("name", ["out", "failed"])
def test_new_run_refuses_files_that_are_there_and_makes_none(folder: Folder, name: str) -> None:
    (folder.path / name).write_bytes(b"precious")

    with pytest.raises(LineFileError, match=f"{name} exists already"):
        create_files(folder.out, folder.failed, MARK, OPTIONS)

    assert [path.name for path in folder.path.iterdir()] == [name]


def test_run_without_files_begins_when_it_should_go_on(folder: Folder) -> None:
    files = folder.resume()
    files.close()

    assert files.done.number == 0
    assert folder.side()["run"] == files.run_id


def test_run_that_died_before_its_side_file_begins_anew(folder: Folder) -> None:
    folder.out.touch()

    files = folder.resume()
    files.close()

    assert folder.side()["run"] == files.run_id


@pytest.mark.parametrize("content", [b"my notes", line(1) + b"torn"])
def test_results_without_a_side_file_stay_as_they_are(folder: Folder, content: bytes) -> None:
    folder.out.write_bytes(content)

    with pytest.raises(LineFileError, match=r"out\.run is not there"):
        folder.resume()

    assert folder.out.read_bytes() == content
    assert list(folder.path.iterdir()) == [folder.out]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (line(1) + b"my notes\n", "out, line 2: JSON is malformed"),
        (b'{"line":7}\n', "out, line 1: Object missing required field `outcome`"),
        (line(0), "out, line 1: the input has no line 0"),
        (line(10**15), "out, line 1: the input has no line 1000000000000000"),
    ],
)
def test_results_of_something_else_are_refused(
    folder: Folder, content: bytes, complaint: str
) -> None:
    folder.begin(content)

    with pytest.raises(LineFileError, match=complaint):
        folder.resume()


def test_side_file_goes_when_all_have_succeeded_and_stays_for_failures(folder: Folder) -> None:
    folder.begin(line(1) + line(2, "failed"))
    files = folder.resume()
    files.end()
    assert folder.side()
    files.close()

    files = folder.resume(retry_failed=True)
    files.end()
    files.close()
    assert sorted(path.name for path in folder.path.iterdir()) == ["failed", "out"]


def test_second_run_is_refused_while_the_first_one_goes_on(folder: Folder) -> None:
    files = create_files(folder.out, folder.failed, MARK, OPTIONS)

    with pytest.raises(LineFileError, match="another run writes to"):
        folder.resume()

    files.close()
    folder.resume().close()
