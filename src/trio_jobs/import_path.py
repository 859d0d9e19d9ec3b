"""Where a folder of the user's stands on `sys.path`: behind the standard library.

Imports nothing that Python has not imported by itself: `python -m trio_jobs` gets here while the
current folder is first on the path.
"""

import os
import sys

# The standard library in a zip file, which is on every path, whether it exists or not.
_ZIP = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"


def place_folder(folder: str) -> None:
    """Put a folder behind the standard library and before the installed packages.

    In front, a file ``queue.py`` there would be what every library gets for the
    standard library's module. An entry for it that stands further in front is
    removed.
    """
    _take_off(folder)
    sys.path.insert(_end_of_library(), folder)


def take_first_folder() -> str | None:
    """Take the first folder off `sys.path`, for ``place_folder`` once all libraries are imported.

    Behind the standard library it is still in front of them. None if this package itself is in it,
    and its libraries with it: then it is placed at once.
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
    # The first of equal entries is the one that counts: PYTHONPATH may repeat them all.
    return max((1 + sys.path.index(path) for path in library_path()), default=0)


def _is_library(path: str) -> bool:
    library = os.path.dirname(os.__file__)  # noqa: PTH120  (see above)
    return path == library or os.path.basename(path) in {"lib-dynload", _ZIP}  # noqa: PTH119


def _is_same(path: str, folder: str) -> bool:
    try:
        return os.path.samefile(path or os.curdir, folder)  # noqa: PTH121
    except OSError:  # it does not exist
        return path == folder
