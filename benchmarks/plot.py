"""Curves as a picture: a panel each, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

__all__ = ["draw"]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 300, 66, 20, 44, 48  # of a panel and its margins
COLORS = ("#1a7f37", "#cf222e")
GRID, INK = "#d8dee4", "#1f2328"


def draw(curves: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Panels two in a row. Each curve: title, x, and series by name, pairs of (x, seconds) above 0."""
    rows = math.ceil(len(curves) / 2)
    sheet = Image.new("RGB", (2 * WIDTH, rows * HEIGHT), "white")
    for number, curve in enumerate(curves):
        _panel(ImageDraw.Draw(sheet), number % 2 * WIDTH, number // 2 * HEIGHT, curve)
    return sheet


def _panel(pen: ImageDraw.ImageDraw, left: int, top: int, curve: Mapping[str, Any]) -> None:
    font, series = ImageFont.load_default(12), curve["series"]
    points = [point for found in series.values() for point in found]
    places = sorted({x for x, _ in points})
    low, high = (math.floor(math.log10(min(y for _, y in points))), math.ceil(math.log10(max(y for _, y in points))))
    high = max(high, low + 1)

    def at(x: float, y: float) -> tuple[float, float]:
        across = math.log(x / places[0]) / max(math.log(places[-1] / places[0]), 1e-9)
        up = (math.log10(y) - low) / (high - low)
        return (
            left + LEFT + across * (WIDTH - LEFT - RIGHT),
            top + HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )

    for power in range(low, high + 1):
        start, end = at(places[0], 10.0**power), at(places[-1], 10.0**power)
        pen.line([start, end], GRID)
        pen.text((start[0] - 8, start[1]), f"{10.0**power:g} s", INK, font, "rm")
    for x in places:
        pen.text((at(x, 1)[0], top + HEIGHT - BOTTOM + 6), str(x), INK, font, "ma")
    pen.text((left + WIDTH / 2, top + HEIGHT - 18), curve["x"], INK, font, "ma")
    pen.text((left + LEFT, top + 8), curve["title"], INK, font, "la")
    for number, (name, found) in enumerate(series.items()):
        line = [at(x, y) for x, y in found]
        pen.line(line, COLORS[number], 2)
        for across, down in line:
            pen.ellipse([across - 3, down - 3, across + 3, down + 3], COLORS[number])
        pen.text((left + LEFT + 130 * number, top + 24), name, COLORS[number], font, "la")
