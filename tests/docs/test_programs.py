"""The programs of the pages begin as a program should that may have child processes."""

import ast
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, README, ROOT, Block, blocks_of

PROGRAMS = [
    (page, block)
    for page in [*PAGES, README]
    for block in blocks_of(page)
    if block.kind == "python" and "trio.run(" in block.text
]


@pytest.mark.parametrize(
    ("page", "block"),
    PROGRAMS,
    ids=[f"{page.relative_to(ROOT)}:{block.name}" for page, block in PROGRAMS],
)
def test_program_begins_only_where_it_is_started(page: Path, block: Block) -> None:
    tree = ast.parse(block.text)
    guarded = [
        node
        for statement in tree.body
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "__name__ == '__main__'"
        for node in ast.walk(statement)
    ]
    runs = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "trio.run"
    ]

    assert runs
    assert all(run in guarded for run in runs)
