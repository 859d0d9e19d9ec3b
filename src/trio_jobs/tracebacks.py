"""Tracebacks of exceptions whatever their classes do: making one never raises, and it ends.

Making a traceback runs the exception's own code (its texts, its class's names, its members), and
Python follows groups wherever they lead: into themselves, or into each other so often that it has
no end.
"""

import traceback
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from itertools import islice
from types import TracebackType

# Errors that are looked at: members of groups, causes and contexts. With more, only the outermost
# one's frames are shown: of what Python prints of a group nobody reads so much.
_MAX_ERRORS = 500


def traceback_text(error: BaseException) -> str:
    """The traceback as Python would print it; of what it cannot print, the frames alone."""
    if has_traceback(error):
        try:
            return "".join(traceback.format_exception(error))
        except BaseException:  # noqa: ASYNC103, BLE001, S110 - its own code may raise anything
            pass
    return f"{frames_text(error)}<the error could not be shown>\n"


def has_traceback(error: BaseException) -> bool:
    """Whether a traceback of it has an end, so that a log that is not ours may try to make it."""
    try:
        return sum(1 for _ in islice(_errors(error), _MAX_ERRORS + 1)) <= _MAX_ERRORS
    except BaseException:  # noqa: ASYNC103, BLE001 - as above
        return False  # noqa: ASYNC104 - no checkpoint in there


def _errors(error: BaseException) -> Iterator[BaseException]:
    """The errors that Python's own walk visits: a group's members as often as they come."""
    chained = set()
    walks = [iter([error])]
    while walks:
        each = next(walks[-1], None)
        if each is None:
            walks.pop()
            continue
        yield each
        if isinstance(each, BaseExceptionGroup):
            walks.append(iter(each.exceptions))
        if id(each) not in chained:
            chained.add(id(each))
            walks.append(other for other in (each.__cause__, each.__context__) if other is not None)


def traceback_of(error: BaseException) -> TracebackType | None:
    """The error's traceback, whatever its class shows instead."""
    found: TracebackType | None = BaseException.__dict__["__traceback__"].__get__(error)
    return found


def begin_with_others(error: BaseException, own: AbstractSet[str]) -> None:
    """Let the error's traceback begin with the user's code, if there is any in it.

    Each frame takes longer to print than most jobs to run.

    Args:
        error: What was raised.
        own: The names of the modules around the user's code.
    """
    frames = traceback_of(error)
    while frames is not None and frames.tb_frame.f_globals.get("__name__") in own:
        frames = frames.tb_next
    if frames is not None:
        BaseException.__dict__["__traceback__"].__set__(error, frames)


def frames_text(error: BaseException) -> str:
    """The frames alone, as Python would print them."""
    try:
        return "".join(traceback.format_tb(traceback_of(error)))
    except BaseException:  # noqa: ASYNC103, BLE001 - a source line is asked of an importer
        return ""  # noqa: ASYNC104 - as above
