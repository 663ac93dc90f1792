"""From more than 8 bits to 8: which level becomes 255.

    image, full = eight_bits(image)     # mode L or RGB, and the level that became 255

Cameras of 10, 12 and 14 bits write their levels unscaled into files of 16. Divided by 257, as 16 bits are, they are
black. So **full range is the smallest of RANGES that holds all levels of the picture**. It follows from the pixels
alone, so that a picture looks the same wherever it lies. A picture that really has 16 bits and no level above a quarter
of the range becomes brighter by this; one that says so itself (PNG's `sBIT` of 16, TIFF's `MaxSampleValue`) does not.

    16-bit gray, 32-bit integers    255, 1,023, 4,095, 16,383, 65,535
    floats                          1, and the same
    16-bit RGB and RGBA             the same; above 16,383 the upper 8 bits, which is what Pillow reads

Where no range holds a picture, or it has negative levels, its own range is stretched. NaN counts as 0. A window (low,
high) of the picture's rule goes before all of this: low and what is below is black, high and what is above is white.

All of it is done in bands of rows, because numbers of 64 bits would take eight times a gray picture's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

__all__ = ["BAND", "RANGES", "Window", "banded", "deep", "eight_bits", "in_bands", "joined", "range_of", "windowed"]

Window: TypeAlias = tuple[float, float]
"""The levels that become black and white."""

BAND = 2**20
"""Pixels that are converted at once."""

RANGES = (255, 1023, 4095, 16383, 65535)
"""Highest levels of 8, 10, 12, 14 and 16 bits."""


def in_bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image in bands of whole rows, and the row that each begins at; a small image is one band."""
    rows = max(1, BAND // max(image.width, 1))
    if rows >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def banded(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """What `convert` makes of the image, an image of `mode`, band by band."""
    whole: Image.Image | None = None
    for top, band in in_bands(image):
        done = convert(band)
        if done.height == image.height:
            return done
        whole = Image.new(mode, image.size) if whole is None else whole
        whole.paste(done, (0, top))
    assert whole is not None
    return whole


def deep(image: Image.Image) -> bool:
    """Whether the image has one channel of more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def eight_bits(image: Image.Image, declared: int = 0, window: Window | None = None) -> tuple[Image.Image, int]:
    """A deep image as gray levels of 8 bits, and the level that became 255 (0: a window, or its own range).

    declared: the highest level that the file says it may have; 0: it says nothing.
    """
    if window is not None:
        return banded(image, "L", lambda band: Image.fromarray(windowed(_levels(band), *window))), 0
    low = high = 0.0
    for top, band in in_bands(image):
        levels = np.asarray(band) if image.mode.startswith("I;16") else _levels(band)
        least, most = float(levels.min()), float(levels.max())
        low, high = (min(low, least), max(high, most)) if top else (least, most)
    full = range_of(low, high, declared, image.mode == "F")
    if full and image.mode.startswith("I;16"):
        table = _table(full)
        return banded(image, "L", lambda band: Image.fromarray(table[np.asarray(band)])), full
    if full:
        return banded(image, "L", lambda band: _scaled(_levels(band), 0.0, full)), full
    return banded(image, "L", lambda band: _scaled(_levels(band), low, max(high - low, 1e-300))), 0


def range_of(low: float, high: float, declared: int = 0, floats: bool = False) -> int:
    """The level that becomes 255 for levels from low to high; 0 where no range holds them. declared: as above."""
    if low < 0:
        return 0
    if declared >= high:
        return declared
    return next((full for full in ((1, *RANGES) if floats else RANGES) if high <= full), 0)


def joined(upper: Image.Image, lower: Image.Image, full: int, window: Window | None = None) -> None:
    """Make 8 bits a channel of 16, of which two images have the upper and the lower bytes; the first is changed.

    The upper 8 bits of an alpha channel stay as they are. window: in place of the range up to `full`.
    """
    table = _table(full) if window is None else windowed(np.arange(65536.0), *window)
    for top, band in in_bands(upper):
        pixels = np.array(band)  # [rows, width, 3 or 4]
        below = np.asarray(lower.crop((0, top, band.width, top + band.height)))
        pixels[:, :, :3] = table[pixels[:, :, :3].astype(np.uint16) << 8 | below[:, :, :3]]
        upper.paste(Image.fromarray(pixels), (0, top))


def _table(full: int) -> np.ndarray[Any, Any]:
    """The 8-bit level of each level from 0 to `full`."""
    return np.rint(np.arange(full + 1) * (255 / full)).astype(np.uint8)


def windowed(levels: np.ndarray[Any, Any], low: float, high: float) -> np.ndarray[Any, Any]:
    """Levels of a window in 8 bits; `levels`, of floats, are changed. Where all are one level, black.

    >>> windowed(np.array([-5.0, 0.0, 50.0, 100.0, 900.0]), 0, 100).tolist()
    [0, 0, 128, 255, 255]
    """
    levels -= low
    levels *= 255
    levels /= max(high - low, 1e-300)
    return np.rint(np.clip(np.nan_to_num(levels, copy=False), 0, 255, out=levels), out=levels).astype(np.uint8)


def _levels(band: Image.Image) -> np.ndarray[Any, Any]:
    levels = np.asarray(band).astype(np.float64)  # [height, width]
    return np.nan_to_num(levels, copy=False) if band.mode == "F" else levels


def _scaled(levels: np.ndarray[Any, Any], low: float, full: float) -> Image.Image:
    levels -= low
    levels *= 255 / full
    return Image.fromarray(np.rint(np.minimum(levels, 255, out=levels), out=levels).astype(np.uint8))
