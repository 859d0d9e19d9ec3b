"""`RunFiles`: the files of a run, opened for a new run or for one that goes on."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from trio_jobs.commands.run.done_lines import DoneLines
from trio_jobs.commands.run.line_files import LineFile, LineFileError, LineStream
from trio_jobs.commands.run.side_file import InputMark, RunOptions, SideFile, new_run_id


class _Head(msgspec.Struct, gc=False):
    line: int
    outcome: str


_decode_head = msgspec.json.Decoder(_Head).decode


@dataclass(kw_only=True)
class RunFiles:
    """What a run writes.

    Attributes:
        done: The lines of the input that have their results.
        results: Where results go.
        failures: Where failures go, too; None for nowhere else.
        side: The side file; None if the run cannot go on later.
        run_id: The beginning of the keys.
        lost_failures: How many failures are in the results, and not in the failures file.
    """

    done: DoneLines
    results: LineFile | LineStream
    failures: LineFile | None = None
    side: SideFile | None = None
    run_id: str
    lost_failures: int = 0

    def close(self) -> None:
        """Have all on the disk.

        Raises:
            OSError: The disk has failed.
        """
        if self.failures is not None:
            self.failures.close()
        self.results.close()

    def end(self) -> None:
        """Remove the side file, unless records have failed: they may be run again with it."""
        if self.side is not None and not self.done.failed:
            self.side.remove()


def open_stream(fd: int, failed: Path | None) -> RunFiles:
    """The files of a run whose results go to a descriptor.

    Raises:
        LineFileError: The failures file cannot be made.
    """
    failures = None if failed is None else LineFile.create(failed)
    return RunFiles(
        done=DoneLines(), results=LineStream(fd), failures=failures, run_id=new_run_id()
    )


def create_files(
    out: Path, failed: Path | None, mark: InputMark | None, options: RunOptions
) -> RunFiles:
    """The files of a new run.

    Args:
        out: The results.
        failed: The failures; None for no such file.
        mark: That of the input; None if it cannot be read again: then there is no side file.
        options: Those that the run must go on with.

    Raises:
        LineFileError: A file is there already, or cannot be made.
    """
    for path in filter(None, (out, failed)):
        if os.path.lexists(path):
            raise LineFileError(f"{path} exists already: --resume goes on with it")
    results = LineFile.create(out)
    side = None if mark is None else SideFile.create(SideFile.path_of(out), mark, options)
    failures = None if failed is None else LineFile.create(failed)
    run_id = new_run_id() if side is None else side.state.run
    return RunFiles(done=DoneLines(), results=results, failures=failures, side=side, run_id=run_id)


def resume_files(
    out: Path,
    failed: Path | None,
    mark: InputMark,
    options: RunOptions,
    *,
    retry_failed: bool,
) -> RunFiles:
    """The files of a run that goes on; of a new one, if there are none.

    Args:
        out: The results.
        failed: The failures; None for no such file.
        mark: That of the input.
        options: Those that the run began with.
        retry_failed: Whether the records that have failed count as not done.

    Raises:
        LineFileError: A file cannot be used; or the input or an option is another one.
    """
    side_path = SideFile.path_of(out)
    if not os.path.lexists(out):
        return create_files(out, failed, mark, options)
    # The side file comes first: without it the results may be any file, and stay untouched.
    if not side_path.exists() and out.is_file() and out.stat().st_size == 0:
        side = SideFile.create(side_path, mark, options)  # the run ended as it began
    else:
        side = SideFile.read(side_path, mark, options)
    done = DoneLines()
    results = LineFile.reopen(out, _marker(done, most=mark.size + 1))
    for group in side.state.repeated:
        done.repeat(group)
    if retry_failed and done.failed:
        again = list(done.failures())
        side.note_repeats(again)
        done.repeat(again)
        done.forget_failures()
        results.keep_only(lambda line: _decode_head(line).outcome == "succeeded")
    failures, lost = (None, 0) if failed is None else _reopen_failures(failed, done)
    return RunFiles(
        done=done,
        results=results,
        failures=failures,
        side=side,
        run_id=side.state.run,
        lost_failures=lost,
    )


def _reopen_failures(path: Path, done: DoneLines) -> tuple[LineFile, int]:
    """The failures file, with the failures that are in the results, and how many it lacks.

    A failure is written there first, so it may be there without being in the results: then its
    record runs again.
    """
    if not os.path.lexists(path):
        return LineFile.create(path), done.failed
    found = DoneLines()
    surplus = 0

    def take(line: bytes) -> None:
        nonlocal surplus
        number = _decode_head(line).line
        if done.has_failed(number) and not found.is_done(number):
            found.mark(number, failed=True)
        else:
            surplus += 1

    failures = LineFile.reopen(path, take)
    if surplus:
        kept = DoneLines()

        def is_wanted(line: bytes) -> bool:
            number = _decode_head(line).line
            if kept.is_done(number) or not done.has_failed(number):
                return False
            kept.mark(number, failed=True)
            return True

        failures.keep_only(is_wanted)
    return failures, done.failed - found.failed


def _marker(done: DoneLines, *, most: int) -> Callable[[bytes], None]:
    """Marks the line that a result is for.

    Args:
        done: Where it is marked.
        most: The greatest number that a line of the input can have.
    """

    def mark(line: bytes) -> None:
        head = _decode_head(line)
        if not 1 <= head.line <= most:
            raise ValueError(f"the input has no line {head.line}")
        done.mark(head.line, failed=head.outcome != "succeeded")

    return mark
