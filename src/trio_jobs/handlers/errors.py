"""What a handler raised, as a bounded, readable text: it never raises itself."""

import re
from collections.abc import Iterator
from itertools import islice

from trio_jobs.job import JobError

# Characters, for the type's name and for the text.
MAX_TYPE = 200
MAX_MESSAGE = 4000

# How many of the errors in a group are named, and how many are looked at for that.
_MAX_NAMED = 10
_MAX_STEPS = 10_000

# NUL and the other control characters (but for tab and line feed) upset logs,
# terminals and databases downstream; lone surrogates are not valid UTF-8.
_UNREADABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class DescribedError(Exception):
    """An error that knows its description already, because it was raised elsewhere.

    Attributes:
        error: The description.
    """

    def __init__(self, text: str, error: JobError) -> None:
        super().__init__(text)
        self.error = error


def describe_error(error: BaseException) -> JobError:
    """The error's type and text; the text of a group names the inner ones."""
    try:
        # By the type, here and below: `isinstance` also asks for the error's
        # `__class__`, which may be a property of the user's.
        if issubclass(type(error), DescribedError) and isinstance(error, DescribedError):
            return error.error
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


def _text(error: BaseException) -> str:
    text = _own_text(error)
    if not issubclass(type(error), BaseExceptionGroup):
        return text
    inner = "; ".join(
        f"{_type_name(each)}: {readable(_own_text(each), MAX_MESSAGE)}"
        for each in islice(_leaves(error), _MAX_NAMED)
    )
    return f"{text}: {inner}"


def _type_name(error: BaseException) -> str:
    # Past the class's own class, which may have a `__name__` that is no text, or raises.
    return readable(type.__dict__["__name__"].__get__(type(error)), MAX_TYPE)


def _own_text(error: BaseException) -> str:
    try:
        # `str()` also returns an instance of a subclass, whose methods are the user's.
        return str.__str__(str(error))
    except BaseException:  # noqa: ASYNC103, BLE001  (the user's __str__ may raise anything)
        return "<the error's text could not be made>"  # noqa: ASYNC104 - no checkpoint in str()


def _leaves(group: BaseException) -> Iterator[BaseException]:
    # Without recursion, and one by one: groups may be nested deeper than the
    # stack, and hold each other so often that their number has no end.
    left = [group]
    for _ in range(_MAX_STEPS):
        if not left:
            return
        error = left.pop()
        if issubclass(type(error), BaseExceptionGroup):
            # What the group was made with, whatever its class shows instead.
            left += reversed(BaseExceptionGroup.__dict__["exceptions"].__get__(error))
        else:
            yield error
