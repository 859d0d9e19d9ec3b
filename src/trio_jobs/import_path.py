"""The position of a user's folder on `sys.path`: behind the standard library.

Imports only modules that Python itself has imported: `python -m trio_jobs` runs this while the
current folder is first on the path, so any other import may load a file of that folder.
"""

import os
import sys

# The standard library in a zip file: on each `sys.path`, even if the file does not exist.
_ZIP = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"


def place_folder(folder: str) -> None:
    """Put a folder behind the standard library and before the installed packages.

    In front, its file ``queue.py`` would replace the standard library's module for every library.
    An entry for the folder further in front is removed.
    """
    _take_off(folder)
    sys.path.insert(_end_of_library(), folder)


def take_first_folder() -> str | None:
    """Take the first folder off `sys.path`, and return it for a later ``place_folder``.

    Call that after the server's imports: its position is in front of the installed packages, so its
    files would replace them. A folder that contains this package contains those packages too: it is
    placed at once, and None is returned.
    """
    folder = sys.path[0]
    if _is_same(os.path.dirname(os.path.dirname(__file__)), folder):  # noqa: PTH120  (see above)
        place_folder(folder)
        return None
    _take_off(folder)
    return folder


def library_path() -> list[str]:
    """The entries of `sys.path` that hold the standard library."""
    return [path for path in sys.path if _is_library(path)]


def _take_off(folder: str) -> None:
    end = _end_of_library()
    sys.path[:end] = [
        path for path in sys.path[:end] if _is_library(path) or not _is_same(path, folder)
    ]


def _end_of_library() -> int:
    # PYTHONPATH may repeat these entries; `index` finds the first of equal ones, which counts.
    return max((1 + sys.path.index(path) for path in library_path()), default=0)


def _is_library(path: str) -> bool:
    library = os.path.dirname(os.__file__)  # noqa: PTH120  (see above)
    return path == library or os.path.basename(path) in {"lib-dynload", _ZIP}  # noqa: PTH119


def _is_same(path: str, folder: str) -> bool:
    try:
        return os.path.samefile(path or os.curdir, folder)  # noqa: PTH121
    except OSError:  # one of them does not exist
        return path == folder
