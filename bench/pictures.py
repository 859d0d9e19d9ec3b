"""The pictures of the page: how costs grow, and where the peers are. Drawn offline, as SVG."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.row import Row

# The same figures make the same file: no random ids, no date. Text stays text.
mpl.rcParams.update({"svg.hashsalt": "trio-jobs", "svg.fonttype": "none", "font.size": 9})

_METADATA = {"Date": None, "Creator": None}


def draw_growth(path: Path, rows: Sequence[Row], *, title: str) -> None:
    """A line for each row: what its sides cost, from the smallest to the largest."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        spreads = list(row.sides.values())
        places = range(len(spreads))
        name = row.what.partition(" at ")[0]
        axes.plot(places, [each.median for each in spreads], marker="o", label=name)
        axes.fill_between(
            places, [each.low for each in spreads], [each.high for each in spreads], alpha=0.2
        )
        axes.set_xticks(places, list(row.sides))
    axes.set_yscale("log")
    axes.set_ylabel(f"CPU ({rows[0].sides_unit.strip()})")
    axes.set_title(title)
    axes.grid(visible=True, axis="y", which="both", alpha=0.3)
    if len(rows) > 1:
        axes.legend(fontsize=8)
    else:
        axes.set_ylim(bottom=1)
    figure.savefig(path, metadata=_METADATA)


def draw_comparison(path: Path, rows: Sequence[Row], *, titles: Sequence[str]) -> None:
    """Bars for each row, one a contestant; logarithmic, for they are far apart."""
    figure = Figure(figsize=(7, 2.4 * len(rows)), layout="constrained")
    for place, (row, title) in enumerate(zip(rows, titles, strict=True)):
        _bars(figure.add_subplot(len(rows), 1, place + 1), row, title)
    figure.savefig(path, metadata=_METADATA)


def _bars(axes: Axes, row: Row, title: str) -> None:
    names = list(row.sides)[::-1]
    medians = [row.sides[name].median for name in names]
    colours = ["tab:orange" if name == "trio-jobs" else "tab:blue" for name in names]
    bars = axes.barh(names, medians, color=colours)
    axes.bar_label(bars, [f"{value:,.3g}" for value in medians], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_title(f"{title} ({row.sides_unit.strip()})")
