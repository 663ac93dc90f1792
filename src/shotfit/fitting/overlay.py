"""A map drawn over its picture, with a legend.

    overlay(found).save("street.car.png")

The picture is gray where places lie, and from dark violet over green to yellow the more is seen of the class (viridis,
which people who see few colors read too, and which is a ramp of light in gray). Where no place lies it keeps its own
colors. A ring stands where most is seen. The legend has a ground of its own, for light and dark pages.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from shotfit.data.images import as_stored, opened_image, upright
from shotfit.fitting.maps import LONGEST, Map, scaled
from shotfit.printing import printable

__all__ = ["colors", "overlay"]

SHORTEST = 320  # pixels of the longer side; smaller pictures are enlarged
SHARE = 0.6  # of the map's color; the rest is the picture
RAMP = (
    (68, 1, 84), (71, 45, 123), (59, 82, 139), (44, 114, 142), (33, 145, 140), (40, 174, 128), (94, 201, 98),
    (173, 220, 48), (253, 231, 37),
)  # fmt: skip
"""Viridis at nine even steps."""
PAPER, INK = (250, 250, 248), (31, 41, 51)
SIZE, MARGIN = 15, 8  # of letters and around them, in pixels
LETTERS = 200  # of a name, more than fit
NOT_SEEN = "unshaded: outside of what the model looks at"


def overlay(found: Map, highest: float | None = None) -> Image.Image:
    """The picture upright with the map over it, and the legend below. Raises as `open_image` does.

    highest: what the lightest color stands for, by default the map's maximum. The darkest is 0 and below, where the
    class has no more than other classes.
    """
    width, height = scaled(found.width, found.height, SHORTEST, LONGEST)
    with opened_image(found.picture, shorter=2 * min(width, height)) as image:
        picture = as_stored(image, found.orientation).resize((width, height), Image.Resampling.LANCZOS)
    values = found.over(width, height)
    highest = max(0.0, float(found.places.max()) if highest is None else highest)
    shade = colors(values / max(highest, 1e-12))
    drawn = np.asarray(picture, dtype=np.float32)
    mixed = SHARE * shade + (1 - SHARE) * drawn @ np.array([0.299, 0.587, 0.114], dtype=np.float32)[:, None]
    seen = np.isfinite(values)
    picture = Image.fromarray(np.where(seen[..., None], mixed, drawn).round().astype(np.uint8))
    x, y = found.point
    _ring(picture, x * width / found.width, y * height / found.height)
    return _with_legend(upright(picture, found.orientation), found, highest, bool(seen.all()))


def colors(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colors [..., 3], from 0 to 255, of values from 0 to 1."""
    steps = np.linspace(0, 1, len(RAMP))
    return np.stack([np.interp(values, steps, channel) for channel in zip(*RAMP, strict=True)], -1).astype(np.float32)


def _ring(picture: Image.Image, x: float, y: float) -> None:
    draw = ImageDraw.Draw(picture)
    for color, radius, width in (((0, 0, 0), 9, 5), ((255, 255, 255), 8, 3)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=color, width=width)


def _with_legend(picture: Image.Image, found: Map, highest: float, all_seen: bool) -> Image.Image:
    """Below the picture: class and probability, the ramp between its ends, and what the picture's own colors mean."""
    font, line = ImageFont.load_default(SIZE), SIZE + MARGIN
    width, lines = max(picture.width, SHORTEST), 2 if all_seen else 3
    canvas = Image.new("RGB", (width, picture.height + lines * line + MARGIN), PAPER)
    canvas.paste(picture)
    draw, top = ImageDraw.Draw(canvas), picture.height + MARGIN // 2
    share, name = f"  {100 * found.probability:.1f} %", printable(found.label)[:LETTERS]
    while len(name) > 1 and draw.textlength(name + share, font) > width - 2 * MARGIN:
        name = f"{name[:-2]}\u2026"
    draw.text((MARGIN, top), name + share, INK, font)
    first, last = "0", f"{highest:.1f}"
    left = 2 * MARGIN + draw.textlength(first, font)
    right = width - 2 * MARGIN - draw.textlength(last, font)
    draw.text((MARGIN, top + line), first, INK, font)
    draw.text((right + MARGIN, top + line), last, INK, font)
    ramp = colors(np.linspace(0, 1, int(right - left), dtype=np.float32))[None].round().astype(np.uint8)
    canvas.paste(Image.fromarray(ramp).resize((ramp.shape[1], SIZE)), (int(left), top + line + 2))
    if not all_seen:
        draw.text((MARGIN, top + 2 * line), NOT_SEEN, INK, font)
    return canvas
