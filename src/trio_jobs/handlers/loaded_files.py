"""The files of loaded modules: the server and its child processes run the same ones.

The server has imported its libraries before the user's folder came onto the path. A child gets the
path with that folder, and would import a file there that has a library's name.
"""

import hashlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from trio_jobs.handlers.frames import FileState

# When the server started. A module may write files at its import, in each process anew: of a file
# written since, the content counts and not the time. One second earlier, because file systems have
# coarse clocks.
_STARTED_NS = time.time_ns() - 1_000_000_000


def loaded_files() -> dict[str, FileState]:
    """The files of all loaded modules but the standard library's, by the modules' names."""
    states = ((name, _state(file)) for name, file in _loaded())
    return {name: state for name, state in states if state is not None}


def changed_files(noted: Mapping[str, FileState], *, loaded_only: bool) -> list[str]:
    """The files that differ from those that another process has noted, or are gone.

    Args:
        noted: The files of the other process, by the modules' names.
        loaded_only: Whether to pass over modules that are not loaded here.
    """
    here = dict(_loaded())
    found = set()
    for name, state in noted.items():
        file = here.get(name, None if loaded_only else state.file)
        if file is not None and (file != state.file or not _is_as_noted(state)):
            found.add(file)
    return sorted(found)


def still_changed(noted: Iterable[FileState]) -> bool:
    """Whether any of the files differs from its noted state."""
    return not all(map(_is_as_noted, noted))


class SameModules:
    """A finder that finds each top-level module in the file that the server has imported.

    Python finds submodules through their package.

    Args:
        files: The files that the server has imported, by the modules' names.
    """

    def __init__(self, files: Mapping[str, FileState]) -> None:
        self._files = files

    def install(self) -> None:
        """Have imports ask this finder before they search the path."""
        # Before PathFinder, not first: a monitoring agent's finder comes first and asks the others.
        is_there = PathFinder in sys.meta_path  # a program may have replaced it
        sys.meta_path.insert(sys.meta_path.index(PathFinder) if is_there else 0, self)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG002 - Python's protocol
    ) -> ModuleSpec | None:
        """The module, if the server has imported it and its file is still there."""
        state = self._files.get(fullname) if path is None else None
        if state is None:
            return None
        folder, name = os.path.split(state.file)
        is_package = name.partition(".")[0] == "__init__"
        return PathFinder.find_spec(fullname, [str(Path(folder).parent) if is_package else folder])


def _loaded() -> Iterator[tuple[str, str]]:
    for name, module in [*sys.modules.items()]:
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] not in sys.stdlib_module_names and isinstance(file, str):
            yield name, file


def _state(file: str) -> FileState | None:
    try:
        status = os.stat(file)  # noqa: PTH116 - faster, for some hundreds of files
        digest = _digest(file) if status.st_mtime_ns >= _STARTED_NS else None
    except (OSError, ValueError):
        return None  # the path leads into a zip file, or is made up
    return FileState(file, status.st_mtime_ns, status.st_size, digest)


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
