"""What a handler raised, as bounded, readable texts: made where it was raised, in one go.

Making them runs the error's own code, which may take long or raise anything. None of that leaves
this module, and each error's text is asked for once.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from traceback import TracebackException

from trio_jobs.job import JobError
from trio_jobs.tracebacks import frames_text, has_traceback

# Characters, for the type's name and for the text.
MAX_TYPE = 200
MAX_MESSAGE = 4000

# How many of the errors in a group are named, and how many are looked at for that.
_MAX_NAMED = 10
_MAX_STEPS = 10_000

# Characters of a traceback that go into the log: its end says the most.
_MAX_TRACEBACK = 20_000

# NUL and the other control characters (but for tab and line feed) upset logs,
# terminals and databases downstream; lone surrogates are not valid UTF-8.
_UNREADABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

# What asyncio says where it does not run.
_NO_LOOP = re.compile("no running event loop|There is no current event loop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a handler raised, without the error itself.

    Attributes:
        error: Its description.
        traceback: For the log.
    """

    error: JobError
    traceback: str


def describe_failure(error: BaseException) -> Failure:
    """The error's description and its traceback."""
    described, traceback = _describe_with_traceback(error)
    return Failure(error=described, traceback=traceback[-_MAX_TRACEBACK:])


def describe_error(error: BaseException) -> JobError:
    """The error's type and text; the text of a group names the inner ones."""
    try:
        return JobError(type=_type_name(error), message=readable(_text(error), MAX_MESSAGE))
    except BaseException:  # noqa: ASYNC103, BLE001  (a user's class; what it does has no limits)
        return JobError(  # noqa: ASYNC104 - no checkpoint in there
            type="Exception", message="<the error could not be described>"
        )


def readable(text: str, limit: int) -> str:
    """The text with unreadable characters replaced, cut to ``limit`` characters."""
    # Cut first: the text may be of any size. One character more shows that it was cut.
    text = _UNREADABLE.sub("\N{REPLACEMENT CHARACTER}", text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _describe_with_traceback(error: BaseException) -> tuple[JobError, str]:
    try:
        if has_traceback(error):
            # It asks each error for its text, and keeps that.
            made = TracebackException.from_exception(error)
            message = _with_leaves(error, str(made), _made_leaves(error, made))
            described = JobError(type=_type_name(error), message=readable(message, MAX_MESSAGE))
            return described, "".join(made.format())
    except BaseException:  # noqa: ASYNC103, BLE001, S110  (as in `describe_error`)
        pass
    described = describe_error(error)
    return described, f"{frames_text(error)}{described.type}: {described.message}\n"


def _text(error: BaseException) -> str:
    leaves = ((each, _own_text(each)) for each in _leaves(error))
    return _with_leaves(error, _own_text(error), leaves)


def _with_leaves(
    error: BaseException, text: str, leaves: Iterable[tuple[BaseException, str]]
) -> str:
    """The text of an error; of a group, with those of the errors in it."""
    # By the type, here and below: `isinstance` also asks for the error's
    # `__class__`, which may be a property of the user's.
    if not issubclass(type(error), BaseExceptionGroup):
        return _explained(error, text)
    inner = "; ".join(
        f"{_type_name(each)}: {readable(_explained(each, own), MAX_MESSAGE)}"
        for each, own in islice(leaves, _MAX_NAMED)
    )
    return f"{text}: {inner}"


def _explained(error: BaseException, text: str) -> str:
    """The text, with what to do where it is asyncio that misses its event loop."""
    if type(error) is RuntimeError and _NO_LOOP.match(text):
        text += " (handlers run on Trio: code for asyncio goes into a plain function, which calls"
        text += " asyncio.run())"
    return text


def _made_leaves(
    error: BaseException, made: TracebackException
) -> Iterator[tuple[BaseException, str]]:
    left = [(error, made)]
    while left:
        error, made = left.pop()
        if made.exceptions is None:
            yield error, str(made)
        else:
            left += reversed([*zip(_members(error), made.exceptions, strict=True)])


def _type_name(error: BaseException) -> str:
    # Past the class's own class, which may have a `__name__` that is no text, or raises.
    return readable(type.__dict__["__name__"].__get__(type(error)), MAX_TYPE)


def _own_text(error: BaseException) -> str:
    try:
        # `str()` also returns an instance of a subclass, whose methods are the user's.
        return str.__str__(str(error))
    except BaseException:  # noqa: ASYNC103, BLE001  (the user's __str__ may raise anything)
        return "<exception str() failed>"  # noqa: ASYNC104 - no checkpoint in str()


def _leaves(group: BaseException) -> Iterator[BaseException]:
    # Without recursion, and one by one: groups may be nested deeper than the
    # stack, and hold each other so often that their number has no end.
    left = [group]
    for _ in range(_MAX_STEPS):
        if not left:
            return
        error = left.pop()
        if issubclass(type(error), BaseExceptionGroup):
            left += reversed(_members(error))
        else:
            yield error


def _members(group: BaseException) -> tuple[BaseException, ...]:
    # What the group was made with, whatever its class shows instead.
    members: tuple[BaseException, ...] = BaseExceptionGroup.__dict__["exceptions"].__get__(group)
    return members
