"""What a handler is called with, told by its signature: the payload, and perhaps the job's context.

A function of another shape would get the context as a second payload, or the payload as its
``self``, and could even succeed. So it is refused at the start, with what to write instead.
"""

import ast
import functools
import inspect
import sys
import typing
from collections.abc import Callable
from types import FunctionType, UnionType
from typing import Any, ForwardRef

from trio_jobs.handlers.loading import HandlerError, method_error, one_line, refuse_method
from trio_jobs.handlers.payload import resolve

# By its name: the annotation may be text whose import only a type checker sees.
_CONTEXT = "JobContext"

# What an unannotated first parameter is taken for the context by, if there is a second one.
_CONTEXT_NAMES = frozenset({"context", "ctx"})

_ONE_PAYLOAD = (
    "a job has one payload: write one parameter, a dataclass, a TypedDict or a msgspec.Struct with"
    " these as its fields"
)


def check_kind(function: Callable[..., Any]) -> None:
    """Refuse classes whose instances are to be called, and methods without an instance.

    Raises:
        HandlerError: It is one.
    """
    called: object = function
    while isinstance(called, functools.partial):
        called = called.func
    if inspect.isclass(called) and any("__call__" in vars(each) for each in called.__mro__):
        raise HandlerError(f"is a class; name an instance of it: {called.__name__}(...)")
    if isinstance(function, FunctionType):
        _refuse_method(function)


def takes_context(function: Callable[..., Any], *, is_async: bool) -> bool:
    """Whether the function is called with a context as well as the payload.

    That is a second parameter without a default: annotated as `JobContext`, or not annotated. One
    with a default is the function's own business.

    Raises:
        HandlerError: The function cannot be called with a payload, or takes more than it can get.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # some builtins have no signature; they get the benefit of the doubt
        return False
    except Exception as error:  # it is made from attributes that anybody may set
        raise HandlerError(f"has a signature that cannot be read: {one_line(error)}") from error
    parameters = list(signature.parameters.values())
    try:
        signature.bind(None)
    except TypeError as error:
        return _is_second_the_context(function, signature, error, is_async=is_async)
    if _is_annotated_as_context(function, parameters[0]):
        raise HandlerError(
            f"takes the job's context, {parameters[0].name!r}, in place of the payload: write"
            f" (payload, {parameters[0].name}: {_CONTEXT})"
        )
    return False


def _is_second_the_context(
    function: Callable[..., Any],
    signature: inspect.Signature,
    error: TypeError,
    *,
    is_async: bool,
) -> bool:
    required = [
        each
        for each in signature.parameters.values()
        if each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD}
        and each.default is each.empty
    ]
    named = ", ".join(repr(each.name) for each in required)
    try:
        signature.bind(None, None)
    except TypeError:
        text = f"cannot be called with a payload: {error}"
        if len(required) > 1:
            text += f"; it takes {named}, and {_ONE_PAYLOAD}"
        raise HandlerError(text) from None
    first, second = required
    is_context = _is_annotated_as_context(function, second)
    if not is_context and (
        _is_annotated_as_context(function, first)
        or (first.annotation is first.empty and first.name in _CONTEXT_NAMES)
    ):
        raise HandlerError(
            f"takes the job's context, {first.name!r}, before the payload: write"
            f" ({second.name}, {first.name}: {_CONTEXT})"
        )
    if not is_context and second.annotation is not second.empty:
        text = f"takes {named}, but {_ONE_PAYLOAD}"
        if is_async:
            text += f", or annotate {second.name!r} as {_CONTEXT} if it is the job's context"
        raise HandlerError(text)
    if not is_async:
        raise HandlerError(
            f"takes {named}, but a plain function gets the payload alone, and only an async one"
            f" the job's context; {_ONE_PAYLOAD}"
        )
    return True


def _is_annotated_as_context(function: Callable[..., Any], parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return False
    if _names_context(annotation):
        return True
    try:  # it may be text that is another name for it
        return _names_context(resolve(function, annotation))
    except Exception:  # noqa: BLE001  (whatever evaluating the user's text raises)
        return False


def _names_context(annotation: Any) -> bool:  # noqa: ANN401  (classes, unions, text, ...)
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        return _text_names_context(annotation)
    if inspect.isclass(annotation):
        return annotation.__name__ == _CONTEXT
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _names_context(inner[0])
    if origin in {typing.Union, UnionType}:
        return any(map(_names_context, inner))
    return inspect.isclass(origin) and origin.__name__ == _CONTEXT


def _text_names_context(text: str) -> bool:
    try:
        return _expression_names_context(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError):
        return False


def _expression_names_context(expression: ast.expr) -> bool:
    match expression:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name == _CONTEXT
        case ast.Constant(value=str(text)):
            return _text_names_context(text)
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


def _refuse_method(function: FunctionType) -> None:
    """Refuse a method that comes without its instance, and not by a name that was looked up."""
    outer, _, name = function.__qualname__.rpartition(".")
    if not outer or outer.endswith("<locals>"):
        return
    if "<locals>" in outer:  # the class cannot be looked up
        if next(iter(inspect.signature(function).parameters), None) == "self":
            raise method_error(outer.rpartition("<locals>.")[2])
        return
    holder: object = sys.modules.get(function.__module__)
    for each in outer.split("."):
        holder = inspect.getattr_static(holder, each, None)
    refuse_method(holder, name, function)
