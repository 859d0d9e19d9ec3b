"""Writes the entries of the search: each section of the pages, each object of the Python reference.

Sphinx's own search leaves out numbers, such as 429. It takes `grace_period` and `grace period` for
two words, and ranks a page that mentions a word like a page about it. `_static/search.js` reads
the entries.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

# These nodes have entries of their own, or are no text of the page.
_ELSEWHERE = (nodes.section, addnodes.desc, nodes.title, addnodes.toctree, nodes.comment)


def entries_of(page: nodes.document, address: str) -> Iterator[dict[str, object]]:
    """Make an entry for each section and each object of a page.

    Args:
        page: The page's document tree.
        address: The page's URL, without an anchor.
    """
    page_title = ""
    for section in page.findall(nodes.section):
        title = section[0].astext()
        anchor = f"#{section['ids'][0]}" if page_title else ""
        page_title = page_title or title
        yield _entry(section, page=page_title, title=title, address=address + anchor)
    for description in page.findall(addnodes.desc):
        signature = description[0]
        if isinstance(signature, nodes.Element) and signature["ids"]:
            anchor = signature["ids"][0]
            title = anchor.removeprefix("trio_jobs.")
            yield _entry(description, page=page_title, title=title, address=f"{address}#{anchor}")


def _entry(node: nodes.Element, *, page: str, title: str, address: str) -> dict[str, object]:
    return {
        "page": page,
        "title": title,
        "address": address,
        # The keys of a table, which readers look up.
        "keys": [row[0].astext() for row in _rows(node)],
        "text": " ".join(" ".join(_texts(node)).split()),
    }


def _texts(node: nodes.Element) -> Iterator[str]:
    for child in node.children:
        if isinstance(child, _ELSEWHERE):
            continue
        if isinstance(child, nodes.TextElement):
            yield _text(child)
        elif isinstance(child, nodes.Element):
            yield from _texts(child)


def _text(node: nodes.Element) -> str:
    """The text of a node; of a type in a signature only the short name, which the page shows."""
    node = node.deepcopy()
    for name in list(node.findall(addnodes.pending_xref_condition)):
        if name["condition"] == "*":  # the full name
            name.parent.remove(name)
    return node.astext()


def _rows(node: nodes.Element) -> Iterator[nodes.row]:
    for child in node.children:
        if isinstance(child, nodes.table):
            yield from child.findall(nodes.row)


def write_entries(app: Sphinx, exception: Exception | None) -> None:
    """Write the entries of all pages to the file that the search page loads."""
    if exception is not None or app.builder.format != "html":
        return
    entries = [
        entry
        for name in sorted(app.env.found_docs)
        for entry in entries_of(app.env.get_doctree(name), app.builder.get_target_uri(name))
    ]
    # A script, not JSON: a page from a local disk may not fetch.
    path = Path(app.outdir, "_static", "search_entries.js")
    path.write_text(f"const ENTRIES = {json.dumps(entries)};\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, object]:
    """Connect the functions above."""
    app.connect("build-finished", write_entries)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
