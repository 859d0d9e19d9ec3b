"""Files in the configuration's folder that no import finds, as another module has their name."""

import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

from trio_jobs.import_path import library_path

# The names of whatever program runs.
_PROGRAMS = frozenset({"__main__", "__mp_main__"})


class HiddenModule(NamedTuple):
    """A module that is hidden by another one of its name.

    Attributes:
        name: The name of both.
        hidden: Its file.
        by: The file that is imported instead; ``built-in`` if it is part of Python itself.
    """

    name: str
    hidden: str
    by: str


def find_hidden_modules(folder: Path) -> Iterator[HiddenModule]:
    """The files that are hidden here, or that hide the standard library's.

    Looks for the names of the standard library and of all that has been
    imported so far, so call it before anything of the user's is imported.
    """
    names = sys.stdlib_module_names | {name for name in sys.modules if "." not in name}
    for name in sorted(names - _PROGRAMS):
        here = _file_on_path(name, [str(folder)])
        if here is None:
            continue
        imported = _imported_file(name)
        if imported is None:
            continue
        if not _is_same(here, imported):
            yield HiddenModule(name, hidden=here, by=imported)
        elif name in sys.stdlib_module_names:
            # PYTHONPATH has put the folder in front, and Python has imported it while it started.
            library = _file_on_path(name, library_path())
            if library is not None and not _is_same(here, library):
                yield HiddenModule(name, hidden=library, by=here)


def _file_on_path(name: str, path: list[str]) -> str | None:
    spec = PathFinder.find_spec(name, path)
    # A folder without an `__init__.py` gives way to any module, and is not meant as one.
    return spec.origin if spec is not None and spec.has_location else None


def _imported_file(name: str) -> str | None:
    """The file that ``import`` has taken or would take."""
    module = sys.modules.get(name)
    file: str | None = getattr(module, "__file__", None)
    if file is not None:
        return file
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module that somebody has made by hand
        return None
    return spec.origin if spec is not None else None


def _is_same(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:  # `built-in`, or in a zip file
        return one == other
