"""What a user says of how pixels become a picture, where a format leaves it open: a window of levels, bands.

    rule = Rule(window=(0, 1200), bands=(4, 3, 2))
    picture = picture.under(rule)               # another digest: its features are never taken for those without

A window says which levels become black and white (`levels.py`, `dicom.py`), for pictures of more than 8 bits; bands are
those of a TIFF that become red, green and blue, or gray, counted from 1 (`geotiff.py`). A model keeps the rule that it
was fitted under, and sees every later picture under it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shotfit.errors import UsageError

__all__ = ["AS_STORED", "MOST_BANDS", "Rule", "part_digest"]

MOST_BANDS = 10_000  # that a number of a band may count to; hyperspectral pictures have some hundreds


def part_digest(digest: str, part: object) -> str:
    """The digest of a part, or another reading, of what has a digest."""
    return hashlib.sha256(f"{digest}{part}".encode()).hexdigest()


@dataclass(frozen=True)
class Rule:
    """A window of levels (low, high), and the bands of a TIFF, one or three; nothing where nothing was said.

    Raises UsageError for a window without width, and for bands that are not one or three numbers from 1.
    """

    window: tuple[float, float] | None = None
    bands: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.window is not None:
            low, high = self.window
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise UsageError(f"--window is {low:g},{high:g}; expected the level of black, then a higher one.")
        if self.bands and (len(self.bands) not in (1, 3) or not all(1 <= band <= MOST_BANDS for band in self.bands)):
            said = ",".join(map(str, self.bands))
            raise UsageError(f"--bands is {said}; expected one band, or three for red, green and blue, from 1: 4,3,2.")

    @classmethod
    def of(cls, window: Sequence[float] | None, bands: Sequence[int]) -> Rule:
        """The rule of what was said. Raises UsageError."""
        if window is not None and len(window) != 2:
            raise UsageError(f"--window has {len(window)} numbers; expected two: the levels of black and of white.")
        return cls(None if window is None else (float(window[0]), float(window[1])), tuple(map(int, bands)))

    @classmethod
    def from_json(cls, plain: Any) -> Rule:
        """The rule of a saved model's record. Raises UsageError, TypeError or ValueError for what is none."""
        if not isinstance(plain, dict) or plain.keys() - {"window", "bands"}:
            raise ValueError(f"{plain!r:.80} is no rule")
        return cls.of(plain.get("window"), plain.get("bands", ()))

    def as_json(self) -> dict[str, Any]:
        """As plain data, without what was not said."""
        window = {} if self.window is None else {"window": list(self.window)}
        return window | ({"bands": list(self.bands)} if self.bands else {})

    def flags(self) -> str:
        """As the command line says it: "--window 0,1200 --bands 4,3,2"."""
        window = [] if self.window is None else [f"--window {self.window[0]:g},{self.window[1]:g}"]
        return " ".join([*window, *([f"--bands {','.join(map(str, self.bands))}"] if self.bands else [])])

    def __bool__(self) -> bool:
        return self != AS_STORED

    def __str__(self) -> str:
        window = "" if self.window is None else f"#window={self.window[0]!r},{self.window[1]!r}"
        return window + (f"#bands={','.join(map(str, self.bands))}" if self.bands else "")


AS_STORED = Rule()
