"""Bands of a TIFF with more or other channels than red, green and blue (rasterio, extra `geo`).

    with bands_in(content) as bands:                    # bands.count, bands.size, from the header
        bands.decode((4, 3, 2), rule.window)            # a PIL image in mode RGB; of one band, L

The three bands become red, green and blue, one becomes gray; they are counted from 1. Their levels become 8 bits by the
window of the picture's rule, else by the smallest usual range that holds all of them (`levels.py`), else by their own
range; bands of 8 bits stay as they are without a window. What the file calls "no data" is black, and NaN too.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from PIL import Image

from shotfit.data.containers import PartError
from shotfit.data.levels import Window, range_of, windowed

__all__ = ["GEO", "Bands", "bands_in"]

GEO = importlib.util.find_spec("rasterio") is not None

_MISSING = "is read band by band with rasterio: pip install 'shotfit[geo]'."


class Bands:
    """An open TIFF. count: of its bands; size: width and height; bytes: of a level."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened
        self.count: int = opened.count
        self.size: tuple[int, int] = (opened.width, opened.height)
        self.bytes = max(np.dtype(kind).itemsize for kind in opened.dtypes)

    def check(self, bands: tuple[int, ...]) -> None:
        """Refuse bands that it does not have, and complex ones. Raises PartError."""
        if max(bands) > self.count:
            has = "1 band" if self.count == 1 else f"{self.count:,} bands"
            raise PartError(f"has {has}, and band {max(bands)} is asked for. Name others with --bands.")
        kinds = {self._opened.dtypes[band - 1] for band in bands}
        if any(np.dtype(kind).kind == "c" for kind in kinds):
            raise PartError("has bands of complex numbers, which are no picture")

    def decode(self, bands: tuple[int, ...], window: Window | None) -> Image.Image:
        """The picture of one band or three, in mode L or RGB, by the rules above."""
        levels = self._opened.read(list(bands), masked=True)  # [bands, height, width]
        valid = ~np.ma.getmaskarray(levels)
        numbers = np.asarray(levels.data)
        if numbers.dtype.kind == "f":
            valid &= np.isfinite(numbers)
        if window is None and numbers.dtype == np.uint8:
            shown = np.where(valid, numbers, 0)
        else:
            known = numbers[valid]
            least, most = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
            full = range_of(least, most, floats=numbers.dtype.kind == "f")
            low, high = window or ((0.0, float(full)) if full else (least, most))
            shown = np.stack([
                np.where(own, windowed(band.astype(np.float64), low, high), 0)
                for band, own in zip(numbers, valid, strict=True)
            ])  # fmt: skip
        return Image.fromarray(np.ascontiguousarray(shown[0] if len(bands) == 1 else shown.transpose(1, 2, 0)))


@contextmanager
def bands_in(content: bytes) -> Iterator[Bands]:
    """The TIFF of a file's bytes; no other file is looked at.

    Raises PartError where rasterio is missing, and for what is no TIFF that it reads.
    """
    if not GEO:
        raise PartError(_MISSING)
    import rasterio

    settings = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_NUM_THREADS": "1", "GDAL_CACHEMAX": 64}
    try:
        with ExitStack() as held:
            held.enter_context(rasterio.Env(**settings))
            file = held.enter_context(rasterio.MemoryFile(content))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                opened = held.enter_context(file.open(driver="GTiff"))
            yield Bands(opened)
    except rasterio.errors.RasterioError as error:
        said = " ".join(str(error).split())[:160]
        raise PartError(f"cannot be read as a TIFF of bands ({said})") from error
