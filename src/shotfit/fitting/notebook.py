"""Results as people look at them in a notebook: a data frame of pandas, and a table of HTML.

    frame([{"image": "a.jpg", "label": "cat"}])
    html_table([{"image": "a.jpg", "label": "cat"}])

What is in the cells comes from outside, and is escaped.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shotfit.data.images import open_image
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError, UsageError, first_few, plural
from shotfit.fitting.figures import figures_of

if TYPE_CHECKING:
    import pandas

    from shotfit.fitting.model import Model

__all__ = ["MOST", "frame", "html_table", "model_line", "model_table", "thumbnail"]

MOST = 50
"""So many rows are shown."""
SIDE = 64
"""Pixels of the longer side of a thumbnail."""


def frame(rows: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """A data frame with a row for each mapping.

    Raises UsageError where pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise UsageError("Data frames need pandas, which is not installed: pip install 'shotfit[data]'.") from error
    return pandas.DataFrame(list(rows))


def html_table(rows: Sequence[Mapping[str, Any]], images: Sequence[str] = (), title: str = "") -> str:
    """A table of HTML of the first MOST rows. images: a tag that stands in front of each row."""
    if not rows:
        return f"<p>{html.escape(title)}</p>"
    names = list(rows[0])
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ([""] if images else []) + names)
    lines = [
        "<tr>"
        + (f"<td>{images[number]}</td>" if images else "")
        + "".join(f'<td style="text-align:{_side(row[name])}">{_cell(row[name])}</td>' for name in names)
        + "</tr>"
        for number, row in enumerate(rows[:MOST])
    ]
    caption = f"<caption>{html.escape(title)}</caption>" if title else ""
    more = f"<p>and {len(rows) - MOST:,} more</p>" if len(rows) > MOST else ""
    body = "".join(lines)
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def thumbnail(picture: Picture | None) -> str:
    """A small image as a tag of HTML; "" for one that cannot be read any more."""
    if picture is None:
        return ""
    try:
        image = open_image(picture, shorter=SIDE)
    except ShotfitError:
        return ""
    image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG")
    content = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{html.escape(str(picture))}" src="data:image/jpeg;base64,{content}">'


def _cell(value: Any) -> str:
    return "" if value is None else html.escape(f"{value:.3f}" if isinstance(value, float) else str(value))


def model_table(model: Model) -> str:
    """A fitted model as a table of HTML."""
    title, score, _ = figures_of(model.record.get("scores", {}))
    rows = [
        ("method", model.method.name),
        ("backbone", model.frozen.backbone.name),
        ("classes", f"{len(model.class_names):,}: {first_few(model.class_names, 8)}"),
        ("learned from", f"{model.record.get('support_images', 0):,} images"),
        *([] if score is None else [(f"{title} on held-out images", f"{100 * score:.1f} %")]),
    ]
    return html_table([{"": name, "model": value} for name, value in rows])


def model_line(model: Model) -> str:
    """A fitted model in a line, as Python shows it."""
    count = len(model.class_names)
    return f"<shotfit.Model {model.method.name} on {model.frozen.backbone.name}, {plural(count, 'class', 'classes')}>"


def _side(value: Any) -> str:
    return "right" if isinstance(value, (int, float)) else "left"
