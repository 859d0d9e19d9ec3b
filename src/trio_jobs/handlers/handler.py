"""A handler: one user's function, and how it is run. Everything about it is checked here, once."""

import functools
import inspect
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from trio_jobs.handlers.error_text import Failure, describe_failure
from trio_jobs.handlers.importing import HandlerError, importable_name, own_name
from trio_jobs.handlers.payload_type import (
    Decode,
    PayloadType,
    PayloadTypeError,
    make_decoder,
    payload_type,
)
from trio_jobs.handlers.signature import check_kind, shape_of
from trio_jobs.json_encoding import encode_result
from trio_jobs.tracebacks import begin_with_others

# Around a plain function's code.
_OWN = frozenset({__name__})


class Run(StrEnum):
    """Where a handler's function runs."""

    ASYNC = "async"
    THREAD = "thread"
    PROCESS = "process"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A user's function and how it is run; made by `of`.

    Attributes:
        name: What it is called where it was defined or configured,
            ``"package.module:qualified.name"``; a child process finds it by this.
        call: Called with the payload, and with a `JobContext` as the second
            argument if it takes one; what it returns is the job's result.
        run: Where it runs: a coroutine function in the event loop, a plain
            function in a worker thread or in a child process.
        timeout: How long it may take, in seconds; None for as long as it likes.
        takes_context: Whether it is called with a context as well.
        payload_type: What payloads are checked against; ``Any`` for any JSON.
        decode: Makes the payload that the function is called with from JSON;
            raises ``msgspec.MsgspecError`` or ``UnicodeError`` if it cannot.
    """

    name: str
    call: Callable[..., Any]
    run: Run
    timeout: float | None
    takes_context: bool
    payload_type: PayloadType
    decode: Decode

    @classmethod
    def of(
        cls,
        function: object,
        *,
        run: str | None = None,
        timeout: float | None = None,
        name: str | None = None,
    ) -> Self:
        """The handler for a function.

        Args:
            function: Any callable that can be called with a payload.
            run: ``"async"``, ``"thread"`` or ``"process"``; None goes by the
                kind of function: async ones in the event loop, others in a thread.
                With ``"process"``, a program that defines the function itself
                must begin behind ``if __name__ == "__main__":``, because child
                processes import its file to find it.
            timeout: Seconds that it may take; None for no limit.
            name: What it was loaded by, if it was: then a child process can do
                the same. Otherwise it goes by its own name.

        Raises:
            HandlerError: The function cannot be called with a payload, does not
                fit ``run``, cannot be found again by a child process, or has a
                payload annotated with what cannot be checked.
        """
        if not callable(function):
            raise HandlerError(f"is not callable: {function!r}")
        check_kind(function)
        where = _where(function, run)
        _check_timeout(timeout)
        shape = shape_of(function, is_async=where is Run.ASYNC)
        if name is None:
            name = importable_name(function) if where is Run.PROCESS else own_name(function)
        try:
            type_ = payload_type(function, shape.payload)
            decode = make_decoder(type_)
        except PayloadTypeError as error:
            raise HandlerError(str(error)) from error
        return cls(
            name=name,
            call=shape.call,
            run=where,
            timeout=timeout,
            takes_context=shape.takes_context,
            payload_type=type_,
            decode=decode,
        )

    def call_plain(self, payload: object) -> object:
        """Call a plain function; in the thread or the process where it runs.

        Raises:
            TypeError: It returned an awaitable: a plain wrapper around an async
                function looks like a plain one.
            RuntimeError: It raised ``StopIteration``, which would turn into
                this, with less to say, in any coroutine on its way.
        """
        try:
            result = self.call(payload)
        except StopIteration as error:
            raise RuntimeError("the function raised StopIteration") from error
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError("a plain function returned an awaitable; make it an async function")
        return result


def run_plain(handler: Handler, payload: bytes, *, max_result_bytes: int) -> bytes | Failure:
    """Run a plain function from JSON to JSON; never raises.

    To be called in the thread or the process where the function runs, so that all of the user's
    code runs there: payload classes, the function, the texts of what it raises.

    A copy of the process that the function has forked ends here, with status 0 or 1.

    Returns:
        Its result as JSON, or what it raised, even a ``SystemExit``.
    """
    process = os.getpid()
    answer: bytes | Failure
    try:
        result = handler.call_plain(handler.decode(payload))
        answer = encode_result(result, max_bytes=max_result_bytes)
    except BaseException as error:  # noqa: ASYNC103, BLE001  (nothing of it may leave the thread)
        begin_with_others(error, _OWN)
        answer = describe_failure(error)
    if os.getpid() != process:
        os._exit(int(isinstance(answer, Failure)))
    return answer  # noqa: ASYNC104 - no task's


def _where(function: Callable[..., Any], run: str | None) -> Run:
    is_async = _is_async(function)
    if run is None:
        return Run.ASYNC if is_async else Run.THREAD
    if run not in list(Run):
        raise HandlerError(f"must run in one of {', '.join(map(repr, map(str, Run)))}, got {run!r}")
    where = Run(run)
    if (where is Run.ASYNC) is not is_async:
        kind = "an async" if is_async else "a plain"
        needed = "a plain" if is_async else "an async"
        raise HandlerError(f'is {kind} function; run = "{where}" needs {needed} one')
    return where


def _is_async(function: Callable[..., Any]) -> bool:
    called = _called(function)
    if any(map(inspect.isgeneratorfunction, called)) or any(
        map(inspect.isasyncgenfunction, called)
    ):
        raise HandlerError("is a generator function; a handler returns one result")
    return any(map(inspect.iscoroutinefunction, called))


def _called(function: Callable[..., Any]) -> list[object]:
    """What runs when it is called: the function of a partial, an instance's ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    return [function, getattr(function, "__call__", None)]  # noqa: B004  (the method itself)


def _check_timeout(timeout: object) -> None:
    match timeout:
        case None:
            return
        case bool():
            pass
        case int() | float() if 0 < timeout < math.inf:
            return
    raise HandlerError(f"must have a timeout of more than 0 seconds, got {timeout!r}")
