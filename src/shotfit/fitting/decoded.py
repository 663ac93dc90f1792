"""Predictions of pictures that somebody else decodes, as a server does while the tower works on others.

    pixels = torch.stack([decoded(model.frozen, picture) for picture in pictures])      # in any thread
    predict_decoded(model, pixels, [str(picture) for picture in pictures], top=3)       # in one

The numbers are those of `Model.predict`: the same pixels go the same way.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shotfit.data.pictures import Picture
from shotfit.engine.decoding import center_view
from shotfit.engine.frozen import Frozen, Images
from shotfit.fitting.asked import NOTHING_MORE, Asked, judge
from shotfit.fitting.predictions import Prediction

if TYPE_CHECKING:
    from shotfit.fitting.model import Model

__all__ = ["above", "best_of", "decoded", "not_finite", "predict_decoded"]


def decoded(frozen: Frozen, picture: Picture) -> Tensor:
    """The picture as the frozen image tower takes it: [3, size, size], in the precision that it computes in.

    Raises BrokenImageError.
    """
    pixels = center_view(picture, frozen.backbone.config.preprocessing, frozen.savings.reduced_images)
    return pixels.to(frozen.backbone.dtype)


@torch.no_grad()
def predict_decoded(
    model: Model, pixels: Tensor, sources: Sequence[str], top: int | None = None, asked: Asked = NOTHING_MORE
) -> list[Prediction]:
    """The predictions of pixels [n, 3, size, size], as `Model.predict` gives them with keep_broken.

    Raises UsageError for a model that cannot answer what is asked, or has several tasks.
    """
    names = model.one_task().names
    answers = judge(asked, model.own_trust, model.record, names)
    found = []
    for source, (values, verdict) in zip(sources, model.judged(Images.of(pixels), answers), strict=True):
        if values.isfinite().all():
            found.append(model.said_of(source, values, verdict, top))
        else:
            found.append(Prediction(source, (), (), error=not_finite(source, model.frozen)))
    return found


def best_of(values: Tensor, names: Sequence[str], top: int) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The `top` most probable classes of an image, best first, from its probabilities [classes]."""
    best = values.topk(min(max(top, 1), len(names)))
    return tuple(names[index] for index in best.indices.tolist()), tuple(best.values.tolist())


def above(
    best: tuple[tuple[str, ...], tuple[float, ...]], held: Collection[str]
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Of classes and their probabilities those that are held.

    >>> above((("cat", "dog", "cow"), (0.9, 0.4, 0.1)), {"cat", "cow"})
    (('cat', 'cow'), (0.9, 0.1))
    """
    pairs = [pair for pair in zip(*best, strict=True) if pair[0] in held]
    return tuple(label for label, _ in pairs), tuple(value for _, value in pairs)


def not_finite(source: str, frozen: Frozen) -> str:
    """Why an image has no prediction whose numbers are not finite."""
    precise = "" if frozen.backbone.dtype == torch.float32 else "try --precision float32, or "
    return f"{source} has no prediction: the model gives numbers that are not finite for it; {precise}fit it again."
