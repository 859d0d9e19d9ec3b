"""Finding an exception by its name: ``"OSError"``, ``"package.module.Class"``."""

import builtins
import importlib
import pkgutil
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from types import ModuleType

from trio_jobs.handlers.importing import HandlerError, one_line

# How alike two names must be for a hint, from 0 to 1.
_ALIKE = 0.7


def load_exception(name: str, *, module: str) -> type[BaseException]:
    """Import the module in an exception's name, and get the class.

    Args:
        name: The name of an exception of Python; or the name of a module, a dot and the qualified
            name of a class in it.
        module: The module of the handler; a refusal may name an exception in it.

    Raises:
        HandlerError: There is no such class, it is no exception, or the module raises; the text, of
            one line, names the nearest exception or module.
    """
    name = unicodedata.normalize("NFKC", name)  # as Python does with each name in a program
    if "." in name:
        found = _find(name)
    else:
        found = getattr(builtins, name, None)
        if found is None:
            known = {each: each for each in _names_in(builtins) if _is_exception(builtins, each)}
            if (own := sys.modules.get(module)) is not None:
                own_names = [each for each in _names_in(own) if _is_exception(own, each)]
                known = {each: f"{module}.{each}" for each in own_names} | known
            raise HandlerError(f"Python has no exception {name!r}{_nearest(name, known)}")
    if not isinstance(found, type) or not issubclass(found, BaseException):
        raise HandlerError(f"{name!r} is no class of exceptions")
    return found


def _find(name: str) -> object:
    module = _import_module(name)
    found: object = module
    path = module.__name__
    for part in name[len(path) + 1 :].split("."):
        holder, holder_path, path = found, path, f"{path}.{part}"
        try:
            found = getattr(holder, part)
        except AttributeError as error:
            known = {each: f"{holder_path}.{each}" for each in _names_in(holder)}
            raise HandlerError(f"there is no {path!r}{_nearest(part, known)}") from error
        except BaseException as error:  # noqa: ASYNC103 - a module may have a `__getattr__`
            raise HandlerError(  # noqa: ASYNC104 - there is no event loop yet
                f"{path!r} could not be found: {one_line(error)}"
            ) from error
    return found


def _import_module(name: str) -> ModuleType:
    """Import the module that begins a name: its longest part that is one."""
    module = name
    while "." in module:
        module = module.rpartition(".")[0]
        try:
            importlib.import_module(module)
            return sys.modules[module]
        except BaseException as error:  # noqa: ASYNC103 - a module may raise anything
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing is None or not f"{module}.".startswith(f"{missing}."):
                raise HandlerError(  # noqa: ASYNC104 - there is no event loop yet
                    f"module {module!r} could not be imported: {one_line(error)}"
                ) from error
    loaded = {each for each in sys.modules if "." not in each}
    known = {each: each for each in loaded.union(each.name for each in pkgutil.iter_modules())}
    raise HandlerError(f"there is no module {module!r}{_nearest(module, known)}")


def _names_in(holder: object) -> Iterable[str]:
    """The names of classes and modules, and those that a module makes when it is asked for them."""
    names: list[str] = []
    with suppress(BaseException):  # a module's `__dir__`
        known = vars(holder)
        names = [
            each for each in dir(holder) if isinstance(known.get(each, int), type | ModuleType)
        ]
    return [each for each in names if isinstance(each, str) and not each.startswith("_")]


def _is_exception(holder: object, name: str) -> bool:
    found = vars(holder).get(name)
    return isinstance(found, type) and issubclass(found, BaseException)


def _nearest(name: str, known: Mapping[str, str]) -> str:
    """The end of a refusal: the known name that this one resembles.

    Args:
        name: What the user wrote.
        known: The names to show, by the names to compare with.
    """
    alike = {each.lower(): shown for each, shown in known.items()}
    near = get_close_matches(name.lower(), alike, n=1, cutoff=_ALIKE)
    return f", the nearest is {alike[near[0]]!r}" if near else ""
