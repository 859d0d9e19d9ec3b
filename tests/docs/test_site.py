"""The documentation as a site: its navigation, what its buttons copy, what its search knows."""

import ast
import importlib.util
import re
from types import ModuleType
from typing import Any

import pytest

from tests.docs.blocks import DOCS, PAGES, Block, blocks_of, commands_of

INDEX = DOCS / "index.md"

CONSOLE_BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(DOCS)}:{block.line}")
    for page in PAGES
    for block in blocks_of(page)
    if block.kind == "console"
]


def groups() -> list[tuple[str, list[str]]]:
    """The captions of the navigation, each with the pages below it."""
    found = []
    for block in blocks_of(INDEX):
        if block.kind == "{toctree}":
            caption = re.search(r"^:caption: (.*)$", block.text, re.MULTILINE)
            entries = re.findall(r"^(?!:)\S.*$", block.text, re.MULTILINE)
            pages = [re.sub(r"^.*<(.*)>$", r"\1", entry) for entry in entries]
            found.append((caption[1] if caption else "", pages))
    return found


def test_navigation_has_the_four_groups_of_the_pages() -> None:
    assert [caption for caption, _ in groups()] == [
        "Tutorial",
        "How-to guides",
        "Reference",
        "Explanation",
    ]


def test_every_page_is_in_one_group() -> None:
    grouped = [page for _, pages in groups() for page in pages]

    assert sorted(grouped) == sorted(
        str(page.relative_to(DOCS).with_suffix("")) for page in PAGES if page != INDEX
    )


def test_page_is_in_the_group_of_its_folder() -> None:
    folders = {"how-to": "How-to guides", "reference": "Reference", "explanation": "Explanation"}

    for caption, pages in groups():
        for page in pages:
            folder, slash, _ = page.partition("/")
            assert not slash or folders[folder] == caption, page


def settings() -> dict[str, Any]:
    """Those of Sphinx that are written as they are: it need not be installed."""
    found = {}
    for node in ast.parse((DOCS / "conf.py").read_text()).body:
        match node:
            case ast.Assign(targets=[ast.Name(name)], value=ast.Constant(value)):
                found[name] = value
    return found


def copied(text: str) -> str:
    """What the button takes of a block: `formatCopyText` of sphinx-copybutton, by our settings."""
    setting = settings()
    assert setting["copybutton_prompt_is_regexp"]
    assert setting["copybutton_only_copy_prompt_lines"]
    assert setting["copybutton_remove_prompts"]
    assert not setting["copybutton_copy_empty_lines"]
    prompt = re.compile(f"^({setting['copybutton_prompt_text']})(.*)")
    lines, goes_on, has_prompt = [], False, False
    for line in text.split("\n"):
        match = prompt.match(line)
        if match or goes_on:
            lines.append(match[2] if match else line)
            has_prompt = has_prompt or match is not None
            goes_on = line.endswith(setting["copybutton_line_continuation_character"])
    return "\n".join(lines) if has_prompt else text.removesuffix("\n")


@pytest.mark.parametrize("block", CONSOLE_BLOCKS)
def test_button_copies_the_commands_without_prompts_and_output(block: Block) -> None:
    commands = [command.text for command in commands_of(block) if command.text != "^C"]

    if commands:
        assert copied(block.text) == "\n".join(commands)


@pytest.mark.parametrize("block", CONSOLE_BLOCKS)
def test_block_of_output_alone_has_no_prompt_and_so_no_button(block: Block) -> None:
    pygments = pytest.importorskip("pygments")  # pytest brings it, without types
    lexer = pytest.importorskip("pygments.lexers").get_lexer_by_name("console")
    html = pytest.importorskip("pygments.formatters").HtmlFormatter()

    has_prompt = 'class="gp"' in pygments.highlight(block.text, lexer, html)

    assert has_prompt == any(command.text != "^C" for command in commands_of(block))
    assert ":has(.gp)" in (DOCS / "conf.py").read_text()


def test_button_copies_the_whole_of_a_block_that_is_no_console() -> None:
    blocks = [block for page in PAGES for block in blocks_of(page) if block.kind != "console"]
    copyable = [block for block in blocks if block.kind != "text" and block.kind[0] != "{"]

    assert {"python", "toml", "sh"} <= {block.kind for block in copyable}
    for block in copyable:
        assert copied(block.text) == block.text.removesuffix("\n")


def section_search() -> ModuleType:
    """The extension that writes the entries of the search."""
    specification = importlib.util.spec_from_file_location(
        "section_search", DOCS / "_extensions/section_search.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


needs_sphinx = pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="needs sphinx")


@needs_sphinx
def test_search_knows_every_section_by_its_words_and_the_keys_of_its_tables() -> None:
    docutils = pytest.importorskip("docutils.core")
    page = docutils.publish_doctree(
        "HTTP\n====\n\nThe *whole*.\n\n"
        "Errors\n------\n\nSee ``detail``.\n\n"
        "=== ==========\n429 *no* room\n503 stopping\n=== ==========\n",
        settings_overrides={"doctitle_xform": False},
    )

    entries = list(section_search().entries_of(page, "http.html"))

    assert entries == [
        {
            "page": "HTTP",
            "title": "HTTP",
            "address": "http.html",
            "keys": [],
            "text": "The whole.",
        },
        {
            "page": "HTTP",
            "title": "Errors",
            "address": "http.html#errors",
            "keys": ["429", "503"],
            "text": "See detail. 429 no room 503 stopping",
        },
    ]


@needs_sphinx
def test_search_shows_a_type_of_a_signature_once_by_its_short_name() -> None:
    docutils = pytest.importorskip("docutils.utils")
    nodes = pytest.importorskip("docutils.nodes")
    addnodes = pytest.importorskip("sphinx.addnodes")
    short = addnodes.pending_xref_condition("", "Job", condition="resolved")
    full = addnodes.pending_xref_condition("", "trio_jobs.Job", condition="*")
    signature = addnodes.desc_signature(
        "", "", nodes.Text("get() -> "), addnodes.pending_xref("", short, full), ids=["jobs.get"]
    )
    page = docutils.new_document("python")
    page += addnodes.desc("", signature)

    [entry] = section_search().entries_of(page, "python.html")

    assert entry["text"] == "get() -> Job"
