"""What the figures of a record are called: accuracy, or of several labels a picture the mean average precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["PRECISION", "figures_of"]

PRECISION = "mean_average_precision"  # the key of the figure, of several labels a picture


def figures_of(found: Mapping[str, Any]) -> tuple[str, float | None, float | None]:
    """What the figures are called, and that of the fit and of zero-shot, as fractions; None where unknown.

    >>> figures_of({"mean_average_precision": 0.5, "zero_shot_mean_average_precision": 0.25})
    ('mean average precision', 0.5, 0.25)
    """
    name = PRECISION if PRECISION in found else "accuracy"
    return name.replace("_", " "), found.get(name), found.get(f"zero_shot_{name}")
