"""Draw docs/demo.png: held-out drawings with the class that the demo's model gives them.

make demo && .venv/bin/python docs/picture.py demo-model examples/clipart docs/demo.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import shotfit
from shotfit.data.readers import read_task

COLUMNS, ROWS, SIDE, TEXT = 7, 2, 130, 44
RIGHT, WRONG = "#1a7f37", "#cf222e"


def draw(model: shotfit.Model, folder: Path) -> Image.Image:
    """A sheet of every few held-out images, right answers in green, wrong ones in red."""
    task = read_task(folder)
    count = COLUMNS * ROWS
    items = [task.test[place * len(task.test) // count] for place in range(count)]
    sheet = Image.new("RGB", (COLUMNS * SIDE, ROWS * (SIDE + TEXT)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for place, (item, best) in enumerate(zip(items, model.predict([item.path for item in items]), strict=True)):
        left, top = place % COLUMNS * SIDE, place // COLUMNS * (SIDE + TEXT)
        with Image.open(item.path) as image:
            small = image.convert("RGB")
            small.thumbnail((SIDE - 16, SIDE - 16))
        sheet.paste(small, (left + (SIDE - small.width) // 2, top + (SIDE - small.height) // 2))
        name, color = (
            best.labels[0].replace("_", " "),
            RIGHT if best.labels[0] == task.classes.names[item.label] else WRONG,
        )
        pen.text(
            (left + SIDE / 2, top + SIDE + 10),
            f"{name}\n{100 * best.probabilities[0]:.0f} %",
            color,
            font,
            "ma",
            align="center",
        )
    return sheet


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("Usage: python docs/picture.py MODEL FOLDER OUT.png")
    draw(shotfit.load(sys.argv[1]), Path(sys.argv[2])).save(sys.argv[3], optimize=True)
