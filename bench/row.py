"""A row of the table: what was measured, against what, and what it was to reach."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.measuring import Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The bound that a row's figure is to keep.

    Attributes:
        bound: The number.
        at_most: Whether it is a ceiling; a floor otherwise.
        unit: What follows the number.
    """

    bound: float
    at_most: bool
    unit: str = "×"

    def met_by(self, figure: float) -> bool:
        """Whether the figure keeps it."""
        return figure <= self.bound if self.at_most else figure >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:,.10g}{self.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row, measured.

    Attributes:
        number: Its number in the table.
        what: What was measured.
        against: What it is compared with.
        figure: The ratio, or the amount where there is nothing to compare with.
        reach: What it was to reach; None where the figure is given as it is.
        sides: Each side in its own unit, by name.
        sides_unit: That unit.
        unit: The figure's.
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
        """Each side, for a reader."""
        return " · ".join(
            f"{name}: {spread_text(spread, self.sides_unit)}" for name, spread in self.sides.items()
        )

    @property
    def verdict(self) -> str:
        """Whether it was reached, in a word."""
        if self.reach is None:
            return "as it is"
        return "met" if self.reach.met_by(self.figure.median) else "not met"


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A row, or a part of one, that could not be measured, and why. Nothing is guessed."""

    number: int
    what: str
    reason: str


Result = Row | Missing


def amount(value: float) -> str:
    """Three significant digits, as people write them."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread_text(spread: Spread, unit: str = "") -> str:
    """The median, and in brackets from where to where the turns went."""
    return f"{amount(spread.median)}{unit} ({amount(spread.low)} to {amount(spread.high)})"
