"""Searches for coefficients on stored logits, never on runs.

Logits that are `fixed + x * sloped` in a coefficient x put an image into its class for x of one interval: each other
class bounds it on one side. So a whole axis of x costs as much as one point of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shotfit.errors import UsageError
from shotfit.methods.several_labels import are_sets, precision_along

__all__ = ["at_once", "best_first", "grid", "judged_along", "parse_grid", "parse_values", "right_along"]

MOST_STEPS = 10_000  # of one axis of a search
ENTRIES = {"cpu": 2**18, "cuda": 2**21}  # logits that are looked at together: on a CPU, what its caches hold


def grid(low: float, high: float, steps: int) -> list[float]:
    """`steps` equidistant values from `low` on, below `high`.

    Example:
        >>> [round(value, 3) for value in grid(0.1, 3.1, 3)]
        [0.1, 1.1, 2.1]
    """
    return [low + index * (high - low) / steps for index in range(steps)]


def parse_grid(option: str, text: str, at_least: float = 0.0, at_most: float = math.inf) -> list[float]:
    """The grid of a text "low,high,steps".

    Raises UsageError, naming the option, for anything else and for ends outside the bounds.

    Example:
        >>> parse_grid("beta_grid", "0,7,4")
        [0.0, 1.75, 3.5, 5.25]
    """
    words = text.split(",")
    try:
        low, high, steps = float(words[0]), float(words[1]), int(words[2])
        possible = len(words) == 3 and at_least <= low <= high <= at_most and math.isfinite(high)
        possible = possible and 1 <= steps <= MOST_STEPS
    except (ValueError, IndexError):
        possible = False
    if not possible:
        within = f"from {at_least:g}" + (f" to {at_most:g}" if math.isfinite(at_most) else " on")
        raise UsageError(
            f"{option} is {text!r}; expected low,high,steps with low not above high, both {within}, and at least one "
            f"step, at most {MOST_STEPS:,}, as in 0,1,20 (high itself is not tried)."
        )
    return grid(low, high, steps)


def parse_values(option: str, text: str) -> list[float]:
    """The numbers above 0 of a text "value,value,...", in their order.

    Raises UsageError, naming the option, for anything else.

    Example:
        >>> parse_values("alphas", "0.1,1,10")
        [0.1, 1.0, 10.0]
    """
    try:
        values = [float(word) for word in text.split(",", MOST_STEPS)]
    except ValueError:
        values = []
    if not 1 <= len(values) <= MOST_STEPS or not all(0 < value < math.inf for value in values):
        shown = text if len(text) <= 60 else f"{text[:60]}..."
        raise UsageError(
            f"{option} is {shown!r}; expected numbers above 0 with commas between them, at most {MOST_STEPS:,}, as in "
            "0.1,1,10."
        )
    return values


def right_along(fixed: Tensor, sloped: Tensor, labels: Tensor, values: Sequence[float]) -> Tensor:
    """How many images `fixed + x * sloped` puts into their class, for each x of `values`: [..., values], int64.

    fixed: [images, classes], or as sloped: [..., images, classes], of which each is counted by itself; of small tasks
    many at once cost as much as one. The values are not negative. Of equal logits the first class wins.
    """
    if fixed.device.type == "mps":  # which has no float64
        fixed, sloped, labels = fixed.cpu(), sloped.cpu(), labels.cpu()
    rows = at_once(sloped[..., :1, :])
    parts = zip(fixed.split(rows, dim=-2), sloped.split(rows, dim=-2), labels.split(rows), strict=True)
    tried = torch.tensor(values, dtype=torch.float64, device=fixed.device)
    return torch.stack([_right(part, slope, truth, tried) for part, slope, truth in parts]).sum(dim=0).cpu()


def judged_along(fixed: Tensor, sloped: Tensor, labels: Tensor, values: Sequence[float]) -> Tensor:
    """What a search adds up for each x of `values`: `right_along`, or of sets their mean average precision.

    fixed, sloped: [several, images, classes]. Returns [several, values], float64.
    """
    if not are_sets(labels):
        return right_along(fixed, sloped, labels, values).double()
    pairs = zip(fixed.expand_as(sloped), sloped, strict=True)
    return torch.stack([precision_along(at, slope, labels, values) for at, slope in pairs]).double()


def at_once(logits: Tensor) -> int:
    """How many logits of this size, of an image or a matrix of them, are looked at together."""
    return max(1, ENTRIES.get(logits.device.type, ENTRIES["cpu"]) // max(1, logits.numel()))


def _right(fixed: Tensor, sloped: Tensor, labels: Tensor, values: Tensor) -> Tensor:
    fixed, sloped, truth = fixed.double(), sloped.double(), labels[:, None]
    ahead = _of(fixed, truth) - fixed  # [..., images, classes] lead of the true class at x = 0
    gain = _of(sloped, truth) - sloped  # and how it grows with x
    earlier = torch.arange(fixed.shape[-1], device=fixed.device) < truth  # must be beaten, not equalled
    bound = -ahead / gain
    upwards = torch.where(earlier, bound.nextafter(bound.new_tensor(math.inf)), bound)
    downwards = torch.where(earlier, bound.nextafter(bound.new_tensor(-math.inf)), bound)
    low = upwards.masked_fill(gain <= 0, -math.inf).amax(dim=-1)
    high = downwards.masked_fill(gain >= 0, math.inf).amin(dim=-1)
    lost = ((gain == 0) & ((ahead < 0) | (earlier & (ahead == 0)))).any(dim=-1)
    high = high.masked_fill(lost, -math.inf)
    within = (low[..., None, :] <= values[:, None]) & (values[:, None] <= high[..., None, :])
    return within.sum(dim=-1)


def _of(logits: Tensor, truth: Tensor) -> Tensor:
    """The logits of the true classes: [..., images, 1]."""
    return logits.gather(-1, truth.expand(*logits.shape[:-1], 1))


def best_first(right: Tensor) -> tuple[int, ...] | None:
    """Indices of the largest count or score, the first of equals; None where nothing is right anywhere."""
    if not right.any():
        return None
    flat = int(np.argmax(right.numpy()))  # numpy promises the first of equals, torch does not
    return tuple(int(index) for index in np.unravel_index(flat, right.shape))
