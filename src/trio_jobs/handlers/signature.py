"""The parameters of a handler: which one is the payload, and which one, if any, the job's context.

A function of another shape would get the context as a second payload, or the payload as its
``self``, and might even succeed. So it is refused at the start, with the shape to write instead.
"""

import ast
import functools
import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from inspect import Parameter
from types import FunctionType
from typing import Any, NamedTuple

from trio_jobs.handlers.importing import (
    HandlerError,
    innermost,
    method_error,
    one_line,
    refuse_method,
)
from trio_jobs.handlers.payload_type import resolve

# The class is found by its name: only a type checker may execute the import of an annotation.
_CONTEXT = "JobContext"

# The names of an unannotated parameter that gets the context.
_CONTEXT_NAMES = frozenset({"context", "ctx"})

_POSITIONAL = frozenset({Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD})
_ANY_NUMBER = frozenset({Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD})

_ONE_PAYLOAD = (
    "a job has one payload: write one parameter, a dataclass, a TypedDict or a msgspec.Struct with"
    " these as its fields"
)

_PAYLOAD_ALONE = (
    "but a plain function gets the payload alone, and only an async one the job's context"
)


class Shape(NamedTuple):
    """How to call a function."""

    payload: Parameter | None  # None if the function has no signature
    takes_context: bool  # behind the payload
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


def shape_of(function: Callable[..., Any], *, is_async: bool) -> Shape:
    """Find the payload's and the context's parameter.

    The context goes to the parameter annotated as `JobContext`, wherever it stands. Without such
    an annotation it goes to an unannotated parameter called ``context`` or ``ctx`` behind the
    payload's. All other parameters need defaults, which the function keeps.

    Raises:
        HandlerError: The function cannot be called with a payload, or requires more.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # some builtins have no signature, and may take a payload
        return Shape(payload=None, takes_context=False, call=function)
    except Exception as error:  # a signature is made of attributes that user code may set
        raise HandlerError(f"has a signature that cannot be read: {one_line(error)}") from error
    parameters = [*signature.parameters.values()]
    context = _context(function, parameters)
    if context is not None and not is_async:
        if context.annotation is context.empty and context.default is not context.empty:
            context = None  # an ordinary parameter, which keeps its default
        else:
            named = _named(each for each in parameters if _is_required(each) or each is context)
            raise HandlerError(f"takes {named}, {_PAYLOAD_ALONE}; {_ONE_PAYLOAD}")
    others = [each for each in parameters if each is not context]
    payload = _payload(others, context, is_async=is_async)
    if context is None:
        return Shape(payload=payload, takes_context=False, call=function)
    call = _caller(function, parameters, payload, context)
    return Shape(payload=payload, takes_context=True, call=call)


def _context(function: Callable[..., Any], parameters: Sequence[Parameter]) -> Parameter | None:
    bound = function.keywords if isinstance(function, functools.partial) else {}
    possible = [
        each for each in parameters if each.kind not in _ANY_NUMBER and each.name not in bound
    ]
    annotated = [each for each in possible if _is_annotated_as_context(function, each)]
    if len(annotated) > 1:
        raise HandlerError(f"takes the job's context more than once: {_named(annotated)}")
    return next(iter([*annotated, *filter(_is_called_context, possible[1:])]), None)


def _payload(
    others: Sequence[Parameter], context: Parameter | None, *, is_async: bool
) -> Parameter:
    required = [each for each in others if _is_required(each)]
    named = [each for each in others if each.kind not in _ANY_NUMBER]
    # With this name, the first of several parameters is no payload.
    if is_async and context is None and len(named) > 1 and _is_called_context(named[0]):
        raise HandlerError(
            f"takes the job's context, {named[0].name!r}, before the payload: write"
            f" ({named[1].name}, {named[0].name}: {_CONTEXT})"
        )
    if len(required) > 1:
        raise HandlerError(_too_many(required, context, is_async=is_async))
    if required and required[0].kind is Parameter.KEYWORD_ONLY:
        raise HandlerError(
            f"cannot be called with a payload: it takes {required[0].name!r} by its name only"
        )
    for kinds in _POSITIONAL, {Parameter.VAR_POSITIONAL}:
        for each in others:
            if each.kind in kinds:
                return each
    if context is not None:
        raise HandlerError(
            f"takes the job's context, {context.name!r}, in place of the payload: write"
            f" (payload, {context.name}: {_CONTEXT})"
        )
    raise HandlerError("cannot be called with a payload: it takes none by position")


def _too_many(required: Sequence[Parameter], context: Parameter | None, *, is_async: bool) -> str:
    text = f"takes {_named(required)}, but {_ONE_PAYLOAD}"
    second = required[1]
    if len(required) > 2 or context is not None:
        return text
    if is_async:
        text += f", or annotate {second.name!r} as {_CONTEXT}"
        if second.annotation is second.empty:
            text += ", or call it context,"
        return text + " if it is the job's context"
    if second.annotation is second.empty:
        return f"takes {_named(required)}, {_PAYLOAD_ALONE}; {_ONE_PAYLOAD}"
    return text


def _caller(
    function: Callable[..., Any],
    parameters: Sequence[Parameter],
    payload: Parameter,
    context: Parameter,
) -> Callable[..., Any]:
    """A function of the payload and the context, in this order, that calls the handler."""
    first_two = [each for each in parameters if each.kind is not Parameter.KEYWORD_ONLY][:2]
    if first_two == [payload, context]:  # the wrapper of a decorator may have other names for them
        return function
    if first_two == [context, payload]:
        return lambda payload, context: function(context, payload)
    if context.kind is Parameter.POSITIONAL_ONLY:
        raise HandlerError(
            f"takes the job's context, {context.name!r}, behind others by position only: write"
            f" ({payload.name}, {context.name}: {_CONTEXT})"
        )
    name = context.name
    return lambda payload, context: function(payload, **{name: context})


def _is_required(parameter: Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in _ANY_NUMBER


def _is_called_context(parameter: Parameter) -> bool:
    return parameter.annotation is parameter.empty and parameter.name in _CONTEXT_NAMES


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
