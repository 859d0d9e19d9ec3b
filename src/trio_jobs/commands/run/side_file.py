"""`SideFile`: what a run must know to go on later; it lies beside the results file.

It is there from the run's beginning until each record has succeeded.
"""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

import msgspec

from trio_jobs.commands.run.line_files import LineFileError, sync_folder


class InputMark(msgspec.Struct, frozen=True):
    """What tells an input from another one.

    Attributes:
        size: Its bytes.
        sha256: The hash of its beginning.
    """

    size: int
    sha256: str


class RunOptions(msgspec.Struct, frozen=True):
    """What must be the same when a run goes on.

    Attributes:
        type: See ``--type``.
        chunk: See ``--chunk``.
        failed: The absolute path of the failures file.
    """

    type: str | None = None
    chunk: int | None = None
    failed: str | None = None


class RunState(msgspec.Struct, frozen=True):
    """The content of the side file.

    Attributes:
        run: The run's id: the beginning of the keys of its jobs.
        input: The input that the line numbers mean.
        options: Those of the run.
        repeated: Groups of line numbers. Once more for each group with a line, the line's job is
            over without a result that counts, and the line wants a new job with a key of its own.
    """

    run: str
    input: InputMark
    options: RunOptions
    repeated: tuple[tuple[int, ...], ...] = ()


class SideFile:
    """The side file of a results file, and its content.

    Args:
        path: The side file.
        state: Its content.
    """

    def __init__(self, path: Path, state: RunState) -> None:
        self.path = path
        self.state = state

    @staticmethod
    def path_of(results: Path) -> Path:
        """Where the side file of a results file is."""
        return results.with_name(f"{results.name}.run")

    @classmethod
    def create(cls, path: Path, input_: InputMark, options: RunOptions) -> "SideFile":
        """Write the side file of a new run.

        Raises:
            LineFileError: It cannot be written.
        """
        side = cls(path, RunState(new_run_id(), input_, options))
        side._write()
        return side

    @classmethod
    def read(cls, path: Path, input_: InputMark, options: RunOptions) -> "SideFile":
        """Read the side file of a run that goes on with this input and these options.

        Raises:
            LineFileError: There is none, or it is no side file; or the input or an option differs.
        """
        try:
            state = msgspec.json.decode(path.read_bytes(), type=RunState)
        except FileNotFoundError:
            raise LineFileError(
                f"{path} is not there: the run has ended with each record done, or the results are"
                " not those of a run"
            ) from None
        except OSError as error:
            raise LineFileError(f"{path} cannot be read: {error.strerror}") from None
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise LineFileError(f"{path} cannot be read: {error}") from None
        if state.input != input_:
            raise LineFileError(
                f"the input is another one: {path} tells of one with {state.input.size} bytes, and"
                f" this one has {input_.size}"
                + ("" if state.input.size != input_.size else " and begins otherwise")
            )
        for name in options.__struct_fields__:
            before, now = getattr(state.options, name), getattr(options, name)
            if before != now:
                began = f"began with --{name} {before}" if before else f"began without --{name}"
                raise LineFileError(f"the run {began}: it must go on so")
        return cls(path, state)

    def note_repeats(self, numbers: Iterable[int]) -> None:
        """Note that the jobs of these lines are over, and that the lines want new ones.

        Raises:
            LineFileError: It cannot be written.
        """
        group = tuple(numbers)
        if group:
            repeated = (*self.state.repeated, group)
            self.state = msgspec.structs.replace(self.state, repeated=repeated)
            self._write()

    def remove(self) -> None:
        """Remove it: nothing is left to do."""
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        # Another file first: the process may end at any time.
        new = self.path.with_name(f"{self.path.name}.new")
        try:
            with new.open("wb") as file:
                file.write(msgspec.json.encode(self.state) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            new.rename(self.path)
            sync_folder(self.path)
        except OSError as error:
            raise LineFileError(f"{self.path} cannot be written: {error.strerror}") from None


def new_run_id() -> str:
    """An id for a run: the beginning of its keys."""
    return secrets.token_hex(6)
