"""Finding a handler's function by its name, `"package.module:function"`."""

import functools
import importlib
import inspect
import sys
import traceback
from contextvars import ContextVar
from types import FunctionType, MethodType

from trio_jobs.error_text import describe, readable

_MAX_TEXT = 500

# By which attributes decorators, and Python's own partial methods, tell what they are around.
_LAYERS = ("__wrapped__", "func", "__partialmethod__", "_partialmethod")
_MAX_LAYERS = 100

# Whether a child process imports functions, for what must not run while it does so.
imports_in_child: ContextVar[bool] = ContextVar("imports_in_child", default=False)


class HandlerError(Exception):
    """A function that cannot be a handler; the text says why."""


def load_function(reference: str) -> object:
    """Import what ``"package.module:qualified.name"`` names; runs the module.

    Raises:
        HandlerError: There is no such module, the module raised while it was
            imported or asked for the attribute, it has no such attribute, or
            that is a method without its instance: each another text, of one line.
    """
    module_name, _, qualified_name = reference.partition(":")
    try:
        found: object = importlib.import_module(module_name)
    except BaseException as error:  # noqa: ASYNC103  (a module may raise anything, an exit for one)
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            package, _, _ = missing.rpartition(".")
            text = f"no module named {missing!r}" + (f" in {_file_of(package)}" if package else "")
            if module_name.endswith(".py"):
                text += f"; without the .py it is '{module_name[:-3]}:{qualified_name}'"
        else:
            text = f"module {module_name!r} could not be imported: {one_line(error)}"
        raise HandlerError(text) from error  # noqa: ASYNC104 - before there is an event loop
    for name in qualified_name.split("."):
        holder = found
        try:
            found = getattr(holder, name)
        except AttributeError as error:
            raise HandlerError(
                f"module {module_name!r} ({_file_of(module_name)}) has no {qualified_name!r}"
            ) from error
        except BaseException as error:  # noqa: ASYNC103  (a module may have a `__getattr__`)
            raise HandlerError(  # noqa: ASYNC104 - as above
                f"module {module_name!r} could not give {qualified_name!r}: {one_line(error)}"
            ) from error
    refuse_method(holder, name, found)
    return found


def refuse_method(holder: object, name: str, function: object) -> None:
    """Refuse a function that was found through its class: it would get the payload as ``self``.

    Raises:
        HandlerError: It was.
    """
    if not inspect.isclass(holder):
        return
    kept = inspect.getattr_static(holder, name, None)
    method = innermost(kept)
    # What has no `__get__` gets no instance from anywhere.
    if (
        isinstance(method, FunctionType)
        and hasattr(type(kept), "__get__")
        and innermost(function) is method
    ):
        raise method_error(holder.__qualname__)


def innermost(function: object) -> object:
    """What is under decorators that tell, and under partials, up to one that gives an instance."""
    for _ in range(_MAX_LAYERS):
        below = _layer_below(function)
        if below is None:
            break
        function = below
    return function


def _layer_below(function: object) -> object | None:
    if isinstance(function, staticmethod | classmethod | MethodType):
        return None
    if isinstance(function, functools.partialmethod):
        return function.func
    if isinstance(function, functools.partial):
        return None if function.args else function.func
    try:
        own = vars(function)
    except Exception:  # noqa: BLE001 - it has none, or is asked for it by the user's code
        return None
    below = (own.get(each) for each in _LAYERS)
    return next((each for each in below if callable(each) or _is_partial(each)), None)


def _is_partial(layer: object) -> bool:
    return isinstance(layer, functools.partialmethod)


def method_error(class_name: str) -> HandlerError:
    """What is said of a method without its instance."""
    return HandlerError(
        f"is a method of class {class_name}: name one of an instance, or make it a staticmethod"
    )


def _file_of(module_name: str) -> str:
    """Where a module comes from: the same name may be in several places."""
    module = sys.modules.get(module_name)
    spec = getattr(module, "__spec__", None)
    return str(getattr(module, "__file__", None) or getattr(spec, "origin", None) or "no file")


def own_name(function: object) -> str:
    """What a function is called where it was defined; an object goes by its class."""
    named = function if hasattr(function, "__qualname__") else type(function)
    module = getattr(named, "__module__", None) or "builtins"  # methods written in C have none
    return f"{module}:{named.__qualname__}"


def importable_name(function: object) -> str:
    """The own name of a function, by which a child process finds it again.

    Raises:
        HandlerError: It cannot be found by it, like a lambda, a nested
            function, or one that a decorator has replaced.
    """
    name = own_name(function)
    if imports_in_child.get():  # half of its module is there, and nothing is started from here
        return name
    try:
        found = load_function(name)
    except HandlerError as error:
        raise HandlerError(f"cannot be found again by a process: {error}") from error
    if found != function:  # not by identity: a method is made anew each time
        raise HandlerError(f"cannot be found again by a process: {name!r} is something else")
    return name


def one_line(error: BaseException) -> str:
    """What a user's code raised, and where in it, in one line of bounded length."""
    described = describe(error).error
    # The import machinery's frames say nothing, and a syntax error has none of its own.
    frames = traceback.extract_tb(error.__traceback__)
    places = [
        (frame.filename, frame.lineno)
        for frame in frames
        if not frame.filename.startswith((importlib.__file__, "<frozen importlib"))
    ]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    text = readable(" ".join(f"{described.type}: {described.message}".split()), _MAX_TEXT)
    return f"{text} ({places[-1][0]}:{places[-1][1]})" if places else text
