"""`resolve`: the type that the annotation of a handler's parameter stands for."""

import inspect
import sys
import typing
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeAlias

# Classes, unions, Annotated, ...: no type covers all annotations.
Annotation: TypeAlias = Any


def resolve(function: Callable[..., object], annotation: object) -> Annotation:
    """The type that an annotation stands for; raises any error of the annotation's text."""
    # Each annotation by itself: another one may name a class that only type checkers import.
    holder = SimpleNamespace(__annotations__={"parameter": annotation})
    return typing.get_type_hints(holder, _namespace(function), include_extras=True)["parameter"]


def _namespace(function: Callable[..., object]) -> dict[str, Any]:
    """The globals of the module in which a function's annotations were written."""
    while not hasattr(function := inspect.unwrap(function), "__globals__"):
        if hasattr(function, "func"):  # a partial
            function = function.func
        elif inspect.ismethod(method := getattr(function, "__call__", None)):  # noqa: B004
            function = method.__func__
        else:
            return vars(sys.modules[function.__module__])
    namespace: dict[str, Any] = function.__globals__
    return namespace
