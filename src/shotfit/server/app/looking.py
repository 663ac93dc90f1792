"""What is worth a second look once there is a fit: mistakes, labels that look wrong, and why.

    looked(model, items)["suspects"][0]     # {"place": 12, "label": "cat", "other": "dog", "near": [...], ...}

Mistakes are those of the fit itself on pictures that it had not learned when it was asked. Labels are suspected by what
the other labelled pictures and the names of the classes say, so that each picture is judged without its own label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from shotfit.data.tasks import Item
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.evaluation.evaluate import Answers
from shotfit.fitting.fitter import zero_shot
from shotfit.fitting.heldout import best_temperature, features_of_items
from shotfit.fitting.model import Model
from shotfit.report.facts import suspected
from shotfit.report.similar import nearest

__all__ = ["held_out_answers", "looked"]

SHOWN = 60  # of each kind
NEAR = 4


def held_out_answers(model: Model) -> tuple[list[int], Answers] | None:
    """What the fit said of pictures that it had not learned, and which of the support they are; None: of none."""
    if model.held_out is None:
        return None
    places, held = model.held_out
    logits = held.logits if model.trust is None else model.trust.calibration(held.logits)
    return places.tolist(), Answers(held.labels.numpy(), logits.double().softmax(dim=1).numpy(), model.class_names)


@torch.no_grad()
def looked(model: Model, items: Sequence[Item]) -> dict[str, Any]:
    """Suspected labels and mistakes, by the places of the pictures among `items`, the clearest first."""
    names, labels = model.class_names, [item.label for item in items]
    features = features_of_items(model.frozen, items)  # [items, embed]
    suspects = [
        {"place": one.place, "label": names[one.label], "other": names[one.suggested],
         "probability": one.probability, "other_probability": one.suggested_probability}
        for one in suspected(labels, _without_itself(model, items, features))
    ][:SHOWN]  # fmt: skip
    mistakes = list[dict[str, Any]]()
    found = held_out_answers(model)
    if found is not None:
        places, said = found
        wrong = np.flatnonzero(~said.right)
        for row in wrong[np.argsort(-said.probabilities.max(axis=1)[wrong], kind="stable")][:SHOWN].tolist():
            label, other = int(said.labels[row]), int(said.predicted[row])
            own, theirs = (float(said.probabilities[row, one]) for one in (label, other))
            mistakes.append({"place": places[row], "label": names[label], "other": names[other],
                             "probability": own, "other_probability": theirs})  # fmt: skip
    shown = [one["place"] for one in (*suspects, *mistakes)]
    near = dict(zip(shown, nearest(features.numpy()[shown], features.numpy(), NEAR, shown), strict=True))
    for one in (*suspects, *mistakes):
        one["near"] = [[place, names[labels[place]], cosine] for place, cosine in near[one["place"]]]
    return {"suspects": suspects, "mistakes": mistakes}


def _without_itself(model: Model, items: Sequence[Item], features: Tensor) -> NDArray[Any]:
    """Probabilities [items, classes] by the means of the other labelled pictures, and by the classes' names.

    Both at the temperature that suits them best, so that few labels lean on the names.
    """
    labels, sizes = torch.tensor([item.label for item in items]), model.method.sizes
    sums = torch.zeros(sum(sizes), features.shape[1]).index_add(0, labels, features)
    cosines = features @ normalize(sums, dim=1).T  # [items, classes]
    rest = normalize(sums[labels] - features, dim=1)  # of the picture's class, without it
    counts = torch.bincount(labels, minlength=sum(sizes))
    cosines[torch.arange(len(labels)), labels] = (features * rest).sum(dim=1)
    cosines[counts[labels] < 2] = 0.0  # alone in its class: the names decide
    by_name = _zero_shot_logits(model.frozen, model, items)
    scaled = sum(one.double() / best_temperature(one, labels, sizes) for one in (cosines, by_name))
    assert isinstance(scaled, Tensor)
    return (scaled / best_temperature(scaled, labels, sizes)).softmax(dim=1).numpy()


def _zero_shot_logits(frozen: Frozen, model: Model, items: Sequence[Item]) -> Tensor:
    method, pool = zero_shot(frozen, model.classes), ImagePool(items)
    parts = [method.logits(pool.take(rows)).float().cpu() for rows in torch.arange(len(items)).split(256)]
    return torch.cat(parts)
