"""Finding a handler's function by its name, `"package.module:function"`."""

import _thread
import errno
import functools
import importlib
import inspect
import mmap
import os
import sys
import traceback
from contextvars import ContextVar
from types import FunctionType, MethodType

from trio_jobs.error_text import describe, readable

_MAX_TEXT = 500

# The attributes in which decorators and Python's partial methods keep the function below them.
_LAYERS = ("__wrapped__", "func", "__partialmethod__", "_partialmethod")
_MAX_LAYERS = 100

# Errors that say that the system has run out of something.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

# More than the import of most modules needs at a time.
_PROBED_PIPES = 4
_PROBED_BYTES = 64 * 1024 * 1024

# True while a child process imports functions: no module may start a process pool then.
imports_in_child: ContextVar[bool] = ContextVar("imports_in_child", default=False)


class HandlerError(Exception):
    """A function that cannot be a handler; the text says why."""


def load_function(reference: str) -> object:
    """Import the module of ``"package.module:qualified.name"``, and get the function.

    Raises:
        HandlerError: There is no such module, the module raises, it has no such attribute, or the
            attribute is a method without its instance; the text, of one line, says which.
    """
    module_name, _, qualified_name = reference.partition(":")
    try:
        found: object = importlib.import_module(module_name)
    except BaseException as error:  # noqa: ASYNC103 - a module may raise anything, even an exit
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            package, _, _ = missing.rpartition(".")
            text = f"no module named {missing!r}" + (f" in {_file_of(package)}" if package else "")
            if module_name.endswith(".py"):
                text += f"; without the .py it is '{module_name[:-3]}:{qualified_name}'"
            if closed := _closed_folder():
                text += f"; Python finds nothing in {closed!r}, which this user may not list"
        else:
            text = f"module {module_name!r} could not be imported: {one_line(error)}"
        raise HandlerError(text) from error  # noqa: ASYNC104 - there is no event loop yet
    for name in qualified_name.split("."):
        holder = found
        try:
            found = getattr(holder, name)
        except AttributeError as error:
            raise HandlerError(
                f"module {module_name!r} ({_file_of(module_name)}) has no {qualified_name!r}"
            ) from error
        except BaseException as error:  # noqa: ASYNC103 - a module may have a `__getattr__`
            raise HandlerError(  # noqa: ASYNC104 - as above
                f"module {module_name!r} could not give {qualified_name!r}: {one_line(error)}"
            ) from error
    refuse_method(holder, name, found)
    return found


def refuse_method(holder: object, name: str, function: object) -> None:
    """Refuse a function that was found through its class: the payload would become its ``self``.

    Raises:
        HandlerError: The function was found through its class.
    """
    if not inspect.isclass(holder):
        return
    kept = inspect.getattr_static(holder, name, None)
    method = innermost(kept)
    # An attribute without `__get__` (a static method's function) takes no instance.
    if (
        isinstance(method, FunctionType)
        and hasattr(type(kept), "__get__")
        and innermost(function) is method
    ):
        raise method_error(holder.__qualname__)


def innermost(function: object) -> object:
    """The function below decorators and partials; stops at a layer that gives the instance."""
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
    except Exception:  # noqa: BLE001 - it has no attributes, or runs the user's code for them
        return None
    for name in _LAYERS:
        below = own.get(name)
        if callable(below) or isinstance(below, functools.partialmethod):
            return below
    return None


def method_error(class_name: str) -> HandlerError:
    """The refusal of a method without its instance."""
    return HandlerError(
        f"is a method of class {class_name}: name one of an instance, or make it a staticmethod"
    )


def own_name(function: object) -> str:
    """The name under which a function was defined, or the class of another object."""
    named = function if hasattr(function, "__qualname__") else type(function)
    module = getattr(named, "__module__", None) or "builtins"  # methods written in C have none
    return f"{module}:{named.__qualname__}"


def importable_name(function: object) -> str:
    """A function's own name, by which a child process imports it.

    Raises:
        HandlerError: The name leads to nothing or to another object: a lambda, a nested function,
            a function that a decorator has replaced. Or its program has no file: it came from
            standard input, or from a notebook.
    """
    name = own_name(function)
    if imports_in_child.get():  # the module is not yet complete, and the server has checked it
        return name
    if name.startswith("__main__:") and not _has_program_file():
        raise _not_found("its program has no file")
    try:
        found = load_function(name)
    except HandlerError as error:
        why = f"{name!r} needs its instance" if isinstance(function, MethodType) else error
        raise _not_found(why) from error
    if found != function:  # not `is`: each access makes a new method object
        raise _not_found(f"{name!r} is something else")
    return name


def _not_found(why: object) -> HandlerError:
    return HandlerError(
        f"cannot be found again by a process: {why}; give a function that a module defines"
    )


def _has_program_file() -> bool:
    main = sys.modules["__main__"]
    if getattr(main, "__spec__", None) is not None:
        return True
    file = getattr(main, "__file__", None)  # "<stdin>", for example
    return file is not None and os.path.isfile(file)  # noqa: PTH113 - False for any text


def one_line(error: BaseException) -> str:
    """An exception of user code, and its place, in one line of bounded length."""
    described = describe(error)
    # Frames of the import machinery say nothing. A syntax error has no frame of its own.
    frames = traceback.extract_tb(error.__traceback__)
    locations = [
        (frame.filename, frame.lineno)
        for frame in frames
        if not frame.filename.startswith((importlib.__file__, "<frozen importlib"))
    ]
    if isinstance(error, SyntaxError) and error.filename:
        locations.append((error.filename, error.lineno))
    text = readable(" ".join(f"{described.type}: {described.message}".split()), _MAX_TEXT)
    return f"{text} ({locations[-1][0]}:{locations[-1][1]})" if locations else text


def find_shortage(error: BaseException) -> str | None:
    """The resource whose lack made an import fail; None if the module itself is at fault."""
    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            break
        if (
            isinstance(cause, MemoryError)
            or (isinstance(cause, OSError) and cause.errno in _EXHAUSTED)
            or (isinstance(cause, RuntimeError) and "start new thread" in str(cause))
        ):
            return one_line(cause)
        cause = cause.__cause__ or cause.__context__
    return one_line(error) if _is_exhausted() else None


def _is_exhausted() -> bool:
    """Whether this process cannot have the resources that an import may need.

    The error does not always tell: errors of the dynamic linker have no ``errno``, and EAGAIN
    means that a process cannot be started, or that a file is locked.
    """
    pipes: list[int] = []
    try:
        for _ in range(_PROBED_PIPES):
            pipes += os.pipe()
        mmap.mmap(-1, _PROBED_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        _thread.start_new_thread(int, ())
    except (OSError, MemoryError, RuntimeError):
        return True
    finally:
        for number in pipes:
            os.close(number)
    return False


def _closed_folder() -> str | None:
    """A folder of Python's path that the process's user may not list; None if there is none."""
    for folder in sys.path:
        try:
            os.scandir(folder or os.curdir).close()
        except PermissionError:
            return folder or os.curdir
        except OSError:  # a zip file, or nothing
            continue
    return None


def _file_of(module_name: str) -> str:
    """The file of a module, for messages: several folders may have a module of this name."""
    module = sys.modules.get(module_name)
    spec = getattr(module, "__spec__", None)
    return str(getattr(module, "__file__", None) or getattr(spec, "origin", None) or "no file")
