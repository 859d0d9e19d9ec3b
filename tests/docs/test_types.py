"""The programs of the pages and of the README are well typed, as their readers' would be."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, README, ROOT, SOURCE, blocks_of

# Strict but for what a page is easier to read without: most handlers and tests on it say the types
# of what they take, and not that they return what they obviously do.
STRICTNESS = [
    "--strict",
    "--allow-untyped-defs",
    "--allow-incomplete-defs",
    "--allow-untyped-calls",
    "--allow-untyped-globals",
]

WITH_PROGRAMS = [
    page for page in [README, *PAGES] if any(block.kind == "python" for block in blocks_of(page))
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mypy knows of the libraries: to find that out takes longer than a page."""
    return tmp_path_factory.mktemp("mypy")


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="needs mypy")
@pytest.mark.parametrize(
    "page", WITH_PROGRAMS, ids=[str(page.relative_to(ROOT)) for page in WITH_PROGRAMS]
)
def test_programs_are_well_typed(page: Path, cache: Path, tmp_path: Path) -> None:
    programs = {}
    for block in blocks_of(page):
        if block.kind == "python" and block.name is not None:
            assert block.name not in programs, f"line {block.line}: a second {block.name}"
            programs[block.name] = block.text
            (tmp_path / block.name).write_text(block.text)

    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", *STRICTNESS),
            *("--config-file=", f"--cache-dir={cache}", *programs),
        ],
        check=False,
        cwd=tmp_path,
        env={"MYPYPATH": str(SOURCE.parent.resolve())},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
