"""Classes that a candidate has not been fitted to, as if they were new: so that a choice does not destroy new classes.

A prompt or adapter that fits its classes ever better may lose all others. Where a protocol asks for new classes, every
trial spares a third of the classes, and the candidate is judged on held-out images of both: each among its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from shotfit.data.tasks import ClassList, Item
from shotfit.engine.frozen import Images
from shotfit.fitting.fitter import Fitter, Setting
from shotfit.methods.base import Fold, Method, Validation

__all__ = ["can_spare", "logits_with_spared"]

PARTS = 3  # one in so many classes is spared


def can_spare(method: Method, classes: Sequence[ClassList]) -> bool:
    """Whether a method predicts classes that it was not fitted to, and there are enough to spare some."""
    return method.accepts_new_classes and len(classes) == 1 and len(classes[0].names) >= 2 * PARTS


def logits_with_spared(
    fitter: Fitter, prototype: Method, setting: Setting, part: Sequence[Item], fold: Fold, number: int
) -> Tensor:
    """Logits [images, classes] of a fold's held images by a fit to two thirds of the classes.

    Entries of a spared class and an image of a fitted one are minus infinity, and the other way round: each image is
    judged among the classes of its own kind. number: which third is spared.

    Raises DivergedError.
    """
    own = fitter.classes[0]
    spared = [label for label in range(len(own.names)) if label % PARTS == number % PARTS]
    fitted = [label for label in range(len(own.names)) if label % PARTS != number % PARTS]
    numbers = {label: new for new, label in enumerate(fitted)}
    items = [replace(item, label=numbers[item.label]) for item in part if item.label in numbers]
    lists = [replace(own, names=tuple(own.names[label] for label in labels)) for labels in (fitted, spared)]
    seen = Fitter(fitter.frozen, (lists[0],), fitter.seed, fitter.views)
    method = seen.fit(prototype, items, Validation("none", ()), f"Trying {prototype.name}", setting)
    logits = torch.full((len(fold.labels), len(own.names)), -torch.inf)
    with torch.no_grad():
        for labels, judged in ((fitted, method), (spared, method.for_classes([lists[1]]))):
            rows = torch.isin(fold.labels, torch.tensor(labels)).nonzero().flatten()
            if len(rows):
                found = judged.logits(Images(fold.held.pool, fold.held.rows[rows])).float().cpu()
                logits[rows[:, None], torch.tensor(labels)] = found
    return logits
