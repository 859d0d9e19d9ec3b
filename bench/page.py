"""``docs/performance.md``: the table, the pictures, the machine, and what it all means."""

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.children import ROOT
from bench.peers import redis_server
from bench.peers.environments import BACKGROUND_TASKS, QUEUES
from bench.pictures import draw_comparison, draw_growth
from bench.row import Missing, Result, Row, spread_text
from bench.words import INTRODUCTION, LIMITS, MEANINGS

_PAGE = ROOT / "docs" / "performance.md"
_PICTURES = ROOT / "docs" / "performance"

_OURS = ("trio", "quart", "quart-trio", "hypercorn", "h11", "msgspec")


def write_page(results: Sequence[Result], *, minutes: float) -> Path:
    """Write the page and its pictures.

    Args:
        results: All rows, of one run.
        minutes: How long that took.
    """
    _PICTURES.mkdir(parents=True, exist_ok=True)
    rows = [each for each in results if isinstance(each, Row)]
    parts = [
        INTRODUCTION,
        "## The table\n\n" + _table(results),
        *_missing(results),
        "## Both sides in their own units\n\n" + _details(rows),
        "## How costs grow\n\n" + _growth_pictures(rows),
        *_comparison_picture(rows),
        "## What the rows mean\n\n" + _meanings(rows),
        "## The machine and the versions\n\n" + _machine(minutes),
        LIMITS,
    ]
    _PAGE.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")
    return _PAGE


def _table(results: Sequence[Result]) -> str:
    lines = ["| # | what | against | measured | to reach | |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {each.number} | {each.what} | {each.against} | {spread_text(each.figure, each.unit)} "
        f"| {each.reach or '–'} | {each.verdict} |"
        for each in results
        if isinstance(each, Row)
    ]
    return "\n".join(lines)


def _missing(results: Sequence[Result]) -> list[str]:
    missing = [each for each in results if isinstance(each, Missing)]
    if not missing:
        return []
    lines = [f"- {each.number}: {each.what}: {each.reason.splitlines()[0]}" for each in missing]
    return ["Missing in this run:\n\n" + "\n".join(lines)]


def _details(rows: Sequence[Row]) -> str:
    return "\n".join(f"- **{row.number}**, {row.what}: {row.details}" for row in rows if row.sides)


def _growth_pictures(rows: Sequence[Row]) -> str:
    pictures = []
    changes, lookups = _operations(rows)
    if changes and lookups:
        draw_growth(
            _PICTURES / "growth.svg",
            [("What changes the store", changes), ("What looks jobs up", lookups)],
            along="jobs in the store",
        )
        pictures.append(
            "![The time of one operation, by the number of stored jobs](performance/growth.svg)"
        )
    workers = [row for row in rows if row.number == 7]
    if workers:
        draw_growth(
            _PICTURES / "workers.svg",
            [("CPU of a job, from submission to completion", workers)],
            along="workers",
        )
        pictures.append(
            "![The CPU of a job from submission to completion, by the number of workers]"
            "(performance/workers.svg)"
        )
    return "\n\n".join(pictures)


def _operations(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Those of row 6 that change the store, and those that look jobs up."""
    measured = [row for row in rows if row.number == 6]
    changes = [row for row in measured if row.what.startswith(("submit", "claim", "complete"))]
    return changes, [row for row in measured if row not in changes]


def _comparison_picture(rows: Sequence[Row]) -> list[str]:
    drawn = [row for row in rows if row.number in {11, 12, 13} and row.reach is not None]
    if not drawn:
        return []
    titles = [f"{row.number}: {row.what}" for row in drawn]
    draw_comparison(_PICTURES / "peers.svg", drawn, titles=titles)
    return ["## Beside other queues\n\n![Rows 11 to 13 by contestant](performance/peers.svg)"]


def _meanings(rows: Sequence[Row]) -> str:
    numbers = sorted({row.number for row in rows})
    return "\n\n".join(f"**{number}.** {MEANINGS[number]}" for number in numbers)


def _machine(minutes: float) -> str:
    ours = ", ".join(f"{name} {version(name)}" for name in _OURS)
    lines = [
        f"- On {datetime.now(UTC):%Y-%m-%d} in {minutes:.1f} minutes, at commit {_commit()}",
        f"- {_processor()}, {os.cpu_count()} cores, {_memory()}; {_system()}",
        f"- Python {sys.version.split()[0]}; {ours}",
    ]
    program = redis_server.find()
    if program is not None:
        lines.append(f"- redis-server {redis_server.version(program)}")
    lines += [
        f"- {peer.name}: {peer.versions()}"
        for peer in (*QUEUES, BACKGROUND_TASKS)
        if peer.installed
    ]
    return "\n".join(lines)


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _system() -> str:
    return f"{platform.system()} {platform.release().partition('-')[0]}"


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
