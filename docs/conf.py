"""How Sphinx builds these pages: offline, and with every warning an error (`.ci/run`)."""

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

# As fields they would list what constructors of ours take, which are nobody else's to call.
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Not as objects of their own: every `type[…]` in a signature would be linked to `Job.type`.
napoleon_use_ivar = True
napoleon_custom_sections = ["Cancellation", "Checkpoints"]
# Docstrings name things in single backticks.
default_role = "code"

# It has a dark mode and a layout for phones, and loads nothing from elsewhere.
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
    # The blue of the mark and of the plots; lighter where it is on dark.
    "light_css_variables": {"color-brand-primary": "#005f94", "color-brand-content": "#005f94"},
    "dark_css_variables": {"color-brand-primary": "#6cbcf0", "color-brand-content": "#6cbcf0"},
}

# A reader of a console block copies its commands, without prompts and output; of any other block
# the whole. What is output alone (a `text` block, the log after `^C`) has no button.
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

_TEST = re.compile(r"(?:\w+/)*test_\w+\.py(?:::\w+)?")


def show_context_managers(
    _app: Sphinx,
    _what: str,
    _name: str,
    function: object,
    _options: object,
    parameters: str | None,
    result: str | None,
) -> tuple[str | None, str | None]:
    """Sign what `asynccontextmanager` decorates with what its callers get."""
    is_generator = inspect.isasyncgenfunction(inspect.unwrap(function))
    if result is not None and is_generator and not inspect.isasyncgenfunction(function):
        result = result.replace("AsyncIterator", "AbstractAsyncContextManager")
    return parameters, result


def tell_tests(_app: Sphinx, page: nodes.document, _name: str) -> None:
    """Give names of tests a class: they are long, and most readers read over them."""
    for literal in page.findall(nodes.literal):
        if _TEST.fullmatch(literal.astext()):
            literal["classes"].append("test")


def setup(app: Sphinx) -> None:
    """Connect the above."""
    app.connect("autodoc-process-signature", show_context_managers)
    app.connect("doctree-resolved", tell_tests)
