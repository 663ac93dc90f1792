"""The documentation as a site: `make docs`, then open build/docs/index.html."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

import shotfit

HERE = Path(__file__).parent

project = "shotfit"
author = "the authors of shotfit"
version = release = shotfit.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["log/*"]
html_theme = "furo"
html_title = "shotfit"
html_static_path = ["_static"]
html_copy_source = False
templates_path: list[str] = []
default_role = "code"
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True


def without_source_links(_: Sphinx, __: str, source: list[str]) -> None:
    """A page links to files of the repository, which the site has not: their names stay."""

    def name(link: re.Match[str]) -> str:
        words, target = link.groups()
        return f"[{words}]({target})" if (HERE / target.partition("#")[0]).suffix == ".md" else words

    source[0] = re.sub(r"\[([^\]]+)\]\((\.\./[^)]+)\)", name, source[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", without_source_links)
