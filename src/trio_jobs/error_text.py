"""Describes an exception as readable texts of bounded size.

A description is made where the exception was raised: in the handler's task, thread or process.
Making it runs the exception's own code, which may take long or raise anything.
"""

import re
import traceback
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice, repeat
from traceback import TracebackException

from trio_jobs.retries import Cause, Retry, causes_of

# Characters of the type's name and of the message.
MAX_TYPE = 200
MAX_MESSAGE = 4000

# The message of a group names this many of the errors in it.
_MAX_NAMED = 10

# Nested groups may hold the same group many times. Python would print their traceback without end:
# for an error with more than _MAX_ERRORS members and causes, the text has its own frames alone. A
# search for errors that are no groups could go on without end: it stops after _MAX_STEPS.
_MAX_ERRORS = 500
_MAX_STEPS = 10_000

# Characters of a traceback, counted from its end, which says the most.
_MAX_TRACEBACK = 20_000

# Control characters other than tab and line feed break logs, terminals and databases; lone
# surrogates are not valid UTF-8.
_UNREADABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

# Called with an error that is no group, and its text; returns advice for the handler's author.
Advise = Callable[[BaseException, str], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An exception as text, and as a retry policy sees it.

    Attributes:
        type: The name of its type, for clients.
        message: Its text, for clients. The message of a group names its members.
        traceback: The traceback as text, for the log.
        causes: What decides about another attempt; empty if it is not known.
        advice: For the handler's author; empty if there is none. It is a part of the message, too.
    """

    type: str
    message: str
    traceback: str
    causes: tuple[Cause, ...] = ()
    advice: str = ""


def describe(
    error: BaseException, *, own: AbstractSet[str] = frozenset(), advise: Advise | None = None
) -> Failure:
    """Describe an exception. Never raises, and asks each exception once for its text.

    The texts of a `Retry` are those of the exception that it was raised from, if there is one.

    Args:
        error: The exception. Its traceback loses the outer frames of modules in ``own``: printing
            a frame takes longer than most jobs run.
        own: The names of the modules that call user code.
        advise: Called with the exception, or with the members of a group until it returns advice.
    """
    causes: tuple[Cause, ...] = ()
    try:
        causes = causes_of(error)
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_globals.get("__name__") in own:
            frames = frames.tb_next
        if frames is not None:
            error.__traceback__ = frames
        return _describe(error, causes, advise)
    except BaseException:  # noqa: ASYNC103, BLE001 - the exception's own code may raise anything
        return Failure(  # noqa: ASYNC104 - no checkpoint in there
            type="Exception",
            message="<the error could not be described>",
            traceback="<the error could not be shown>\n",
            causes=causes,
        )


def readable(text: str, limit: int) -> str:
    """Replace unreadable characters, and cut the text to ``limit`` characters."""
    # Cut first: the text may have any size. One more character shows that there is more.
    text = _UNREADABLE.sub("\N{REPLACEMENT CHARACTER}", text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _describe(error: BaseException, causes: tuple[Cause, ...], advise: Advise | None) -> Failure:
    # `from_exception` asks each exception for its text, once; `_message` reads the text from it.
    made = TracebackException.from_exception(error) if _is_bounded(error) else None
    origin, made_origin = _origin(error, made)
    name = _type_name(origin)
    message = readable(_message(origin, made_origin), MAX_MESSAGE)
    advice = "" if advise is None else _advice(origin, made_origin, advise)
    if advice:
        message = f"{message}; {advice}"
    if made is not None:
        text = "".join(made.format())
    else:
        frames = "".join(traceback.format_tb(error.__traceback__))
        text = f"{frames}{name}: {message}\n"
    # A child process sends the description as UTF-8.
    shown = text[-_MAX_TRACEBACK:].encode(errors="backslashreplace").decode()
    return Failure(type=name, message=message, traceback=shown, causes=causes, advice=advice)


def _message(error: BaseException, made: TracebackException | None) -> str:
    # The text may be an instance of a subclass of str, which the JSON encoder refuses.
    text = str.__str__(str(error if made is None else made))
    if isinstance(error, BaseExceptionGroup):
        text += ": " + "; ".join(
            f"{_type_name(each)}: {readable(_message(each, made_each), MAX_MESSAGE)}"
            for each, made_each in islice(_leaves(error, made), _MAX_NAMED)
        )
    return text


def _advice(error: BaseException, made: TracebackException | None, advise: Advise) -> str:
    for each, made_each in islice(_leaves(error, made), _MAX_NAMED):
        advice = advise(each, str.__str__(str(each if made_each is None else made_each)))
        if advice is not None:
            return advice
    return ""


def _leaves(
    group: BaseException, made: TracebackException | None
) -> Iterator[tuple[BaseException, TracebackException | None]]:
    """The errors in nested groups that are no groups themselves."""
    left = [(group, made)]
    for _ in range(_MAX_STEPS):
        if not left:
            return
        error, made = left.pop()
        if isinstance(error, BaseExceptionGroup):
            inner = repeat(None) if made is None else made.exceptions or ()
            left += reversed([*zip(error.exceptions, inner, strict=False)])
        else:
            yield _origin(error, made)


def _origin(
    error: BaseException, made: TracebackException | None
) -> tuple[BaseException, TracebackException | None]:
    """The exception that a `Retry` was raised from, or raised while handling; others themselves."""
    for _ in range(_MAX_NAMED):  # retries may be raised from retries, in a circle
        if not isinstance(error, Retry):
            break
        if error.__cause__ is not None:
            error, made = error.__cause__, made and made.__cause__
        elif error.__context__ is not None and not error.__suppress_context__:
            error, made = error.__context__, made and made.__context__
        else:
            break
    return error, made


def _type_name(error: BaseException) -> str:
    return readable(type(error).__name__, MAX_TYPE)


def _is_bounded(error: BaseException) -> bool:
    """Whether Python's traceback shows at most ``_MAX_ERRORS`` errors.

    The traceback shows each cause and context once, but a member of a group as often as groups
    hold it.
    """
    left = [error]
    chained = set()
    for _ in range(_MAX_ERRORS + 1):
        if not left:
            return True
        each = left.pop()
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions
        if id(each) not in chained:
            chained.add(id(each))
            left += (other for other in (each.__cause__, each.__context__) if other is not None)
    return False
