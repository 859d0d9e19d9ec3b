"""A row of the table: a measured figure, its counterpart, and its bound."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from bench.measuring import Spread, ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The bound of a row's figure: a ceiling or a floor."""

    bound: float
    at_most: bool
    unit: str

    def met_by(self, figure: float) -> bool:
        """Whether the figure keeps the bound."""
        return figure <= self.bound if self.at_most else figure >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:,g}{self.unit}"


def at_most(bound: float, unit: str = "×") -> Reach:
    """A ceiling."""
    return Reach(bound=bound, at_most=True, unit=unit)


def at_least(bound: float, unit: str = "×") -> Reach:
    """A floor."""
    return Reach(bound=bound, at_most=False, unit=unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A measured row.

    Attributes:
        number: Its number in the table.
        what: The thing that is measured.
        against: The thing that it is compared with.
        figure: The ratio of the two, or an amount with a unit.
        reach: The bound; None where the figure has none.
        sides: Each side's own values, by the side's name.
        sides_unit: The unit of the sides.
        unit: The unit of the figure.
    """

    number: int
    what: str
    against: str
    figure: Spread
    reach: Reach | None
    sides: Mapping[str, Spread] = field(default_factory=dict)
    sides_unit: str = ""
    unit: str = "×"

    @classmethod
    def of_turns(
        cls,
        names: tuple[int, str, str],
        values: Mapping[str, Sequence[float]],
        *,
        over: str,
        under: str,
        reach: Reach | None,
        unit: str,
    ) -> Self:
        """The ratio of two of the sides.

        Args:
            names: The number, what is measured, and against what.
            values: Each side's values, turn by turn.
            over: The side above the line.
            under: The side below the line.
            reach: The bound, and the unit of the figure.
            unit: The unit of the values.
        """
        number, what, against = names
        return cls(
            number=number,
            what=what,
            against=against,
            figure=ratio(values[over], values[under]),
            reach=reach,
            sides={name: Spread.of(each) for name, each in values.items()},
            sides_unit=unit,
            unit="×" if reach is None else reach.unit,
        )

    @property
    def details(self) -> str:
        """The sides as a line of text."""
        return " · ".join(
            f"{name}: {spread_text(spread, self.sides_unit)}" for name, spread in self.sides.items()
        )

    @property
    def verdict(self) -> str:
        """Whether the figure keeps its bound, in a word."""
        if self.reach is None:
            return "as it is"
        return "met" if self.reach.met_by(self.figure.median) else "not met"


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A row, or a part of a row, that could not be measured, and the reason."""

    number: int
    what: str
    reason: str


Result = Row | Missing


def amount(value: float) -> str:
    """The value with three significant digits, as people write it: 52,900 or 0.0123."""
    decimals = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{round(value, decimals):,.{max(0, decimals)}f}"


def spread_text(spread: Spread, unit: str = "") -> str:
    """The median, and in brackets the lowest and the highest turn."""
    return f"{amount(spread.median)}{unit} ({amount(spread.low)} to {amount(spread.high)})"
