"""What stands before the graph, in words and numbers that Pillow and NumPy can follow.

    export.json: "preprocess": {"size": [224, 224], "resize": "shortest", ...}

The rule is `engine/decoding.py` and `towers/pixels.py` for pictures of 8 bits a channel; docs/export.md explains
each field.
"""

from __future__ import annotations

from typing import Any

from shotfit.towers.config import Preprocessing
from shotfit.towers.pixels import LONGEST_ASPECT, MARGIN

__all__ = ["preprocess_record"]

UPRIGHT = [
    "Take the first frame, and turn it upright by its EXIF orientation.",
    "Lay transparent pictures on white; convert to RGB of 8 bits.",
]
RESIZED = {
    "shortest": [
        "Of a strip longer than {aspect} times its shorter side, keep the middle of {aspect} times.",
        "Resize the shorter side to {size} pixels and the longer one to int({size} * longer / shorter), antialiased.",
        "Cut the middle square: left = {offset}(margin / 2), and top likewise.",
    ],
    "squash": ["Resize to {size} x {size} pixels, antialiased."],
    "longest": [
        "Resize by {size} / longer side, antialiased; each side is rounded half to even, and at least 1.",
        "Pad to the square with level {fill}: margin // 2 on the left and top, the rest on the right and bottom.",
    ],
}
NUMBERS = [
    "As float32, channels first: divide by 255, take off the mean, divide by the standard deviation.",
]


def preprocess_record(rule: Preprocessing) -> dict[str, Any]:
    """The rule as `export.json` has it.

    >>> from shotfit.towers.preprocess import siglip_preprocessing
    >>> preprocess_record(siglip_preprocessing(224))["resize"]
    'squash'
    """
    offset = "round" if rule.crop_offset == "round" else "floor"
    values = {"size": rule.size, "aspect": LONGEST_ASPECT, "offset": offset, "fill": rule.fill}
    return {
        "size": [rule.size, rule.size],
        "resize": rule.resize,
        "interpolation": rule.interpolation,
        "crop": f"center-{offset}" if rule.resize == "shortest" else None,
        "fill": rule.fill if rule.resize == "longest" else None,
        "longest_aspect": LONGEST_ASPECT if rule.resize == "shortest" else None,
        "reduced_jpeg": MARGIN,
        "mean": list(rule.mean),
        "std": list(rule.std),
        "rule": [*UPRIGHT, *(step.format(**values) for step in RESIZED[rule.resize]), *NUMBERS],
    }
