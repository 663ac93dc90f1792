"""DICOM, the format of medical pictures (pydicom, extra `medical`): which pixels become black and white.

    scan = read_scan(file)          # from the header: scan.width, scan.height, scan.window
    scan.decode(rule.window)        # a PIL image in mode L or RGB

The rules, in this order:

    frame       the first one
    levels      slope x stored + intercept (Rescale Slope and Intercept): Hounsfield units of a CT, for example
    window      of the picture's rule; else the first that the file names (Window Center c and Width w: from c - w/2 to
                c + w/2, shifted by half a level as the standard's LINEAR function does); else the picture's own range
    inversion   MONOCHROME1 is white where its levels are low
    color       RGB and palettes are as stored, YBR is converted; a window does not concern them

What needs a decoder that is not installed (JPEG-LS) is refused by the name of its transfer syntax.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from shotfit.data.containers import PartError
from shotfit.data.levels import windowed

__all__ = ["DICOM", "DICOM_SUFFIXES", "Scan", "is_dicom", "read_scan"]

DICOM = importlib.util.find_spec("pydicom") is not None
DICOM_SUFFIXES = (".dcm", ".dicom")

_MISSING = "is a DICOM file, which is read with pydicom: pip install 'shotfit[medical]'."
MAX_HEADER = 4 * 2**20  # bytes of elements in front of the pixels
DEFLATED = "1.2.840.10008.1.2.1.99"  # unpacked in memory, whatever comes out of it
_TAGS = (
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "PhotometricInterpretation",
    "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction",
)  # fmt: skip


def is_dicom(begin: bytes) -> bool:
    """Whether a file that begins so (132 bytes or more) is a DICOM file."""
    return begin[128:132] == b"DICM"


@dataclass(frozen=True)
class Scan:
    """A DICOM file whose header was read: the size of its frames, and what its pixels are.

    bits: of a stored level. samples: 1 or 3 of a pixel. window: low and high, as the file names them.
    """

    file: BinaryIO
    width: int
    height: int
    frames: int
    samples: int
    bits: int
    kind: str
    slope: float
    intercept: float
    window: tuple[float, float] | None

    def decode(self, window: tuple[float, float] | None) -> Image.Image:
        """The first frame, in mode L or RGB, by the rules above. window: of the picture's rule.

        Raises PartError for pixels that cannot be decoded here, or are not there.
        """
        from pydicom import dcmread
        from pydicom.pixels import (  # type: ignore[attr-defined]
            apply_color_lut,
            convert_color_space,
            pixel_array,
        )

        self.file.seek(0)
        try:
            with _silently():
                pixels = pixel_array(self.file, index=0, raw=True)  # [height, width] or [height, width, 3]
                if self.kind == "PALETTE COLOR":
                    self.file.seek(0)
                    colors = apply_color_lut(pixels, dcmread(self.file, stop_before_pixels=True))
                    top = np.iinfo(colors.dtype).max
                    return Image.fromarray((colors[..., :3] // ((top + 1) // 256)).astype(np.uint8))
                if self.kind.startswith("YBR") and self.samples == 3:
                    pixels = convert_color_space(pixels, self.kind, "RGB")
        except Exception as error:  # its decoders raise anything on damaged pixels
            said = " ".join(str(error).split())[:160] or type(error).__name__
            raise PartError(f"is a DICOM file whose pixels cannot be decoded ({said})") from error
        if self.samples == 3:
            if pixels.dtype != np.uint8:
                raise PartError("is a DICOM file in colors of more than 8 bits, which is not read")
            return Image.fromarray(pixels)
        levels = pixels.astype(np.float64) * self.slope + self.intercept
        low, high = window or self.window or (float(levels.min()), float(levels.max()))
        gray = windowed(levels, low, high)
        return Image.fromarray(255 - gray if self.kind == "MONOCHROME1" else gray)


@contextmanager
def _silently() -> Iterator[None]:
    """Without the library's warnings and its log of odd values; one thread at a time."""
    log = logging.getLogger("pydicom")
    before = log.disabled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.disabled = True
        try:
            yield
        finally:
            log.disabled = before


def read_scan(file: BinaryIO) -> Scan:
    """What the header says. Nothing is decoded.

    Raises PartError for a file without pixels, of a kind or transfer syntax that is not read, and where pydicom is
    missing.
    """
    if not DICOM:
        raise PartError(_MISSING)
    from pydicom import dcmread
    from pydicom.pixels import get_decoder  # type: ignore[attr-defined]

    file.seek(0)
    begin = file.read(MAX_HEADER)
    with _silently():
        try:
            found = dcmread(io.BytesIO(begin), stop_before_pixels=True, specific_tags=[*_TAGS])
        except EOFError:
            found = None
        syntax = None if found is None else getattr(found.file_meta, "TransferSyntaxUID", None)
        if found is None or syntax is None:
            raise PartError("is a DICOM file that is cut off, or has more than 4 MiB in front of its pixels")
        if syntax == DEFLATED:
            raise PartError("is a DICOM file that is packed as a whole (Deflated), and not read. Save it unpacked.")
        if "Rows" not in found or "Columns" not in found or not found.Rows or not found.Columns:
            raise PartError("is a DICOM file without pixels")
        try:
            decoder = get_decoder(syntax)
        except (NotImplementedError, ValueError):
            decoder = None
        if decoder is None or not decoder.is_available:
            raise PartError(
                f"is a DICOM file in the transfer syntax {syntax.name}, for which no decoder is installed. Save it "
                "uncompressed."
            )
        return _scan(file, found)


def _scan(file: BinaryIO, found: Any) -> Scan:
    kind, samples, bits = (
        str(found.get("PhotometricInterpretation", "")),
        int(found.get("SamplesPerPixel", 1)),
        int(found.get("BitsAllocated", 16)),
    )
    known = kind in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB") or kind.startswith("YBR")
    if not known or samples not in (1, 3):
        raise PartError(f"is a DICOM file whose pixels are {kind or 'of no kind that it names'}, which is not read")
    slope, intercept = (
        _number(found.get(name), otherwise) for name, otherwise in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    frames = int(_number(found.get("NumberOfFrames"), 1))
    return Scan(
        file, int(found.Columns), int(found.Rows), frames, samples, bits, kind, slope, intercept, _window(found)
    )


def _window(found: Any) -> tuple[float, float] | None:
    """The first window that the file names, as the standard's LINEAR or LINEAR_EXACT function has it."""
    center, width = (_number(found.get(name), np.nan) for name in ("WindowCenter", "WindowWidth"))
    if found.get("VOILUTFunction") != "LINEAR_EXACT":
        center, width = center - 0.5, width - 1
    return (center - width / 2, center + width / 2) if width > 0 and np.isfinite(center + width) else None


def _number(value: Any, otherwise: float) -> float:
    """The number of an element, or the first of several; `otherwise` where there is none."""
    first = next(iter(value), None) if hasattr(value, "__iter__") and not isinstance(value, str) else value
    try:
        number = float(otherwise if first is None or first == "" else first)
    except (TypeError, ValueError):
        return otherwise
    return number if np.isfinite(number) else otherwise
