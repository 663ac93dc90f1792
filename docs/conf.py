"""The documentation as a site: `make docs`, then open build/docs/index.html."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.matching import patmatch

import shotfit

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import method_pages  # noqa: E402
from docstrings import as_rst  # noqa: E402

project = "shotfit"
author = "the authors of shotfit"
version = release = shotfit.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc"]
exclude_patterns = ["log/*"]
html_theme = "furo"
html_title = "shotfit"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_show_search_summary = False  # summaries are fetched, which a browser refuses to a page of the file system
default_role = "code"
highlight_language = "none"
maximum_signature_line_length = 120
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"  # progress
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True


def without_links_outside(app: Sphinx, page: str, source: list[str]) -> None:
    """A page links to files of the repository that the site does not have: of these links the words stay."""
    folder = (HERE / page).parent

    def kept(link: re.Match[str]) -> str:
        words, target = link.groups()
        file = (folder / target).resolve()
        inside = file.relative_to(HERE).as_posix() if file.is_relative_to(HERE) else ""
        on_the_site = inside and not any(patmatch(inside, pattern) for pattern in app.config.exclude_patterns)
        return words if file.exists() and not on_the_site else link[0]

    source[0] = re.sub(r"(?<!!)\[([^\]]+)\]\(([^):#]+)(?:#[^)]*)?\)", kept, source[0])


def to_pages_of_methods(_: Sphinx, page: str, source: list[str]) -> None:
    """Links to sections about a method lead to its page."""
    if "/" not in page:
        source[0] = method_pages.linked(source[0])


def readable(_: Sphinx, kind: str, __: str, thing: object, ___: object, lines: list[str]) -> None:
    """What a docstring says of parameters, or of the fields of a dataclass, becomes a list."""
    names: set[str] = set()
    if dataclasses.is_dataclass(thing):
        names = {field.name for field in dataclasses.fields(thing)}
    elif kind in ("function", "method", "class", "exception"):
        names = {*inspect.signature(thing).parameters} if callable(thing) else set()
        names |= {*getattr(thing, "__annotations__", {})}
    lines[:] = "\n".join(as_rst(lines, names)).split("\n")


# Screen readers and keyboards need what Sphinx leaves out: levels of headings, lists that are none, focus to scroll.
ACCESSIBLE = {
    'role="heading"': 'role="heading" aria-level="2"',
    '<dl>\n<dd><em class="sig-param">': '<dl role="none">\n<dd><em class="sig-param">',
    '<dd><em class="sig-param">': '<dd role="none"><em class="sig-param">',
    "<pre>": '<pre tabindex="0">',
}


def accessible(_: Sphinx, __: str, ___: str, context: dict[str, Any], ____: object) -> None:
    """Mend the parts of a page."""
    for part in {"body", "furo_navigation_tree"} & context.keys():
        for found, mended in ACCESSIBLE.items():
            context[part] = context[part].replace(found, mended)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("html-page-context", accessible, priority=900)  # once the theme has made its parts
    app.connect("builder-inited", lambda _: method_pages.write())
    app.connect("source-read", to_pages_of_methods)
    app.connect("source-read", without_links_outside)
    app.connect("autodoc-process-docstring", readable)
