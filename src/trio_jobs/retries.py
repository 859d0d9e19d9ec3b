"""`Retry`, `Snooze`, `GiveUp`: a handler raises them. `Cause`: what a failure tells a retry policy.

Imports no Trio: handlers in child processes import this module.
"""

from contextlib import suppress
from typing import Literal

import msgspec

# Seconds, ten years with three leap days. No clock and no date overflows at such a time.
MAX_DELAY = 315_619_200.0

# Characters of a class's name, and of all names in the causes of a failure: a child process sends
# them in a frame of bounded size.
_MAX_NAME = 300
_MAX_NAMES = 100_000

# Read past the classes' own code: an exception's class may override each of these.
_MRO = type.__dict__["__mro__"].__get__
_QUALNAME = type.__dict__["__qualname__"].__get__
_MODULE = type.__dict__["__module__"].__get__
_MEMBERS = BaseExceptionGroup.__dict__["exceptions"].__get__


class Retry(Exception):  # noqa: N818 - an instruction, as the two below
    """A handler raises this for another attempt of its job.

    It counts as an attempt, whatever the policy's ``on`` and ``never`` say. Beyond the policy's
    last attempt the job fails. The job's error is then the exception that ``Retry`` was raised
    from (``raise Retry from error``, or ``raise Retry`` in an ``except`` block), if there is one.

    Args:
        after: Seconds until the next attempt; None for the policy's backoff.

    Raises:
        ValueError: ``after`` is no number from 0 to ten years.
    """

    after: float | None = None

    def __init__(self, after: float | None = None) -> None:
        super().__init__("the handler asks for another attempt")
        if after is not None:
            self.after = _seconds(after, "after")


class Snooze(Exception):  # noqa: N818
    """A handler raises this if its job cannot run yet: the job runs again, later.

    It costs no attempt and needs no policy; a handler may raise it as often as it likes.

    Args:
        seconds: Seconds until the job runs again; less than a millisecond counts as one.

    Raises:
        ValueError: ``seconds`` is no number from 0 to ten years.
    """

    seconds: float

    def __init__(self, seconds: float) -> None:
        super().__init__("the handler asks to run later")
        self.seconds = _seconds(seconds, "seconds")


class GiveUp(Exception):  # noqa: N818
    """A handler raises this to fail its job at once, whatever the policy says."""


class ProcessDied(Exception):  # noqa: N818 - the name for policies
    """The process that ran a job has died: a retry policy can name this; no handler raises it."""


class Cause(msgspec.Struct, frozen=True, array_like=True):
    """One exception of a failure, which is no group itself.

    Attributes:
        kinds: The names of its class and of the base classes, ``package.module.Class``; empty if
            they are not known: no policy permits such a cause.
        wish: What it asks for if it is a `Retry`, a `Snooze` or a `GiveUp`.
        seconds: The time that a `Retry` or a `Snooze` asks for; None for the policy's backoff.
    """

    kinds: tuple[str, ...]
    wish: Literal["retry", "snooze", "give_up"] | None = None
    seconds: float | None = None


def causes_of(error: BaseException) -> tuple[Cause, ...]:
    """The causes of a failure: the exception itself, or those in it if it is a group.

    Equal causes are there once. Runs no code of the exceptions' classes, unless a subclass
    computes ``after`` or ``seconds``. Takes time in proportion to the groups' members.
    """
    causes: dict[Cause, None] = {}
    left, seen, length = [error], {id(error)}, 0
    while left:
        each = left.pop()
        if issubclass(type(each), BaseExceptionGroup):
            for member in _MEMBERS(each):
                if id(member) not in seen:  # groups may hold the same group many times
                    seen.add(id(member))
                    left.append(member)
            continue
        cause = _cause(each)
        if cause not in causes:
            causes[cause] = None
            length += sum(map(len, cause.kinds))
            if length > _MAX_NAMES:
                return (Cause(()),)
    return tuple(causes)


def class_name(type_: type) -> str:
    """The name by which policies know a class: ``package.module.Class``, cut to some length."""
    try:
        module = _MODULE(type_)
    except AttributeError:
        module = None
    if not isinstance(module, str):  # it may be anything, whose text is the user's code
        module = "<unknown>"
    elif module == "__mp_main__":  # a child process imports the program's own file by this name
        module = "__main__"
    name = f"{module}.{_QUALNAME(type_)}"[:_MAX_NAME]
    return name if name.isascii() else name.encode(errors="replace").decode()


def _cause(error: BaseException) -> Cause:
    # `issubclass`, not `isinstance`, which may ask the exception for its ``__class__``.
    type_ = type(error)
    kinds = tuple([class_name(each) for each in _MRO(type_) if each is not object])
    if issubclass(type_, GiveUp):
        return Cause(kinds, "give_up")
    with suppress(BaseException):  # a subclass may compute its time, or lack it: a plain failure
        if issubclass(type_, Retry):
            after = error.after  # type: ignore[attr-defined]
            return Cause(kinds, "retry", None if after is None else _seconds(after, "after"))
        if issubclass(type_, Snooze):
            return Cause(kinds, "snooze", _seconds(error.seconds, "seconds"))  # type: ignore[attr-defined]
    return Cause(kinds)


def _seconds(value: object, name: str) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value <= MAX_DELAY  # NaN is not
    ):
        raise ValueError(
            f"{name} must be a number of seconds from 0 to {MAX_DELAY:.0f}, got {value!r:.80}"
        )
    return float(value)
