"""Files in the configuration's folder that share their name with another module.

An import finds only one of the two.
"""

import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

from trio_jobs.import_path import library_path

# The names of the program that runs.
_PROGRAMS = frozenset({"__main__", "__mp_main__"})


class HiddenModule(NamedTuple):
    """A module that another one of the same name hides."""

    name: str
    hidden: str  # its file
    by: str  # the file that is imported instead; ``built-in`` for a part of Python itself


def find_hidden_modules(folder: Path) -> Iterator[HiddenModule]:
    """The hidden files in a folder, and the standard library's modules that its files hide.

    Looks for the names of the standard library and of all imported modules, so call it before
    user code is imported.
    """
    names = sys.stdlib_module_names | {name for name in sys.modules if "." not in name}
    for name in sorted(names & _names_in(folder) - _PROGRAMS):
        here = _file_on_path(name, [str(folder)])
        imported = _imported_file(name) if here is not None else None
        if here is None or imported is None:
            continue
        if not _is_same(here, imported):
            yield HiddenModule(name, hidden=here, by=imported)
        elif name in sys.stdlib_module_names:
            # PYTHONPATH has put the folder in front, and Python imported the file at its start.
            library = _file_on_path(name, library_path())
            if library is not None and not _is_same(here, library):
                yield HiddenModule(name, hidden=library, by=here)


def _names_in(folder: Path) -> set[str]:
    """What modules in a folder may be called: one look, where a search for each name takes long."""
    try:
        return {path.name.partition(".")[0] for path in folder.iterdir()}
    except OSError:  # an import takes this for an empty folder, too
        return set()


def _file_on_path(name: str, path: list[str]) -> str | None:
    spec = PathFinder.find_spec(name, path)
    # A folder without an `__init__.py` gives way to any module: it hides none.
    return spec.origin if spec is not None and spec.has_location else None


def _imported_file(name: str) -> str | None:
    """The file that ``import`` has taken or would take."""
    module = sys.modules.get(name)
    file: str | None = getattr(module, "__file__", None)
    if file is not None:
        return file
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module that code has made, without a spec
        return None
    return spec.origin if spec is not None else None


def _is_same(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:  # `built-in`, or in a zip file
        return one == other
