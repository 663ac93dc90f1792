"""Predictions of pictures that somebody else decodes, as a server does while the tower works on others.

    pixels = torch.stack([decoded(model, picture) for picture in pictures])      # in any thread
    predict_decoded(model, pixels, [str(picture) for picture in pictures], top=3)       # in one

The numbers are those of `Model.predict`: the same pixels go the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shotfit.data.pictures import Picture
from shotfit.engine.decoding import center_view
from shotfit.engine.frozen import Frozen, Images
from shotfit.fitting.asked import NOTHING_MORE, Asked, Verdict, judge
from shotfit.fitting.predictions import Prediction

if TYPE_CHECKING:
    from shotfit.fitting.model import Model

__all__ = ["best_of", "decoded", "not_finite", "predict_decoded", "said_of"]


def decoded(model: Model, picture: Picture) -> Tensor:
    """The picture as the frozen image tower takes it: [3, size, size], in the precision that it computes in; read under
    the model's rule.

    Raises BrokenImageError.
    """
    frozen = model.frozen
    pixels = center_view(picture.under(model.rule), frozen.backbone.config.preprocessing, frozen.savings.reduced_images)
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
            found.append(said_of(model, source, values, verdict, top))
        else:
            found.append(Prediction(source, (), (), error=not_finite(source, model.frozen)))
    return found


def best_of(values: Tensor, names: Sequence[str], top: int) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The `top` most probable classes of an image, best first, from its probabilities [classes]."""
    best = values.topk(min(max(top, 1), len(names)))
    return tuple(names[index] for index in best.indices.tolist()), tuple(best.values.tolist())


def said_of(
    model: Model, source: str, values: Tensor, verdict: Verdict, top: int | None, picture: Picture | None = None
) -> Prediction:
    """The prediction of an image by its probabilities [classes], and what else was asked of it.

    top: None is the best class, or of a model of several labels those above their thresholds.
    """
    names, several = model.one_task().names, model.several_labels
    labels, shares = best_of(values, names, len(names) if several and top is None else top or 1)
    if several and top is None:
        held = {names[place] for place in (values >= model.cutoffs).nonzero().flatten().tolist()}
        kept = [place for place, label in enumerate(labels) if label in held]
        labels, shares = tuple(labels[place] for place in kept), tuple(shares[place] for place in kept)
    return Prediction(source, labels, shares, None, verdict.set, verdict.unknown, picture, several_labels=several)


def not_finite(source: str, frozen: Frozen) -> str:
    """Why an image has no prediction whose numbers are not finite."""
    precise = "" if frozen.backbone.dtype == torch.float32 else "try --precision float32, or "
    return f"{source} has no prediction: the model gives numbers that are not finite for it; {precise}fit it again."
