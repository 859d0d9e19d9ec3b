"""Finding a handler's function by its name, `"package.module:function"`."""

import importlib
import traceback


class HandlerError(Exception):
    """A function that cannot be a handler; the text says why."""


def load_function(reference: str) -> object:
    """Import what ``"package.module:qualified.name"`` names; runs the module.

    Raises:
        HandlerError: There is no such module, the module raised while it was
            imported, or it has no such attribute: three different texts.
    """
    module_name, _, qualified_name = reference.partition(":")
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise HandlerError(f"no module named {error.name!r}") from error
        raise _import_failed(module_name, error) from error
    except (Exception, SystemExit) as error:
        raise _import_failed(module_name, error) from error
    for name in qualified_name.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise HandlerError(f"module {module_name!r} has no {qualified_name!r}") from error
    return found


def own_name(function: object) -> str:
    """What a function is called where it was defined; an object goes by its class."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def find_again(function: object) -> str:
    """The own name of a function, by which a child process finds it again.

    Raises:
        HandlerError: It cannot be found by it, like a lambda, a nested
            function, or one that a decorator has replaced.
    """
    name = own_name(function)
    try:
        found = load_function(name)
    except HandlerError as error:
        raise HandlerError(f"cannot be found again by a process: {error}") from error
    if found != function:  # not by identity: a method is made anew each time
        raise HandlerError(f"cannot be found again by a process: {name!r} is something else")
    return name


def _import_failed(module_name: str, error: BaseException) -> HandlerError:
    text = traceback.format_exception_only(error)[-1].strip()
    place = traceback.extract_tb(error.__traceback__)[-1]
    return HandlerError(
        f"module {module_name!r} could not be imported: {text} ({place.filename}:{place.lineno})"
    )
