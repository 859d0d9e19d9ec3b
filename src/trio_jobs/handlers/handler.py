"""`Handler`: a user's function and how it runs. Every check of a function is made here, once."""

import functools
import inspect
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from trio_jobs.error_text import Failure, describe
from trio_jobs.handlers.context import JobContext
from trio_jobs.handlers.importing import HandlerError, importable_name, own_name
from trio_jobs.handlers.payload_faults import JSON_ERRORS, Decode, json_fault
from trio_jobs.handlers.payload_type import payload_type
from trio_jobs.handlers.signature import check_kind, shape_of
from trio_jobs.hidden_values import is_path
from trio_jobs.json_encoding import encode_result

if TYPE_CHECKING:  # a child process imports this module: its server applies the policy
    from trio_jobs.handlers.retry_policy import RetryPolicy

# The modules that call a plain function: its tracebacks leave out their frames.
_OWN = frozenset({__name__, shape_of.__module__})


class _Forks:
    """Counts the forks that led to this process: a forked copy has a higher count."""

    def __init__(self) -> None:
        self.count = 0
        os.register_at_fork(after_in_child=self._add)

    def _add(self) -> None:
        self.count += 1


# Read for each job: `os.getpid` takes ten times as long.
FORKS = _Forks()


class Run(StrEnum):
    """Where a handler's function runs."""

    TRIO = "trio"
    ASYNCIO = "asyncio"
    THREAD = "thread"
    PROCESS = "process"


_ASYNC = (Run.TRIO, Run.ASYNCIO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A user's function and how it runs; `of` makes it.

    Attributes:
        name: The function's name, ``"package.module:qualified.name"``, by which a child process
            imports it.
        call: Called with the payload, and with a `JobContext` behind it if ``takes_context``;
            returns the job's result, or a coroutine for it on Trio and on asyncio.
        run: Where the function runs.
        timeout: The time limit in seconds; None for no limit.
        takes_context: Whether ``call`` takes a context.
        payload_type: What payloads are checked against.
        decode: Makes what ``call`` takes from a payload's JSON; raises ``msgspec.MsgspecError`` or
            ``UnicodeError``.
        spread: Whether the payload is an object with the names of the function's parameters; None
            if their number decides.
        retry: When a failed job gets another attempt; None for never.
        max_running: How many jobs of its type run at the same time; None for any number.
        repeatable: Whether a job that a server's death has interrupted may run again.
        max_interruptions: How many such interruptions end a job.
        hide: The paths to what no client of the HTTP API sees of payloads and results.
        paused: Whether the jobs of its type are held from the start, until a resume.
    """

    name: str
    call: Callable[..., Any]
    run: Run
    timeout: float | None
    takes_context: bool
    payload_type: Any  # a `PayloadType`; a public class has fields of public types alone
    decode: Decode
    spread: bool | None = None
    retry: "RetryPolicy | None" = None
    max_running: int | None = None
    repeatable: bool = True
    max_interruptions: int = 3
    hide: tuple[str, ...] = ()
    paused: bool = False

    @property
    def attempts(self) -> int:
        """How often a job runs at most."""
        return 1 if self.retry is None else self.retry.attempts

    def payload_of(self, encoded: bytes) -> object:
        """What `call` takes, made from the payload of a job that is to run.

        Raises:
            PayloadError: The payload does not fit: it was checked against another version of the
                function, or, if it was submitted by SQL, never.
        """
        try:
            return self.decode(encoded)
        except JSON_ERRORS as error:
            raise json_fault(error, encoded, "$.payload") from None

    @classmethod
    def of(
        cls,
        function: object,
        *,
        run: str | None = None,
        async_handlers: str = "trio",
        timeout: float | None = None,
        retry: "RetryPolicy | None" = None,
        max_running: int | None = None,
        repeatable: bool = True,
        max_interruptions: int = 3,
        hide: Iterable[str] = (),
        paused: bool = False,
        spread: bool | None = None,
        name: str | None = None,
    ) -> Self:
        """Make a handler of a function.

        Args:
            function: A callable. With one parameter, it takes the payload as its value; with
                several, the members of the payload, an object with their names.
            run: ``"trio"``, ``"asyncio"``, ``"thread"`` or ``"process"``; ``"async"`` stands for
                one of the first two. None runs an async function as ``"async"`` and any other in a
                thread. With ``"process"``, a program that defines the function itself must do its
                work behind ``if __name__ == "__main__":``, because child processes import the
                program to find the function.
            async_handlers: What ``"async"`` stands for: ``"trio"`` or ``"asyncio"``.
            timeout: The time limit in seconds; None for no limit.
            retry: When a failed job gets another attempt; None for never. The exceptions that it
                names are imported here.
            max_running: How many jobs of its type run at the same time; None for any number. The
                others wait in order, and hold up no job of another type.
            repeatable: Whether a job may run again after its server has died while it ran. If not,
                such a job ends as ``interrupted``: it never starts twice. This has an effect only
                with a store file, since the memory of a dead process has no jobs.
            max_interruptions: With how many such interruptions a job ends as ``interrupted``, since
                it may be the job that kills the server.
            hide: Paths of names with dots between them, such as ``card.number``. The HTTP API shows
                ``•••`` for the values in payloads and results to which they lead; ``*`` leads to
                each member or item, and a name also into the objects of an array. The job itself
                stays as it is.
            paused: Whether the pool holds the jobs of this type from the start. `POST /pool/resume`
                lets them go on.
            spread: True gives a single parameter the payload's member of its name. False gives the
                payload to the first parameter, and the others keep their defaults. None lets their
                number decide.
            name: The name that the function was loaded by; None for the function's own name.

        Raises:
            HandlerError: The function cannot be called with a payload, does not fit ``run`` or
                ``spread``, cannot be imported by a child process, or annotates a parameter with a
                type that JSON cannot be checked against; or the timeout is not a number above 0, or
                ``max_running`` or ``max_interruptions`` no integer above 0; or ``hide`` has what
                is no path; or there is no
                exception of a name in ``retry``, or ``retry`` has further settings although its
                ``attempts`` are 1; or it retries, and is not repeatable.
        """
        if not callable(function):
            raise HandlerError(f"is not callable: {function!r}")
        check_kind(function)
        where = _where(function, run, async_handlers)
        _check_timeout(timeout)
        if max_running is not None:
            _check_number(max_running, "max_running")
        _check_number(max_interruptions, "max_interruptions")
        if not isinstance(repeatable, bool):
            raise HandlerError(f"must have true or false as repeatable, got {repeatable!r}")
        paths = _checked_paths(hide)
        if not isinstance(paused, bool):
            raise HandlerError(f"must have true or false as paused, got {paused!r}")
        if spread is not None and not isinstance(spread, bool):
            raise HandlerError(f"must have true or false as spread, got {spread!r}")
        shape = shape_of(function, spread=spread)
        if name is None:
            name = importable_name(function) if where is Run.PROCESS else own_name(function)
        payload = payload_type(function, shape.payload, spread=shape.spread)
        if retry is not None:
            retry = _resolved(retry, module=name.partition(":")[0])
            if retry.attempts > 1 and not repeatable:
                raise HandlerError(
                    f"must have 1 as retry.attempts, got {retry.attempts}: it is not repeatable"
                )
        return cls(
            name=name,
            call=shape.call,
            run=where,
            timeout=timeout,
            takes_context=shape.takes_context,
            payload_type=payload,
            decode=payload.decode,
            spread=spread,
            retry=retry,
            max_running=max_running,
            repeatable=repeatable,
            max_interruptions=max_interruptions,
            hide=paths,
            paused=paused,
        )


def run_plain(
    handler: Handler, payload: bytes, context: JobContext | None = None, *, max_result_bytes: int
) -> bytes | Failure:
    """Run a plain function from JSON to JSON; never raises.

    Call this in the thread or the process of the function: payload classes, the function and the
    texts of its exceptions are user code. If the function forks and the copy returns, the copy
    ends here, with status 0 or 1.

    Args:
        handler: The handler.
        payload: The payload.
        context: The job's context; None if the handler takes none.
        max_result_bytes: The largest result, as JSON.

    Returns:
        The result as JSON, or the description of the function's exception (a ``SystemExit``, too).
    """
    forks = FORKS.count
    answer: bytes | Failure
    try:
        answer = encode_result(_call_plain(handler, payload, context), max_bytes=max_result_bytes)
    except BaseException as error:  # noqa: ASYNC103, BLE001 - no exception may leave the thread
        answer = describe(error, own=_OWN)
    if forks != FORKS.count:
        os._exit(int(isinstance(answer, Failure)))
    return answer  # noqa: ASYNC104 - this runs outside of Trio


def _call_plain(handler: Handler, payload: bytes, context: JobContext | None) -> object:
    try:
        more = () if context is None else (context,)
        result = handler.call(handler.payload_of(payload), *more)
    except StopIteration as error:
        # If StopIteration left a coroutine, it would become a RuntimeError that says less.
        raise RuntimeError("the function raised StopIteration") from error
    if inspect.isawaitable(result):
        # A plain wrapper around an async function looks like a plain function.
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError("a plain function returned an awaitable; make it an async function")
    return result


def _where(function: Callable[..., Any], run: str | None, async_handlers: str) -> Run:
    is_async = _is_async(function)
    if async_handlers not in _ASYNC:
        raise HandlerError(
            f"must have one of {_quoted(_ASYNC)} as async_handlers, got {async_handlers!r}"
        )
    if run is None:
        return Run(async_handlers) if is_async else Run.THREAD
    if run != "async" and run not in list(Run):
        raise HandlerError(f"must run in one of {_quoted(['async', *Run])}, got {run!r}")
    where = Run(async_handlers if run == "async" else run)
    if (where in _ASYNC) is not is_async:
        kind = "an async" if is_async else "a plain"
        needed = "a plain" if is_async else "an async"
        raise HandlerError(f'is {kind} function; run = "{run}" needs {needed} one')
    return where


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(str(each)) for each in names)


def _is_async(function: object) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    called = [function, getattr(function, "__call__", None)]  # noqa: B004 - the method is meant
    if any(
        inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in called
    ):
        raise HandlerError("is a generator function; a handler returns one result")
    return any(map(inspect.iscoroutinefunction, called))


def _resolved(retry: "RetryPolicy", *, module: str) -> "RetryPolicy":
    from trio_jobs.handlers.retry_policy import RetryPolicy, resolve  # not at the top: see there

    if not isinstance(retry, RetryPolicy):
        raise HandlerError(f"must have a RetryPolicy as its retry, got {retry!r}")
    return resolve(retry, module=module)


def _check_timeout(timeout: object) -> None:
    match timeout:
        case None:
            return
        case bool():
            pass
        case int() | float() if 0 < timeout < math.inf:
            return
    raise HandlerError(f"must have a timeout of more than 0 seconds, got {timeout!r}")


def _checked_paths(hide: Iterable[str]) -> tuple[str, ...]:
    # A text is an iterable of texts too: of its characters.
    paths = (hide,) if isinstance(hide, str) else tuple(hide)
    for path in paths:
        if not is_path(path):
            raise HandlerError(f"must have paths like 'card.number' as hide, got {path!r}")
    return paths


def _check_number(number: object, name: str) -> None:
    if isinstance(number, int) and number is not True and number >= 1:
        return
    raise HandlerError(f"must have a {name} of 1 or more, got {number!r}")
