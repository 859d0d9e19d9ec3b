"""The parameters of a handler: which ones the payload is for, and which one gets the job's context.

The number of the payload's parameters decides. One gets the payload as its value. Several get the
members of the payload, which is then an object with their names. The context's parameter is known
by its annotation or its name, never by its position. A function that could get a wrong argument
is refused at the start, with what to write instead.
"""

import ast
import functools
import inspect
import itertools
import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from inspect import Parameter
from types import FunctionType
from typing import Any, NamedTuple

from trio_jobs.handlers.annotations import resolve
from trio_jobs.handlers.importing import (
    HandlerError,
    innermost,
    method_error,
    one_line,
    refuse_method,
)

# The class is found by its name: only a type checker may execute the import of an annotation.
_CONTEXT = "JobContext"

# The names of an unannotated parameter that gets the context.
_CONTEXT_NAMES = frozenset({"context", "ctx"})

_ANY_NUMBER = frozenset({Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD})
_BY_POSITION = frozenset({Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD})


class Shape(NamedTuple):
    """How to call a function."""

    payload: tuple[Parameter, ...]  # the parameters that the payload is for
    spread: bool  # whether the payload is an object with their names; else the first one's value
    takes_context: bool
    # Called with the payload, and with the context behind it. A spread payload is a dict of the
    # arguments by name; those that are not in it keep their defaults.
    call: Callable[..., Any]


def check_kind(function: Callable[..., Any]) -> None:
    """Refuse a class whose instances are callable, and a method without its instance.

    Raises:
        HandlerError: The function is one of these.
    """
    called: object = function
    while isinstance(called, functools.partial):
        called = called.func
    if inspect.isclass(called) and any("__call__" in vars(each) for each in called.__mro__):
        raise HandlerError(f"is a class; name an instance of it: {called.__name__}(...)")
    method = innermost(function)
    if isinstance(method, FunctionType):
        _refuse_method(method)


def _refuse_method(function: FunctionType) -> None:
    outer, _, name = function.__qualname__.rpartition(".")
    if not outer or outer.endswith("<locals>"):
        return
    if "<locals>" in outer:  # the class cannot be looked up
        code = function.__code__
        if code.co_argcount and code.co_varnames[0] == "self":
            raise method_error(outer.rpartition("<locals>.")[2])
        return
    holder: object = sys.modules.get(function.__module__)
    for each in outer.split("."):
        holder = inspect.getattr_static(holder, each, None)
    refuse_method(holder, name, function)


def shape_of(function: Callable[..., Any], *, spread: bool | None) -> Shape:
    """Find the parameters of the payload and of the context.

    The context goes to the parameter annotated as `JobContext`. Without such an annotation it goes
    to an unannotated parameter called ``context`` or ``ctx``, if there is another one for the
    payload. A parameter that has a default, and an underscore at the beginning of its name or a
    value from a partial, is the function's own. All others are the payload's.

    Args:
        function: The function.
        spread: Whether the payload is an object with the names of the parameters. None spreads it
            unless exactly one parameter is the payload's.

    Raises:
        HandlerError: The function cannot be called so.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # some builtins have no signature, and may take a payload
        if spread:
            raise HandlerError(
                "has no signature, in which spread = true would find names"
            ) from None
        return Shape(payload=(), spread=False, takes_context=False, call=function)
    except Exception as error:  # a signature is made of attributes that user code may set
        raise HandlerError(f"has a signature that cannot be read: {one_line(error)}") from error
    parameters = [*signature.parameters.values()]
    inner = inspect.unwrap(function)
    bound = inner.keywords if isinstance(inner, functools.partial) else {}
    named = [each for each in parameters if each.kind not in _ANY_NUMBER and each.name not in bound]
    context = _context(function, named)
    named = [each for each in named if each is not context and not _is_own(each)]
    value = _value(named, parameters, spread=spread)
    return Shape(
        payload=tuple(named) if value is None else (value,),
        spread=value is None,
        takes_context=context is not None,
        call=_caller(function, parameters, value, context),
    )


def _is_own(parameter: Parameter) -> bool:
    return parameter.name.startswith("_") and parameter.default is not parameter.empty


def _context(function: Callable[..., Any], named: Sequence[Parameter]) -> Parameter | None:
    found = [each for each in named if _is_annotated_as_context(function, each)]
    of_payload = [each for each in named if not _is_own(each)]
    if not found and len(of_payload) > 1:
        found = [
            each
            for each in of_payload
            if each.annotation is each.empty and each.name in _CONTEXT_NAMES
        ]
    if len(found) > 1:
        raise HandlerError(f"takes the job's context more than once: {_named(found)}")
    return found[0] if found else None


def _value(
    named: Sequence[Parameter], parameters: Sequence[Parameter], *, spread: bool | None
) -> Parameter | None:
    """The parameter whose value the payload is; None if the payload is spread."""
    of_any_number = {each.kind: each for each in parameters if each.kind in _ANY_NUMBER}
    others = of_any_number.get(Parameter.VAR_POSITIONAL)
    if any(each.kind in _BY_POSITION for each in named):
        others = None  # the first of these gets the payload
    possible = [*named] if others is None else [others, *named]
    if spread is False or (spread is None and len(possible) == 1):
        if needed := [each for each in possible[1:] if each.default is each.empty]:
            raise HandlerError(
                f"takes {_named(needed)}, which get no argument: spread = false gives the payload"
                f" to {possible[0].name!r} alone"
            )
        if possible:
            return possible[0]
    if others is not None:
        raise HandlerError(
            f"takes {_named([others])} beside {_named(named)}: write one parameter, or several"
            " with names"
            if named
            else f"takes {_named([others])} alone, in which spread = true finds no names"
        )
    by_name = of_any_number.get(Parameter.VAR_KEYWORD)
    if by_name is not None:
        beside = f" beside {_named(named)}" if named else ""
        raise HandlerError(
            f"takes {_named([by_name])}{beside}: write the names that a payload may have as"
            " parameters, or take it as one, a dict"
        )
    return None


def _caller(
    function: Callable[..., Any],
    parameters: Sequence[Parameter],
    value: Parameter | None,
    context: Parameter | None,
) -> Callable[..., Any]:
    """A function of the payload and, if there is one, the context, that calls the handler."""
    given = [each for each in (value, context) if each is not None]
    positional = [
        each
        for each in parameters
        if each.kind in _BY_POSITION or each.kind is Parameter.VAR_POSITIONAL
    ]
    if value is not None and positional[: len(given)] == given:
        return function

    def goes_by_position(parameter: Parameter) -> bool:
        if value is not None and value.kind is Parameter.VAR_POSITIONAL:
            return True
        # A value, because the wrapper of a decorator may have other names for the first ones.
        return parameter.kind is Parameter.POSITIONAL_ONLY or (
            value is not None and parameter in given
        )

    in_front = [*itertools.takewhile(goes_by_position, positional)]

    def call(payload: Any, its_context: object = None) -> Any:  # noqa: ANN401 - user's values
        arguments = {**payload} if value is None else {value.name: payload}
        if context is not None:
            arguments[context.name] = its_context
        by_position = [arguments.pop(each.name, each.default) for each in in_front]
        return function(*by_position, **arguments)

    return call


def _named(parameters: Iterable[Parameter]) -> str:
    return ", ".join(repr(each.name) for each in parameters)


def _is_annotated_as_context(function: Callable[..., Any], parameter: Parameter) -> bool:
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return False
    try:
        # Resolve the annotation as well: its text may be an alias of the context.
        return _names_context(annotation) or _names_context(resolve(function, annotation))
    except Exception:  # noqa: BLE001 - to evaluate the user's text may raise anything
        return False


def _names_context(annotation: Any) -> bool:  # noqa: ANN401 - classes, unions, text, ...
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if inspect.isclass(annotation):
        return annotation.__name__ == _CONTEXT
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    try:
        return _expression_names_context(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError):
        return False


def _expression_names_context(expression: ast.expr) -> bool:
    match expression:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name == _CONTEXT
        case ast.Constant(value=str(text)):
            return _names_context(text)
        case ast.Call(func=ast.Name(id="ForwardRef"), args=[text, *_]):  # quoted text
            return _expression_names_context(text)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _expression_names_context(left) or _expression_names_context(right)
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            members = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            match name:
                case "Annotated" | "Optional":
                    return _expression_names_context(members[0])
                case "Union":
                    return any(map(_expression_names_context, members))
                case _:
                    return name == _CONTEXT
        case _:
            return False
