"""A drawing as a file of its own: SVG, or PNG for slides and papers.

    check_plot(Path("hard.svg"))
    write_plot(Path("hard.svg"), 6, 4, "What it shows", draw)      # draw(figure)

On a page the same drawings stand as `report/svg.py` makes them; a file has a white ground and names its font.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from shotfit.data.rows import check_file
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import write_atomically
from shotfit.report.svg import check_extra, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_plot", "write_plot"]

FORMS = (".svg", ".png")
PNG_DPI = 150


def check_plot(path: Path, flag: str = "--plot") -> None:
    """Refuse, before anything is computed, a file that no plot can be written to, and a missing extra.

    Raises UsageError.
    """
    if path.suffix.lower() not in FORMS:
        raise UsageError(f"{flag} is {path}; expected a file that ends in .svg or .png, such as plot.svg.")
    check_file(path, flag)
    check_extra()


def write_plot(path: Path, width: float, height: float, title: str, draw: Callable[[Figure], None]) -> None:
    """Draw a figure of so many inches into a file, whole or not at all.

    Raises ShotfitError where it cannot be written.
    """
    form, stream = path.suffix.lower().removeprefix("."), io.BytesIO()
    with drawing(width, height, title, "plot") as drawn:
        draw(drawn.figure)
        about = {"Date": None, "Creator": None, "Title": title} if form == "svg" else {"Title": title}
        drawn.figure.savefig(stream, format=form, facecolor="white", dpi=PNG_DPI, metadata=about)
    try:
        write_atomically(path, stream.getvalue())
    except OSError as error:
        raise ShotfitError(f"{path} cannot be written ({error.strerror}): name another --plot.") from None
