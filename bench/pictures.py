"""The plots of the page, as SVG, drawn offline.

They are narrow with large letters for phones, and white behind for the dark theme. The colours are
Okabe and Ito's, which colour-blind readers can tell apart, darkened for letters; each line has its
name beside it.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from bench.row import Row, amount

# Without random ids and a date, the same figures make the same file. Text stays text.
mpl.rcParams.update(
    {
        "svg.hashsalt": "trio-jobs",
        "svg.fonttype": "none",
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": "#dddddd",
        "text.color": "#1a1a1a",
    }
)

_METADATA = {"Date": None, "Creator": None}
_WIDTH = 5.2  # inches

_BLUE, _VERMILION, _GREEN, _PURPLE, _GREY = "#0072b2", "#b84c00", "#007a59", "#a3457d", "#5c5c5c"
_COLOURS = (_BLUE, _VERMILION, _GREEN, _PURPLE, _GREY)

# A row with this suffix repeats the row without it: its line is dashed.
_ONCE_MORE = ", once more"

_UNITS = {" µs": "microseconds (µs)", " ms": "milliseconds (ms)", "/s": "jobs a second"}

# Values that are further apart than this are on a logarithmic axis.
_WIDE = 20

_PLAIN = FuncFormatter(lambda value, _: f"{value:,.10g}")

_HOW_DRAWN = "Dots{} are medians over the turns, {}\nreach from the lowest turn to the highest."


def draw_growth(path: Path, panels: Sequence[tuple[str, Sequence[Row]]]) -> None:
    """Draw a panel for each title, with a line for each of its rows.

    Args:
        path: The file.
        panels: Each title and its rows; the names of their sides are the x axis.
    """
    figure = Figure(figsize=(_WIDTH, 3.6 * len(panels) + 0.4), layout="constrained")
    every = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axes, (title, rows) in zip(every, panels, strict=True):
        _lines(axes, rows)
        axes.set_title(title)
        axes.set_xlabel("jobs in the store")
    figure.supxlabel(_HOW_DRAWN.format("", "shaded areas"), fontsize=9, x=0.02, ha="left")
    figure.savefig(path, metadata=_METADATA)


def _lines(axes: Axes, rows: Sequence[Row]) -> None:
    names = [row.what.partition(" at ")[0] for row in rows]
    kinds = list(dict.fromkeys(name.removesuffix(_ONCE_MORE) for name in names))
    starts = []
    for name, row in zip(names, rows, strict=True):
        spreads = list(row.sides.values())
        places = range(len(spreads))
        medians = [each.median for each in spreads]
        colour = _COLOURS[kinds.index(name.removesuffix(_ONCE_MORE))]
        style = "--" if name.endswith(_ONCE_MORE) else "-"
        axes.plot(places, medians, style, marker="o", color=colour)
        axes.fill_between(
            places,
            [each.low for each in spreads],
            [each.high for each in spreads],
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
        starts.append((medians[0], name, colour))
    axes.set_xticks(places, [side.split()[0] for side in rows[0].sides])
    axes.set_ylabel(_UNITS[rows[0].sides_unit])
    axes.grid(visible=True, axis="y")
    values = [each.median for row in rows for each in row.sides.values()]
    if max(values) > _WIDE * min(values):
        axes.set_yscale("log")
        _number(axes.yaxis, values)
        axes.set_ylabel(f"{axes.get_ylabel()}, logarithmic")
        axes.margins(y=0.15)
    else:
        axes.set_ylim(0, max(values) * 1.2)
    _name_lines(axes, starts)


def _name_lines(axes: Axes, starts: Sequence[tuple[float, str, str]]) -> None:
    """Write each line's name above its start, or below it if another line is close above."""
    to_part = axes.transScale + axes.transLimits
    above = math.inf
    for value, name, colour in sorted(starts, reverse=True):
        place = to_part.transform((0, value))[1]
        is_below = above - place < 0.18
        axes.annotate(
            name,
            (0, value),
            (0, -8 if is_below else 8),
            textcoords="offset points",
            va="top" if is_below else "bottom",
            color=colour,
        )
        above = place


def _number(axis: Axis, values: Sequence[float]) -> None:
    """Label a logarithmic axis with plain numbers, and a short one with more of them."""
    is_short = max(values) < 10 * min(values)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_short else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(_PLAIN)


def draw_comparison(path: Path, panels: Sequence[tuple[str, Row]]) -> None:
    """Draw a panel for each title, with each side of its row and the best at the top."""
    heights = [len(row.sides) + 2.5 for _, row in panels]
    figure = Figure(figsize=(_WIDTH, 0.42 * sum(heights) + 0.4), layout="constrained")
    every = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, row) in zip(every, panels, strict=True):
        _compare(axes, row)
        axes.set_title("\n".join(wrap(title.replace("`", ""), 36)))
    dots = " or bars and numbers"
    figure.supxlabel(_HOW_DRAWN.format(dots, "lines"), fontsize=9, x=0.02, ha="left")
    figure.savefig(path, metadata=_METADATA)


def _compare(axes: Axes, row: Row) -> None:
    """Draw bars, or dots on a logarithmic axis where a short bar would be too short to see."""
    is_rate = row.sides_unit == "/s"
    best_last = sorted(row.sides.items(), key=lambda side: side[1].median, reverse=not is_rate)
    medians = [spread.median for _, spread in best_last]
    is_wide = max(medians) > _WIDE * min(medians)
    for place, (name, spread) in enumerate(best_last):
        is_ours = name.startswith("trio-jobs")
        colour = _VERMILION if is_ours else _BLUE
        if not is_wide:
            axes.barh([place], [spread.median], 0.6, color=colour)
        axes.plot([spread.low, spread.high], [place, place], color="#1a1a1a", linewidth=1.5)
        if is_wide:
            axes.plot([spread.median], [place], "o", color=colour)
        axes.annotate(
            amount(spread.median),
            (max(spread.median, spread.high), place),
            (7, 0),
            textcoords="offset points",
            va="center",
            weight="bold" if is_ours else "normal",
        )
    axes.set_yticks(range(len(best_last)), [name for name, _ in best_last])
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text().startswith("trio-jobs") else "normal")
    if is_wide:
        axes.set_xscale("log")
        _number(axes.xaxis, medians)
        axes.margins(x=0.2)
    else:
        axes.set_xlim(0, max(spread.high for spread in row.sides.values()) * 1.2)
        axes.xaxis.set_major_locator(MaxNLocator(5))  # of large numbers, more would overlap
        axes.xaxis.set_major_formatter(_PLAIN)
    axes.set_ylim(-0.6, len(best_last) - 0.4)  # dots have no height, and need as much room
    scale = ", logarithmic" if is_wide else ""
    better = "more is better" if is_rate else "less is better"
    axes.set_xlabel(f"{_UNITS[row.sides_unit]}{scale}; {better}")
    axes.grid(visible=True, axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
