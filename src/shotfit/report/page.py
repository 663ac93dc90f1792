"""One self-contained page: the templates of assets/report, filled, with its style and its pictures in it.

    text = rendered("model.html", title="...", ...)
    write_page(Path("report.html"), text)

Nothing on it runs, and nothing is fetched: the page forbids both itself, too. What comes from outside is text: signs
that control anything become escapes, then every value is escaped for HTML.
"""

from __future__ import annotations

import base64
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import shotfit
from shotfit.data.images import as_jpeg, shown
from shotfit.data.pictures import Picture
from shotfit.data.rows import check_file
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.printed import p_value
from shotfit.files import write_atomically
from shotfit.report.svg import check_extra, shortened

__all__ = ["check_page", "named_in", "named_place", "rendered", "thumbnail", "write_page"]

TEMPLATES = Path(shotfit.__file__).parent / "assets" / "report"
SUFFIXES = (".html", ".htm")
LONGEST = 4000  # letters of any one value
QUALITY = 72


def check_page(path: Path, flag: str = "--out", model: Path | None = None) -> None:
    """Refuse, before anything is computed, a file that no report can be written to, and a missing extra.

    model: a folder that holds a model, or will: nothing else may stand there.

    Raises UsageError.
    """
    check_extra()
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{flag} is {path}; expected a file that ends in .html, such as report.html.")
    if model is not None and path.resolve().is_relative_to(model.resolve()):
        raise UsageError(
            f"{flag} {path} would lie in the model's folder, which holds a model alone: write it elsewhere."
        )
    check_file(path, flag)


def write_page(path: Path, text: str, flag: str = "--out") -> None:
    """Write the page. Raises ShotfitError where it cannot be."""
    try:
        write_atomically(path, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise ShotfitError(f"{path} cannot be written ({error.strerror}): name another {flag}.") from None


def rendered(template: str, **values: Any) -> str:
    """The page of a template. What we drew ourselves is marked as `safe` in the template; all other values are text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    def plain(value: Any) -> Any:
        if value is None:
            return "-"
        if hasattr(value, "__html__") or not isinstance(value, str):  # marked as safe, or a number
            return value
        return shortened(value, LONGEST)

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "name": lambda text: shortened(text, 60),
        "number": lambda value: f"{value:,}",
        "percent": lambda share: "-" if share is None else f"{100 * share:.1f} %",
        "hundredths": lambda share: "-" if share is None else f"{100 * share:.1f}",
        "points": lambda share: f"{100 * share:+.1f}",
        "p": _p,
    }
    today = datetime.now(timezone.utc).date().isoformat()
    return environment.get_template(template).render(**values, version=shotfit.__version__, today=today)


def thumbnail(picture: Picture, side: int) -> str | None:
    """A picture as an address that holds it (data:image/jpeg), of `side` pixels at most; None if it cannot be read."""
    try:
        small = as_jpeg(picture, side, QUALITY)
    except ShotfitError:
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(small).decode()}"


def named_place(path: str | Path) -> str:
    """How a page names a folder or file: as it was given, but of an absolute path the name alone."""
    place = Path(path)
    return place.name if place.is_absolute() else str(path)


def named_in(picture: Picture, source: Path) -> str:
    """A picture's name: within the source where it lies there, so that a page does not tell whose machine it was."""
    text, folder = str(picture), f"{source}{os.sep}"
    inside = text.removeprefix(folder) if text.startswith(folder) else named_place(shown(picture))
    return shortened(inside, 120)


def _p(value: float) -> str:
    text = p_value(value)
    return f"< {text[1:]}" if text.startswith("<") else f"= {text}"
