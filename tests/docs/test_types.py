"""The programs of the pages and of the README are well typed, as their readers' would be."""

import importlib.util
import re
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


def programs_of(page: Path) -> dict[str, str]:
    """The page's programs by their names in a folder of all pages, which begin with the page's."""
    first = re.sub(r"\W", "_", str(page.relative_to(ROOT).with_suffix("")))
    texts: dict[str, str] = {}
    for block in blocks_of(page):
        if block.kind == "python" and block.name is not None:
            assert block.name not in texts, f"{page}, line {block.line}: a second {block.name}"
            texts[block.name] = block.text
    modules = "|".join(name.removesuffix(".py") for name in texts)
    programs = {}
    for name, text in texts.items():
        text = re.sub(
            rf"^(\s*from) ({modules}) import", rf"\1 {first}_\2 import", text, flags=re.MULTILINE
        )
        text = re.sub(
            rf"^(\s*import) ({modules})$", rf"\1 {first}_\2 as \2", text, flags=re.MULTILINE
        )
        programs[f"{first}_{name}"] = text
    return programs


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="needs mypy")
def test_programs_are_well_typed(tmp_path: Path) -> None:
    """One mypy reads all: to find out about the libraries takes longer than the pages."""
    programs = {name: text for page in [README, *PAGES] for name, text in programs_of(page).items()}
    for name, text in programs.items():
        (tmp_path / name).write_text(text)

    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", *STRICTNESS),
            *("--config-file=", "--cache-dir=/dev/null", *programs),
        ],
        check=False,
        cwd=tmp_path,
        env={"MYPYPATH": str(SOURCE.parent.resolve())},
        capture_output=True,
        text=True,
    )

    assert done.stdout == f"Success: no issues found in {len(programs)} source files\n", done
