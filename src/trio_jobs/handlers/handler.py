"""A handler: one user's function, and how it is run."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import msgspec


class HandlerError(Exception):
    """A function that cannot be a handler; the text says why."""


class Run(StrEnum):
    """Where a handler's function runs."""

    ASYNC = "async"
    THREAD = "thread"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A user's function and how it is run.

    Attributes:
        call: Called with the payload; what it returns is the job's result.
        run: Where it runs: a coroutine function in the event loop, a plain
            function in a worker thread.
        decode: Makes the payload that the function is called with from JSON;
            raises ``msgspec.MsgspecError`` or ``UnicodeError`` if it cannot.
    """

    call: Callable[[Any], Any]
    run: Run
    decode: Callable[[bytes], object] = msgspec.json.Decoder().decode

    @classmethod
    def of(cls, function: object) -> Self:
        """The handler for a function, run as its kind asks for.

        Raises:
            HandlerError: It cannot be called, or not with one argument.
        """
        if not callable(function):
            raise HandlerError(f"is not callable: {function!r}")
        try:
            inspect.signature(function).bind(None)
        except TypeError as error:
            raise HandlerError(f"cannot be called with a payload: {error}") from None
        except ValueError:  # some builtins have no signature; they get the benefit of the doubt
            pass
        return cls(call=function, run=Run.ASYNC if _is_async(function) else Run.THREAD)


def _is_async(function: Callable[[Any], Any]) -> bool:
    # An instance whose __call__ is a coroutine function is one as well.
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  (the method itself, not whether it exists)
    )
