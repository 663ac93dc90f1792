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

from shotfit.data.tasks import Item
from shotfit.engine.frozen import ImagePool
from shotfit.evaluation.confident import judge_labels
from shotfit.evaluation.doubles import nearest
from shotfit.evaluation.evaluate import Answers
from shotfit.fitting.fitter import zero_shot
from shotfit.fitting.heldout import best_temperature, features_of_items
from shotfit.fitting.model import Model

__all__ = ["held_out_answers", "looked"]

SHOWN = 60  # of each kind
NEAR = 4
DOUBTED = 0.5  # how probable another class must be, of the two
SMALLEST = 1e-6  # probability that another picture's word counts for
TOGETHER = 256  # stored pictures that run together


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
    names, labels = model.class_names, np.array([item.label for item in items])
    features = features_of_items(model.frozen, items).numpy()  # [items, embed]
    said = _without_itself(model, items, features)
    own, others = said[np.arange(len(labels)), labels], said.copy()
    others[np.arange(len(labels)), labels] = -1.0
    score = others.max(axis=1) / (others.max(axis=1) + own)
    order = [row for row in np.argsort(-score, kind="stable").tolist() if score[row] > DOUBTED][:SHOWN]
    suspects = [_row(names, row, labels[row], others[row].argmax(), own[row], others[row].max()) for row in order]
    mistakes = list[dict[str, Any]]()
    found = held_out_answers(model)
    if found is not None:
        places, answers = found
        wrong, sure = np.flatnonzero(~answers.right), answers.probabilities.max(axis=1)
        for row in wrong[np.argsort(-sure[wrong], kind="stable")][:SHOWN].tolist():
            label, theirs = answers.labels[row], answers.predicted[row]
            mistakes.append(_row(names, places[row], label, theirs, answers.probabilities[row, label], sure[row]))
    shown = [*suspects, *mistakes]
    near = nearest(features, [one["place"] for one in shown], np.arange(len(labels)), NEAR)
    for one, found_near in zip(shown, near, strict=True):
        one["near"] = [[place, names[labels[place]], cosine] for place, cosine in found_near]
    return {"suspects": suspects, "mistakes": mistakes}


def _row(names: Sequence[str], place: int, label: int, other: int, own: float, theirs: float) -> dict[str, Any]:
    probabilities = {"probability": float(own), "other_probability": float(theirs)}
    return {"place": int(place), "label": names[label], "other": names[other], **probabilities}


def _without_itself(model: Model, items: Sequence[Item], features: NDArray[Any]) -> NDArray[Any]:
    """Probabilities [items, classes] by other labelled pictures (`judge_labels`), and by the classes' names.

    Of few labels the names say more than the pictures, of many it is the other way round: their log likelihoods add up,
    those of zero-shot at the temperature that suits the labels best.
    """
    labels, classes = torch.tensor([item.label for item in items]), len(model.class_names)
    judged = judge_labels(features, labels.numpy(), classes)
    method, pool = zero_shot(model.frozen, model.classes), ImagePool(items)
    parts = [method.logits(pool.take(rows)).double().cpu() for rows in torch.arange(len(items)).split(TOGETHER)]
    by_name = torch.cat(parts)  # [items, classes]
    by_name = by_name / best_temperature(by_name, labels, (classes,))
    by_others = torch.from_numpy(judged.probabilities).double().clamp(min=SMALLEST).log()
    by_others[torch.from_numpy(judged.score < 0)] = 0.0  # alone in its class: the names decide
    return (by_others + by_name).softmax(dim=1).numpy()
