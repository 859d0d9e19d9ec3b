"""The files that modules were loaded from, as they are: two processes compare what they run."""

import hashlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from trio_jobs.handlers.frames import FileState

# Files that have been written since then may have been written by the modules themselves, as they
# are imported; each process writes them anew, and their times say nothing. A second for clocks of
# file systems, which are coarse.
_STARTED_NS = time.time_ns() - 1_000_000_000


def loaded_files() -> dict[str, FileState]:
    """The files of all loaded modules, by name, but for the standard library's."""
    states = {}
    for name, file in _loaded():
        state = _state(file)
        if state is not None:  # in a zip file, or made up
            states[name] = state
    return states


def changed_files(noted: Mapping[str, FileState], *, loaded_only: bool) -> list[str]:
    """The files of modules that differ from those that were noted, or are gone.

    Args:
        noted: Of another process, by the modules' names.
        loaded_only: Whether the modules that are not loaded here do not matter.
    """
    here = dict(_loaded())
    found = set()
    for name, state in noted.items():
        file = here.get(name, None if loaded_only else state.file)
        if file is not None and (file != state.file or not _is_as_noted(state)):
            found.add(file)
    return sorted(found)


def still_changed(noted: Iterable[FileState]) -> bool:
    """Whether any of the files differs from what was noted."""
    return not all(map(_is_as_noted, noted))


def _loaded() -> Iterator[tuple[str, str]]:
    for name, module in [*sys.modules.items()]:
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] not in sys.stdlib_module_names and isinstance(file, str):
            yield name, file


def _state(file: str) -> FileState | None:
    try:
        status = os.stat(file)  # noqa: PTH116  (some hundreds of them)
        is_new = status.st_mtime_ns >= _STARTED_NS
        return FileState(
            file, status.st_mtime_ns, status.st_size, _digest(file) if is_new else None
        )
    except (OSError, ValueError):
        return None


def _is_as_noted(noted: FileState) -> bool:
    try:
        status = os.stat(noted.file)  # noqa: PTH116
        if status.st_size != noted.size:
            return False
        return status.st_mtime_ns == noted.mtime_ns or (
            noted.digest is not None and _digest(noted.file) == noted.digest
        )
    except (OSError, ValueError):
        return False


def _digest(file: str) -> str:
    return hashlib.blake2b(Path(file).read_bytes(), digest_size=16).hexdigest()
