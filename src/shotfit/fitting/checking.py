"""How a fit compares with zero-shot on images that neither has learned from."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from shotfit.fitting.heldout import HeldOut
from shotfit.fitting.train import hits
from shotfit.methods.base import Fold, Method
from shotfit.methods.numbering import tasks_of

__all__ = ["compared"]


def compared(parts: Sequence[tuple[Fold, HeldOut | None]], reference: Method, description: str) -> dict[str, Any]:
    """Accuracy of the fit and of zero-shot on held-out images; empty where nothing can be held out.

    parts: what the fit says of each fold; a fold that diverged is wrong throughout. Of several tasks, images are judged
    among the classes of their own, and the accuracies are means over the tasks.
    """
    if not parts:
        return {}
    sizes = reference.sizes
    right = [
        torch.zeros(len(fold.labels), dtype=torch.bool) if held is None else held.right(sizes) for fold, held in parts
    ]
    plain = [hits(reference, fold.held, fold.labels) for fold, _ in parts]
    task = tasks_of(torch.cat([fold.labels for fold, _ in parts]), sizes)  # [images]
    ours, theirs = (_means(torch.cat(found), task) for found in (right, plain))
    checked: dict[str, Any] = {
        "on": description,
        "images": len(task),
        "accuracy": fmean(ours),
        "zero_shot_accuracy": fmean(theirs),
    }
    if len(sizes) > 1:
        judged = [reference.classes[number] for number in task.unique().tolist()]
        checked["tasks"] = {
            classes.task: {"accuracy": one, "zero_shot_accuracy": other}
            for classes, one, other in zip(judged, ours, theirs, strict=True)
        }
    return checked


def _means(right: Tensor, task: Tensor) -> list[float]:
    """The share of images that are right, of each task that has some."""
    return [float(right[task == number].double().mean()) for number in task.unique().tolist()]
