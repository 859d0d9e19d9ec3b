"""`DoneLines`: which lines of the input have a result, in one byte for each line."""

from collections.abc import Iterable, Iterator

_DONE = 0x80
_FAILED = 0x40
_REPEATS = 0x3F


class DoneLines:
    """What is known of each line of the input, by its number.

    Attributes:
        succeeded: How many lines have the result of a job that succeeded, also those only counted.
        failed: How many have another outcome.
    """

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed = 0
        self._bytes = bytearray()

    def mark(self, number: int, *, failed: bool) -> None:
        """Note the result that a line has from before this process. A second one has no effect."""
        self._reach(number)
        if not self._bytes[number] & _DONE:
            self._bytes[number] |= _DONE | (_FAILED if failed else 0)
            self.count(failed=failed)

    def count(self, *, failed: bool) -> None:
        """Count a result of this process. It needs no mark: the input goes on behind its line."""
        if failed:
            self.failed += 1
        else:
            self.succeeded += 1

    def is_done(self, number: int) -> bool:
        """Whether a line has a result."""
        return number < len(self._bytes) and self._bytes[number] >= _DONE

    def has_failed(self, number: int) -> bool:
        """Whether a line has a result that is no success."""
        return number < len(self._bytes) and bool(self._bytes[number] & _FAILED)

    def repeats(self, number: int) -> int:
        """How often `repeat` was called with a line, up to 63."""
        return self._bytes[number] & _REPEATS if number < len(self._bytes) else 0

    def repeat(self, numbers: Iterable[int]) -> None:
        """Note that the jobs of these lines are over, and that the lines want new ones."""
        for number in numbers:
            self._reach(number)
            if self.repeats(number) < _REPEATS:
                self._bytes[number] += 1

    def failures(self) -> Iterator[int]:
        """The numbers of the lines that have a result which is no success."""
        return (number for number, byte in enumerate(self._bytes) if byte & _FAILED)

    def forget_failures(self) -> None:
        """Take the results off the lines whose result is no success."""
        for number in self.failures():
            self._bytes[number] &= _REPEATS
        self.failed = 0

    @property
    def number(self) -> int:
        """How many lines have results."""
        return self.succeeded + self.failed

    def _reach(self, number: int) -> None:
        if number >= len(self._bytes):
            self._bytes.extend(bytes(number + 1 + number // 2 - len(self._bytes)))
