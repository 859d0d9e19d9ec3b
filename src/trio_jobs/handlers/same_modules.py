"""A module's name means the same file in the server and in its child processes.

The server has imported its libraries before the user's folder came onto the path; a child gets the
path with the folder on it, where a file may have a library's name.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from trio_jobs.handlers.frames import FileState


class SameModules:
    """Finds each top-level module where the server has found it.

    Submodules follow their packages.

    Args:
        files: What the server has imported, by the modules' names.
    """

    def __init__(self, files: Mapping[str, FileState]) -> None:
        self._files = files

    def install(self) -> None:
        """Have imports ask this, before they look along the path."""
        # Not in front of all: other finders (an agent's, which wraps what it traces) ask the rest.
        is_there = PathFinder in sys.meta_path  # and not another one in its place
        sys.meta_path.insert(sys.meta_path.index(PathFinder) if is_there else 0, self)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG002 - Python's protocol
    ) -> ModuleSpec | None:
        """The module, if the server has imported it and it is still there."""
        state = self._files.get(fullname) if path is None else None
        return None if state is None else PathFinder.find_spec(fullname, [_entry(state.file)])


def _entry(file: str) -> str:
    """The folder on the path that has a top-level module of this file."""
    folder, name = os.path.split(file)
    return os.path.dirname(folder) if name.partition(".")[0] == "__init__" else folder  # noqa: PTH120
