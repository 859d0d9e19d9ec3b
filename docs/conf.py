"""Sphinx builds these pages offline, and `.ci/run` makes each warning an error."""

import inspect
import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

sys.path.append(str(Path(__file__).parent / "_extensions"))

project = "trio-jobs"
version = release = installed_version("trio-jobs")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "section_search",
]
exclude_patterns = ["_build"]
nitpicky = False

# Headings can be linked to.
myst_heading_anchors = 3

# As fields they would list the arguments of constructors that only trio-jobs calls.
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# As objects of their own, `Job.type` would be the target of each `type[…]` in a signature.
napoleon_use_ivar = True
napoleon_custom_sections = ["Cancellation", "Checkpoints"]
# Docstrings put names into single backticks.
default_role = "code"

# Furo has a dark mode and a layout for phones, and loads nothing from other hosts.
html_theme = "furo"
html_title = f"trio-jobs {version}"
html_logo = html_favicon = "_static/mark.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
templates_path = ["_templates"]
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {
    "top_of_page_buttons": [],
    # The blue of the mark and of the plots, lighter in the dark theme.
    "light_css_variables": {"color-brand-primary": "#005f94", "color-brand-content": "#005f94"},
    "dark_css_variables": {"color-brand-primary": "#6cbcf0", "color-brand-content": "#6cbcf0"},
}

# The button copies the commands of a console block, without prompts and output, and the whole of
# any other block. A block of output alone (a `text` block, the log after `^C`) has no button.
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
copybutton_remove_prompts = True
copybutton_copy_empty_lines = False
copybutton_line_continuation_character = "\\"
copybutton_selector = (
    "div:not(.highlight-console):not(.highlight-text) > .highlight > pre, "
    "div.highlight-console > .highlight > pre:has(.gp)"
)

_FILE = re.compile(r"(?:\w+/)*\w+\.py(?:::\w+)?")


def show_context_managers(
    _app: Sphinx,
    _what: str,
    _name: str,
    function: object,
    _options: object,
    parameters: str | None,
    result: str | None,
) -> tuple[str | None, str | None]:
    """Give a function of `asynccontextmanager` the type that its callers get."""
    is_generator = inspect.isasyncgenfunction(inspect.unwrap(function))
    if result is not None and is_generator and not inspect.isasyncgenfunction(function):
        result = result.replace("AsyncIterator", "AbstractAsyncContextManager")
    return parameters, result


def mark_tests(_app: Sphinx, page: nodes.document, _name: str) -> None:
    """Give names of tests, and of modules beside them in a table, a class of small letters."""
    for literal in page.findall(nodes.literal):
        text = literal.astext()
        is_cell = isinstance(literal.parent.parent, nodes.entry)
        if _FILE.fullmatch(text) and ("test_" in text or is_cell):
            literal["classes"].append("test")


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("autodoc-process-signature", show_context_managers)
    app.connect("doctree-resolved", mark_tests)
