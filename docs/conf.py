"""How Sphinx builds these pages: offline, and with every warning an error (`.ci/run`)."""

from importlib.metadata import version as installed_version

project = "trio-jobs"
version = release = installed_version("trio-jobs")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
nitpicky = False

# Headings can be linked to.
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Cancellation", "Checkpoints"]
# Docstrings name things in single backticks.
default_role = "code"

# It is part of Sphinx, and loads nothing from elsewhere.
html_theme = "alabaster"
html_theme_options = {"description": "Each job exactly once, in one process", "fixed_sidebar": True}
html_show_sourcelink = False
