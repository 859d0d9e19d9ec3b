"""Texts in the cells of a terminal: of foreign texts no byte is an order to the terminal."""

import os
from collections.abc import Sequence
from typing import Final

# Columns and lines of a terminal that does not say its size.
_USUAL_SIZE: Final = (80, 24)


def plain(text: object) -> str:
    """A text for people: what is not printable stands as a blank."""
    return "".join(each if each.isprintable() else " " for each in str(text))


def width_of(text: str) -> int:
    """How many cells a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def fit(text: str, width: int) -> str:
    """A printable text in exactly so many cells: cut, or filled with blanks."""
    found = width_of(text)
    if found > width:
        cut, found = "", 0
        for each in text:
            if found + _cells(each) > width - 1:
                break
            cut += each
            found += _cells(each)
        text, found = f"{cut}…", found + 1
    return text + " " * (width - found)


def table(rows: Sequence[Sequence[str]], *, width: int, right: frozenset[int]) -> list[str]:
    """Rows of printable texts as lines, the last column cut at the edge.

    Args:
        rows: All have the same number of columns.
        width: The most cells of a line.
        right: The columns that stand at their right edge: numbers.
    """
    widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        line = "  ".join(
            " " * (size - width_of(text)) + text if at in right else fit(text, size)
            for at, (text, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        lines.append(fit(line, width).rstrip() if width_of(line) > width else line)
    return lines


def terminal_size() -> os.terminal_size:
    """Columns and lines of the terminal behind standard output."""
    try:
        size = os.get_terminal_size(1)
    except OSError:
        return os.terminal_size(_USUAL_SIZE)
    return size if size.columns and size.lines else os.terminal_size(_USUAL_SIZE)


def _cells(char: str) -> int:
    import unicodedata

    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
