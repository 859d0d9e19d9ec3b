"""Puts the measured parts and the plots into ``docs/performance.md``; its prose stays."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.children import ROOT
from bench.disk import file_system
from bench.peers.environments import PEERS, POSTGRES_PEERS, find_redis
from bench.pictures import draw_comparison, draw_growth
from bench.row import Result, Row, spread_text

_PAGE = ROOT / "docs" / "performance.md"
_PICTURES = ROOT / "docs" / "performance"

# These rows keep their jobs in a file, and stand beside others.
_WITH_A_FILE = range(15, 20)

_OURS = ("trio", "quart", "quart-trio", "hypercorn", "h11", "msgspec")


def update_page(results: Sequence[Result], *, minutes: float) -> Path:
    """Replace each measured part of the page, and draw the plots.

    Args:
        results: All rows of one run.
        minutes: The length of that run.
    """
    rows = [each for each in results if isinstance(each, Row)]
    _draw(rows)
    text = _PAGE.read_text(encoding="utf-8")
    for name, part in (
        ("table", _table(results)),
        ("sides", _sides(rows)),
        ("machine", _machine(minutes)),
    ):
        begin, end = f"<!-- measured: {name} -->\n", f"<!-- end of {name} -->"
        pattern = f"(?<={re.escape(begin)}).*?(?={re.escape(end)})"
        text = re.sub(pattern, lambda _, part=part: f"{part}\n", text, flags=re.DOTALL)  # type: ignore[misc]
    _PAGE.write_text(text, encoding="utf-8")
    return _PAGE


def _table(results: Sequence[Result]) -> str:
    lines = ["| # | what | against | measured | to reach | |", "|---|---|---|---|---|---|"]
    for each in results:
        if isinstance(each, Row):
            lines.append(
                f"| {each.number} | {each.what} | {each.against} "
                f"| {spread_text(each.figure, each.unit)} | {each.reach or '–'} | {each.verdict} |"
            )
        else:
            reason = each.reason.splitlines()[0]
            lines.append(f"| {each.number} | {each.what} | – | missing: {reason} | – | |")
    return "\n".join(lines)


def _sides(rows: Sequence[Row]) -> str:
    lines = [f"- **{row.number}**, {row.what}: {row.details}" for row in rows if row.sides]
    return "\n".join(dict.fromkeys(lines))  # two lines of row 12 have the same sides


def _draw(rows: Sequence[Row]) -> None:
    _PICTURES.mkdir(parents=True, exist_ok=True)
    store = [row for row in rows if row.number == 6]
    moves = [row for row in store if row.what.startswith(("submit", "claim", "complete"))]
    draw_growth(
        _PICTURES / "growth.svg",
        [
            ("Operations that change the store", moves),
            ("Operations that look jobs up", [row for row in store if row not in moves]),
        ],
    )
    costs = [row for row in rows if row.number in {1, 3, 4, 5} and row.sides]
    sides = {name: spread for row in reversed(costs) for name, spread in row.sides.items()}
    poll = [(f"2: {row.what}", row) for row in rows if row.number == 2]
    job = ("1, 3, 4 and 5: the CPU of a job, by its way in", replace(costs[0], sides=sides))
    draw_comparison(_PICTURES / "costs.svg", [job, *poll])
    # Two lines of row 12 have the same sides.
    peers = {f"{row.number}: {row.what}": row for row in rows if row.number in {11, 12, 13}}
    if peers:
        draw_comparison(_PICTURES / "peers.svg", list(peers.items()))
    files = [row for row in rows if row.number in _WITH_A_FILE and row.reach is not None]
    if files:
        titled = [(f"{row.number}: {row.what}", row) for row in files]
        draw_comparison(_PICTURES / "files.svg", titled)


def _machine(minutes: float) -> str:
    commit = _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD") or "unknown"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    hardware = f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB; {file_system()}"
    names = (each for each in ("BENCH_TURNS", "BENCH_TRIAL") if each in os.environ)
    chosen = "".join(f" with {name}={os.environ[name]}" for name in names)
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    lines = [
        f"- On {datetime.now(UTC):%Y-%m-%d} in {minutes:.1f} minutes{chosen}, at commit {commit}",
        f"- {hardware}; {system}",
        f"- Python {sys.version.split()[0]}; {', '.join(f'{n} {version(n)}' for n in _OURS)}",
    ]
    redis = find_redis()
    if redis is not None:
        lines.append(f"- redis-server {_output(redis, '--version').split()[2][2:]}")
    peers = [peer for peer in (*PEERS, *POSTGRES_PEERS) if peer.installed]
    lines += [f"- {peer.name}: {peer.versions()}" for peer in peers]
    return "\n".join(lines)


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"^model name\s*: (.*)", text, re.MULTILINE)
    return model[1] if model else platform.machine()


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip()
