"""Drawings as SVG text that stands within a page: in its font, light and dark, and read aloud.

    with drawing(6, 4, "What it shows", "accuracy") as drawn:
        drawn.figure.subplots().plot([1, 2])
    drawn.svg

    with plot_file(Path("layers.png"), 6, 4) as figure:           # a picture of its own, SVG or PNG
        figure.subplots().plot([1, 2])

Colors of INKS become variables of the page's style sheet (`var(--ink, #1f2933)`), so that one drawing serves light,
dark and paper. Texts stay texts: whatever a class is called, it is escaped, on one line, of bounded length, and no
formula. Identifiers get the drawing's name in front, because several drawings stand on one page.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from shotfit.errors import UsageError
from shotfit.files import write_atomically
from shotfit.printing import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    *("HALO", "INK", "LINES", "MUTED", "PAPER", "Drawing"),
    *("check_extra", "check_plot", "drawing", "plot_file", "shortened"),
]

INK, MUTED, PAPER, GRID = "#1f2933", "#5b6773", "#fffffe", "#d5dbe1"
_INKS = {INK: "ink", MUTED: "muted", PAPER: "paper", GRID: "grid"}
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#9a7d0a", "#3c9bd6", "#7f6bd6", "#6b7280")
"""Colors of lines and points, told apart by most people, and seen on white and on black (after Okabe and Ito)."""

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # texts stay texts
    "svg.hashsalt": "shotfit",  # the same drawing has the same text
    "text.parse_math": False,  # a dollar sign in a name is one
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],  # which comes with the library, and measures the texts
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.dpi": 100,
}
HALO = "halo-"
"""How the `gid` of a text begins that is to be read on top of others: the page's style gives it a rim (`.halo`)."""
LONGEST = 2000  # letters of what a drawing says to those who do not see it
_one_at_a_time = threading.RLock()  # the library's settings are of the process


@dataclass
class Drawing:
    """A figure of matplotlib while it is drawn, and its SVG once it is."""

    figure: Figure
    svg: str = ""


def check_extra() -> None:
    """Raise UsageError where the libraries of the extra `report` are not installed."""
    try:
        import jinja2
        import matplotlib
    except ImportError as error:
        raise UsageError(
            "Reports are made with matplotlib and Jinja2, which are not installed: pip install 'shotfit[report]'."
        ) from error
    del jinja2, matplotlib


@contextmanager
def drawing(width: float, height: float, title: str, name: str) -> Iterator[Drawing]:
    """A figure to draw into, in inches; its `svg` is there when the block ends.

    title: what the drawing shows, for those who do not see it. name: of letters and hyphens, and no other drawing's of
    the page.

    Raises UsageError where matplotlib is not installed.
    """
    check_extra()
    import matplotlib
    from matplotlib.figure import Figure

    with _one_at_a_time, matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the page's font has it
        drawn = Drawing(Figure((width, height), layout="constrained"))
        yield drawn
        stream = io.BytesIO()
        drawn.figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    drawn.svg = _inline(stream.getvalue(), title, name)


def check_plot(out: Path) -> None:
    """Refuse a file that no plot can be written to, before anything is computed.

    Raises UsageError.
    """
    if out.suffix.lower() not in (".svg", ".png"):
        raise UsageError(f"--plot is {out}; expected a file that ends in .svg or .png.")
    if not out.parent.is_dir():
        raise UsageError(f"--plot is {out}, but there is no folder {out.parent}: make it first.")
    check_extra()


@contextmanager
def plot_file(out: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure to draw into, in inches, which is written to `out` (.svg or .png) when the block ends.

    Raises UsageError as `check_plot` does.
    """
    check_plot(out)
    import matplotlib
    from matplotlib.figure import Figure

    kind = out.suffix.lower()[1:]
    paper = {"figure.facecolor": "white", "savefig.facecolor": "white"}
    with _one_at_a_time, matplotlib.rc_context(_SETTINGS | paper):
        figure = Figure((width, height), layout="constrained")
        yield figure
        stream = io.BytesIO()
        undated = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(stream, format=kind, dpi=150, metadata=undated)
    write_atomically(out, stream.getvalue())


def shortened(text: object, most: int = 40) -> str:
    """A name in one line that does nothing, of bounded length: its beginning and its end.

    >>> shortened("a" * 50, 12), shortened("a\\x1b[31m")
    ('aaaaaaaa…aaa', 'a\\\\x1b[31m')
    """
    plain = printable(str(text)[: 4 * most] + str(text)[4 * most :][-most:])
    if len(plain) <= most:
        return plain
    tail = most // 4
    return f"{plain[: most - tail - 1]}…{plain[-tail:]}"


def _inline(content: bytes, title: str, name: str) -> str:
    """The drawing as an element of a page."""
    root = ElementTree.fromstring(content)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.split("}")[-1] in ("metadata", "style", "title"):
                parent.remove(child)
    for element in root.iter():
        if element.get("id", "").startswith(HALO):
            for text in element.iter(f"{{{_SVG}}}text"):
                text.set("class", "halo")
        for key, value in list(element.attrib.items()):
            element.set(key, _attribute(key, value, name))
    # size by the page: as wide as there is room, and never so small that its texts cannot be read
    width = float(root.get("width", "0pt").removesuffix("pt"))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {
        "id": name, "role": "img", "aria-labelledby": f"{name}-title",
        "style": f"width:100%;max-width:{width / 72 * 96:.0f}px;stroke-linejoin:round;stroke-linecap:butt",
    }  # fmt: skip
    label = ElementTree.Element(f"{{{_SVG}}}title", {"id": f"{name}-title"})
    label.text = shortened(title, LONGEST)
    root.insert(0, label)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href") and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    value = re.sub(r"url\(#", f"url(#{name}-", value)
    if key == "style":
        value = re.sub(r"font: ([\d.]+)px [^;]*", r"font-size: \1px", value)
        value = re.sub(r"font: (\d+|bold) ([\d.]+)px [^;]*", r"font-weight: \1; font-size: \2px", value)
    return re.sub(r"#[0-9a-f]{6}", _ink, value) if key in ("style", "fill", "stroke") else value


def _ink(found: re.Match[str]) -> str:
    color = found[0]
    return f"var(--{_INKS[color]}, {color})" if color in _INKS else color
