"""How Sphinx builds the documentation: `make docs`."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import clreg_plugins

project = "clreg"
author = "The clreg authors"
copyright = author
version = release = clreg_plugins.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "report_pages"]

html_theme = "furo"
html_title = f"clreg {release}"
html_show_copyright = False

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say it in words
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Keys", "params_style")]

myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_output_stderr = "remove"  # warnings of third parties at import


def escape_shapes(app, what, name, obj, options, lines):
    """A shape such as (samples, K, *output) is no emphasis."""
    lines[:] = [re.sub(r"(``.*?``)|\*(?=\w+\))", lambda found: found[1] or r"\*", line) for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", escape_shapes)
