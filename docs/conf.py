"""How Sphinx builds these pages: offline, and with every warning an error (`.ci/run`)."""

import inspect
from importlib.metadata import version as installed_version

from sphinx.application import Sphinx

project = "trio-jobs"
version = release = installed_version("trio-jobs")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
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

# It is part of Sphinx, and loads nothing from elsewhere.
html_theme = "alabaster"
html_theme_options = {"description": "Each job exactly once, in one process", "fixed_sidebar": True}
html_show_sourcelink = False


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


def setup(app: Sphinx) -> None:
    """Connect the above."""
    app.connect("autodoc-process-signature", show_context_managers)
