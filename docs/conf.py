"""Sphinx configuration; ``nox -s docs`` builds with warnings as errors."""

from __future__ import annotations

from importlib.metadata import version as installed_version

project = "moqtrio"
author = "The moqtrio contributors"
project_copyright = "The moqtrio contributors"
version = release = installed_version("moqtrio")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
exclude_patterns = ["_build"]
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "moqtrio"
