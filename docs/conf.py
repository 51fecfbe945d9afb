"""How Sphinx makes the site from the Markdown that is there: `tools/docs` runs it.

The source folder is the root of the repository, so that links between pages, to README.md or to a file of the sources
are the same on the site and on a code host. `docs/index.md` is plain Markdown, too: what a section of it lists becomes
an entry of the navigation.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the API is read from the sources

from onnxprune import __version__  # noqa: E402

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project, author, release = "onnxprune", "the authors of onnxprune", __version__
copyright = author  # noqa: A001  (the name is Sphinx's)

root_doc = "docs/index"
include_patterns = ["docs/**", "models/README.md", "*.md"]
exclude_patterns = [".*", "build", "dist", "onnxprune", "tests", "tools", "**/*.onnx", "**/*.npz"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
suppress_warnings = ["myst.xref_missing_download"]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_google_docstring, napoleon_numpy_docstring = True, False

html_theme = "furo"
html_title = f"onnxprune {release}"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_extra_path = ["site/index.html"]
html_show_sphinx = False
html_copy_source = False
highlight_language = "none"  # blocks without a language are notation and printed text

LINK = re.compile(r"^- \[([^\]]+)\]\(([^)]+)\.md\)", re.MULTILINE)


def with_navigation(index: str) -> str:
    """Return `docs/index.md` with a hidden toctree in each section, of the pages that its list links to."""
    head, *sections = re.split(r"^(?=## )", index, flags=re.MULTILINE)
    return head + "\n".join(section + navigation(section) for section in sections)


def navigation(section: str) -> str:
    """Return the toctree of a section of `docs/index.md`; nothing where it lists no page."""
    entries = [f"{title} <{page}>" for title, page in LINK.findall(section)]
    caption = section.partition("\n")[0].removeprefix("## ")
    lines = ["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```", ""]
    return "\n".join(lines) if entries else ""


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """Complete the index as it is read; see Sphinx's event `source-read`."""
    if name == app.config.root_doc:
        source[0] = with_navigation(source[0])


def setup(app: Sphinx) -> None:
    """Register what happens when pages are read."""
    app.connect("source-read", read)
