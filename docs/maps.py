"""Draw docs/maps.png: two drawings on one sheet, and where `mini` sees each of them by its name alone.

python docs/maps.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

import shotfit
from shotfit.data.images import open_image
from shotfit.fitting.overlay import overlay

ROOT = Path(__file__).parent.parent
CLASSES = ["bird", "house", "tool", "fruit", "drink", "musical instrument"]
SIDE, GAP = 150, 12


def sheet() -> Image.Image:
    """A bird at the top left, a house at the bottom right, on white; wider than high, so that its ends are cut off."""
    canvas = Image.new("RGB", (440, 330), "white")
    for name, place in (("bird", (70, 10)), ("house", (230, 160))):
        drawing = open_image(ROOT / "examples" / "clipart" / name / f"{name}_01.png")
        drawing.thumbnail((SIDE, SIDE))
        canvas.paste(drawing, place)
    return canvas


def draw() -> Image.Image:
    """The maps of both classes side by side."""
    drawn = [overlay(found) for found in shotfit.zero_shot(CLASSES).maps(sheet(), CLASSES[:2])]
    side_by_side = Image.new("RGB", (sum(one.width for one in drawn) + GAP, drawn[0].height), "white")
    side_by_side.paste(drawn[0])
    side_by_side.paste(drawn[1], (drawn[0].width + GAP, 0))
    return side_by_side


if __name__ == "__main__":
    draw().save(ROOT / "docs" / "maps.png")
