"""`ProgressReport`: what a handler reports of its job's progress. Imports no Trio."""

from datetime import datetime

import msgspec

from trio_jobs.error_text import readable
from trio_jobs.progress import MAX_MESSAGE, Progress

# Each reader of JSON takes integers up to this one exactly.
_MAX_NUMBER = 2**53


class ProgressReport(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a handler reports; see `Progress`."""

    done: int | float
    total: int | float | None
    message: str

    @classmethod
    def of(cls, done: object, total: object, message: object) -> "ProgressReport":
        """Check a report, and cut its message.

        Raises:
            TypeError: ``done`` or ``total`` is no number, or ``message`` no text.
            ValueError: A number is less than 0, greater than 2**53, or not finite.
        """
        if not isinstance(message, str):
            raise TypeError(f"message must be a text, got {type(message).__name__}")
        return cls(
            _number("done", done),
            None if total is None else _number("total", total),
            readable(str.__str__(message), MAX_MESSAGE),
        )

    def at(self, time: datetime) -> Progress:
        """The progress that was reported at this time (UTC)."""
        return Progress(done=self.done, total=self.total, message=self.message, at=time)


def _number(name: str, value: object) -> int | float:
    # Plain numbers, not instances of a subclass, which JSON may not take.
    if isinstance(value, int) and not isinstance(value, bool):
        value = int.__int__(value)
    elif isinstance(value, float):
        value = float.__float__(value)
    else:
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not 0 <= value <= _MAX_NUMBER:  # NaN is neither
        # Python refuses to print an integer of more than 4,300 digits.
        found = "more" if isinstance(value, int) and value.bit_length() > 64 else repr(value)
        raise ValueError(f"{name} must be a number from 0 to 2**53, got {found}")
    return value
