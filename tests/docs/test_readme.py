"""The bounds of the README and of the tables of guarantees."""

import re
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, README, SOURCE

GUARANTEES = DOCS / "explanation/guarantees.md"


def guarantees_of(page: Path) -> list[list[str]]:
    """The rows of the page's tables whose head has the columns *Read* and *Shown by*."""
    rows: list[list[str]] = []
    is_table = False
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if line.startswith("|") and "Read" in cells:
            is_table = True
        elif not line.startswith("|"):
            is_table = False
        elif is_table and set(cells[0]) != {"-"}:
            rows.append(cells)
    return rows


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 200


@pytest.mark.parametrize(
    ("page", "row"),
    [(page, row) for page in (README, GUARANTEES) for row in guarantees_of(page)],
    ids=lambda each: each[0][:50] if isinstance(each, list) else each.name,
)
def test_guarantee_is_checked_by_reading_a_few_modules(page: Path, row: list[str]) -> None:
    _guarantee, _limits, read, shown_by = row
    modules = re.findall(r"`([\w/]+\.py)`", read)

    assert 1 <= len(modules) <= 5
    lines = {each: len((SOURCE / each).read_text().splitlines()) for each in modules}
    assert sum(lines.values()) <= 900, lines
    # That each test exists, `test_blocks.py` checks.
    assert re.search(r"`(\w+/)*test_\w+\.py(::\w+)?`", shown_by), page.name


def test_readme_has_the_guarantees() -> None:
    assert len(guarantees_of(README)) >= 12
