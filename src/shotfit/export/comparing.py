"""An export beside the model that it is made from: the same logits, and the same class on every image.

images = Shown.of(model, pictures)            # given ones, or generated where there are none
agreement(images, run)                        # raises where float32 is not equal
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shotfit.data.pictures import Picture
from shotfit.engine.decoding import center_view, read_ahead
from shotfit.engine.frozen import Images
from shotfit.errors import ShotfitError
from shotfit.export.graph import Run
from shotfit.fitting.model import Model

__all__ = ["TOLERANCE", "Agreement", "check_equal", "check_finite", "classes_of", "compared", "pixels_of"]

TOLERANCE = 1e-3  # of a logit, or a hundred-thousandth of one above 100
TOGETHER = 16


@dataclass(frozen=True)
class Agreement:
    """How an export and the model in float32 compare on some images.

    difference: the largest of two logits, in units of what is tolerated (1e-3). same: the share of images that both put
    into the same class; two classes that the model itself cannot tell apart by more than is tolerated are the same.
    """

    images: int
    difference: float
    same: float
    classes: NDArray[np.int64]  # [images] of the export
    expected: NDArray[np.int64]  # [images] of the model


def pixels_of(model: Model, pictures: Sequence[Picture]) -> Iterator[Tensor]:
    """Pixels as the tower takes them, some pictures together: [m, 3, size, size].

    Raises ShotfitError for a picture that cannot be read.
    """
    rule = model.frozen.backbone.config.preprocessing
    batches = [pictures[start : start + TOGETHER] for start in range(0, len(pictures), TOGETHER)]
    for views in read_ahead(batches, lambda picture: center_view(picture, rule)):
        yield torch.stack(views)


def compared(model: Model, pictures: Sequence[Picture], run: Run) -> Agreement:
    """The export on these pictures, beside the model, which computes in float32."""
    worst, found, expected, same = 0.0, list[NDArray[np.int64]](), list[NDArray[np.int64]](), 0
    for pixels in pixels_of(model, pictures):
        with torch.no_grad():
            ours = model.logits(Images.of(pixels)).double().numpy()  # [m, classes]
        theirs = run(pixels.numpy())[0].astype(np.float64)
        if theirs.shape != ours.shape or not np.isfinite(theirs).all():
            return Agreement(len(pictures), float("inf"), 0.0, np.zeros(0, np.int64), np.zeros(0, np.int64))
        allowed = np.maximum(1.0, np.abs(ours) / 100)
        worst = max(worst, float((np.abs(theirs - ours) / allowed).max()))
        rows, named, best = np.arange(len(ours)), theirs.argmax(axis=1), ours.argmax(axis=1)
        same += int((ours[rows, named] >= ours[rows, best] - TOLERANCE * allowed[rows, best]).sum())
        found.append(named)
        expected.append(best)
    return Agreement(len(pictures), worst, same / len(pictures), np.concatenate(found), np.concatenate(expected))


def check_equal(found: Agreement, kind: str) -> None:
    """Refuse an export in float32 that computes something else than the model.

    Raises ShotfitError.
    """
    if not (found.difference <= TOLERANCE and found.same == 1):
        raise ShotfitError(
            f"The export to {kind} is not written: on {found.images} images its logits differ from the model's by up "
            f"to {found.difference:.2g} (allowed: {TOLERANCE:g}), and {100 * found.same:.1f} % have the same class. "
            "Report this, with the method and the backbone."
        )


def check_finite(found: Agreement, kind: str) -> None:
    """Refuse an export that gives no numbers. Raises ShotfitError."""
    if not np.isfinite(found.difference):
        raise ShotfitError(
            f"The export to {kind} is not written: in this precision it gives numbers that are not finite. Use float32."
        )


def classes_of(model: Model, pictures: Sequence[Picture]) -> NDArray[np.int64]:
    """The class of each picture by a model in its own precision, [images]."""
    rows = []
    with torch.no_grad():
        for pixels in pixels_of(model, pictures):
            shown = Images.of(pixels.to(model.frozen.backbone.dtype))
            rows.append(model.logits(shown).argmax(dim=1).numpy())
    return np.concatenate(rows)
