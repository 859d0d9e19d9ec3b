"""The files that modules were loaded from, as they are: two processes compare what they run."""

import os
import sys
from collections.abc import Iterable, Mapping

from trio_jobs.handlers.frames import FileState


def loaded_files() -> dict[str, FileState]:
    """The files of all loaded modules, by name, but for the standard library's."""
    states = {}
    for name, module in [*sys.modules.items()]:
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] not in sys.stdlib_module_names and isinstance(file, str):
            state = file_state(file)
            if state is not None:  # in a zip file, or made up
                states[name] = state
    return states


def file_state(file: str) -> FileState | None:
    """A file as it is; None if there is none."""
    try:
        status = os.stat(file)  # noqa: PTH116  (some hundreds of them)
    except (OSError, ValueError):
        return None
    return FileState(file, status.st_mtime_ns, status.st_size)


def changed_files(noted: Mapping[str, FileState]) -> list[str]:
    """The files of loaded modules that differ from those of the same modules noted before."""
    here = loaded_files()
    return sorted({state.file for name, state in here.items() if noted.get(name, state) != state})


def still_changed(noted: Iterable[FileState]) -> bool:
    """Whether any of the files differs from what was noted."""
    return any(file_state(state.file) != state for state in noted)
