"""A row of the table: a measured figure, its counterpart, and its bound."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.measuring import Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The bound of a row's figure: a ceiling with `at_most`, else a floor."""

    bound: float
    at_most: bool
    unit: str = "×"

    def met_by(self, figure: float) -> bool:
        """Whether the figure keeps the bound."""
        return figure <= self.bound if self.at_most else figure >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:,.10g}{self.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A measured row.

    Attributes:
        number: Its number in the table.
        what: The thing that is measured.
        against: The thing that it is compared with.
        figure: The ratio of the two, or an amount where there is no second thing.
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
    """The value with three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread_text(spread: Spread, unit: str = "") -> str:
    """The median, and in brackets the lowest and the highest turn."""
    return f"{amount(spread.median)}{unit} ({amount(spread.low)} to {amount(spread.high)})"
