"""Views of an image: which part of it a training step sees.

A view is a `Box`: drawn here, cut and resized by `towers/preprocess.py`. Boxes are plain numbers, so that a fixed
number of random views per image can be drawn once and kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from shotfit.errors import ShotfitError

__all__ = ["CROP_SCALE", "Box", "draw_box"]

CROP_SCALE = (0.5, 1.0)  # area of the crops that are drawn once, the same for all methods

TRIES = 10
NARROWEST, WIDEST = 3 / 4, 4 / 3


@dataclass(frozen=True)
class Box:
    """A rectangle of an image in pixels, and whether what it cuts is mirrored left to right."""

    top: int
    left: int
    height: int
    width: int
    flipped: bool


def draw_box(width: int, height: int, scale: tuple[float, float], generator: torch.Generator | None = None) -> Box:
    """Draw a random resized crop and a flip with probability 1/2 for an image of `width` x `height` pixels.

    The area is a uniform fraction of the image's between the two of `scale` (CoOp's 0.08 to 1, Tip-Adapter's 0.5 to 1),
    the aspect log-uniform between 3/4 and 4/3. After ten tries that do not fit, the largest central box with an
    allowed aspect is taken. With the same CPU generator (torch's own where it is None) these are torchvision's boxes:
    every draw is a single-precision one, in its order.

        >>> draw_box(50, 37, (0.08, 1.0), torch.Generator().manual_seed(0))
        Box(top=2, left=16, height=29, width=34, flipped=True)
    """
    if width < 1 or height < 1:
        raise ShotfitError(f"an image of {width} x {height} pixels has no box to draw; both sides must be 1 or more.")
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ShotfitError(f"scale {scale} is no range of area fractions; give 0 < smallest <= largest <= 1.")
    top, left, box_height, box_width = _draw_crop(width, height, scale, generator)
    flipped = float(torch.rand(1, generator=generator)) < 0.5
    return Box(top, left, box_height, box_width, flipped)


def _draw_crop(
    width: int, height: int, scale: tuple[float, float], generator: torch.Generator | None
) -> tuple[int, int, int, int]:
    log_narrowest, log_widest = (float(torch.tensor(ratio).log()) for ratio in (NARROWEST, WIDEST))
    for _ in range(TRIES):
        area = width * height * _uniform(scale[0], scale[1], generator)
        aspect = float(torch.tensor(_uniform(log_narrowest, log_widest, generator)).exp())
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(torch.randint(0, height - box_height + 1, (1,), generator=generator))
            left = int(torch.randint(0, width - box_width + 1, (1,), generator=generator))
            return top, left, box_height, box_width
    box_width, box_height = width, height
    if width / height < NARROWEST:
        box_height = round(width / NARROWEST)
    elif width / height > WIDEST:
        box_width = round(height * WIDEST)
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _uniform(low: float, high: float, generator: torch.Generator | None) -> float:
    return float(torch.empty(1).uniform_(low, high, generator=generator))
