"""How Sphinx makes the site: `python3 make.py docs`.

Its source is the repository's root, so that links between Markdown files are the same on GitHub and on the site, and
are checked.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

from spice_select.pool.sources import PoolInput

os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).resolve().parent.parent

project = "spice-select"
author = "the spice-select authors"
release = version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/RESULTS.md",
    "tests/faults/FUZZ.md",
]  # fmt: skip
exclude_patterns = ["**/.*", "**/__pycache__", "spice-run*", "site", "build", "dist"]

myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
default_role = "literal"
smartquotes = False
highlight_language = "none"

html_theme = "furo"
html_title = f"spice-select {release}"
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["home"]  # index.html, which leads to docs/index.html


ALIASES = {stringify_annotation(kind, "smart"): name for kind, name in ((ArrayLike, "ArrayLike"), (PoolInput, "Pool"))}
"""Types that a signature spells out, and what they are called there."""
COLON = "\uff1a"
"""Stands for a colon while napoleon reads a property, which would take what is before it for a type."""


def titles_for_names(_app: Sphinx, _page: str, source: list[str]) -> None:
    """A link whose text is a file's name gets the title of its target: on GitHub one sees files, on the site pages."""
    source[0] = re.sub(r"\[[\w./-]+\.md\]\(([^)\s]+\.md(?:#[\w-]+)?)\)", r"[](\1)", source[0])


def with_aliases(_app: Sphinx, what: str, name: str, _about: object, _options: object, *text: str | None) -> Any:
    """Arguments and result of a signature with the names of `ALIASES`; of results, which nobody makes, none."""
    if what == "class" and not name.endswith("FileOptions"):
        return "", None
    for long, short in ALIASES.items():
        text = tuple(part and part.replace(long, short) for part in text)
    return text


def before_napoleon(_app: Sphinx, what: str, _name: str, about: object, _options: object, lines: list[str]) -> None:
    """Hide the colon of a property's first line; list the options of a class of options."""
    if what in ("property", "attribute"):
        lines[:1] = [line.replace(": ", COLON) for line in lines[:1]]
    if isinstance(about, type) and issubclass(about, BaseModel):
        for name, option in about.model_fields.items():
            default = option.get_default(call_default_factory=True)
            lines += ["", f"- ``{name}`` = ``{default!r}``: {option.description or ''}"]


def after_napoleon(_app: Sphinx, _what: str, _name: str, _about: object, _options: object, lines: list[str]) -> None:
    """Docstrings are plain text: bars and stars are themselves, and a plural may follow a name in backticks."""
    text = [re.sub(r"`([^`]+)`(?=\w)", r"`\1`\\ ", line).replace("|", r"\|") for line in lines]
    lines[:] = [line.replace(COLON, ": ").replace("'*'", r"'\*'").replace("'*=", r"'\*=") for line in text]


def setup(app: Sphinx) -> None:
    """Connect all; napoleon works at priority 500."""
    app.connect("source-read", titles_for_names)
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    app.connect("autodoc-process-signature", with_aliases)
