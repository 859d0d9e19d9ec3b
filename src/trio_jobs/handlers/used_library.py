"""Finds a library that an async handler uses, and that needs the other event loop.

This reads the names in the code of the handler, and of the functions of its module that it uses. A
library may be overlooked, so the result is a warning, and decides nothing.
"""

import dis
import inspect
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType

from trio_jobs.handlers.handler import Handler, Run
from trio_jobs.handlers.importing import innermost

# For each place, the libraries that need it: the beginnings of the names of their modules.
_NEED: Mapping[Run, tuple[str, ...]] = {
    Run.ASYNCIO: (
        "asyncio",
        "aiobotocore",
        "aiofiles",
        "aiohttp",
        "aiokafka",
        "aio_pika",
        "aiosmtplib",
        "aiosqlite",
        "asyncpg",
        "motor",
        "redis.asyncio",
        "sqlalchemy.ext.asyncio",
        "tortoise",
    ),
    Run.TRIO: ("trio",),
}

_OTHER = {Run.TRIO: Run.ASYNCIO, Run.ASYNCIO: Run.TRIO}

# How many functions of a handler's module are read at most.
_MAX_FUNCTIONS = 100


def find_wrong_loop(handler: Handler, function: object) -> str | None:
    """Say that an async handler uses a library that needs the other loop; None if it does not.

    Args:
        handler: The handler, on Trio or on asyncio.
        function: The handler's function.
    """
    needed = _OTHER.get(handler.run)
    if needed is None:
        return None
    for name in _modules_used(function):
        for library in _NEED[needed]:
            if f"{name}.".startswith(f"{library}."):
                here, there = ("Trio", "asyncio") if needed is Run.ASYNCIO else ("asyncio", "Trio")
                why = "" if library in ("asyncio", "trio") else f", which needs {there}"
                return f'runs on {here}, and uses {library}{why}: run = "{needed}"'
    return None


def _modules_used(function: object) -> Iterator[str]:
    """The names of the modules that the function, and others of its own module, refer to."""
    left, seen = [_function_in(function)], set[int]()
    while left and len(seen) < _MAX_FUNCTIONS:
        found = left.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        names = {*_names_in(found.__code__)}
        if {"asyncio", "run"} <= names:
            continue  # `asyncio.run` in a thread brings its own loop
        for name in sorted(names):
            used = found.__globals__.get(name)
            if isinstance(used, ModuleType):
                yield used.__name__
            elif isinstance(used, FunctionType) and used.__globals__ is found.__globals__:
                left.append(used)
            else:  # only of a class: to ask an object for an attribute may run the user's code
                yield (used if isinstance(used, FunctionType | type) else type(used)).__module__
        yield from sorted(_imports_in(found.__code__))


def _function_in(function: object) -> FunctionType | None:
    found = innermost(function)
    if isinstance(found, MethodType):
        found = found.__func__
    if not isinstance(found, FunctionType) and not inspect.isclass(found):
        found = getattr(type(found), "__call__", None)  # noqa: B004 - the method is meant
    return found if isinstance(found, FunctionType) else None


def _names_in(code: CodeType) -> Iterator[str]:
    for each in _codes_in(code):
        yield from each.co_names


def _imports_in(code: CodeType) -> Iterator[str]:
    """The names of the modules that the function itself imports."""
    for each in _codes_in(code):
        for instruction in dis.get_instructions(each):
            if instruction.opname == "IMPORT_NAME" and isinstance(instruction.argval, str):
                yield instruction.argval


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes_in(each)
