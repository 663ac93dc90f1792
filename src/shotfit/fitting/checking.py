"""How a fit compares with zero-shot, and with a fit to half of the labels, on images that it has not learned from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from shotfit.data.shots import cross_validation
from shotfit.fitting.figures import PRECISION
from shotfit.fitting.fitter import held_out_by
from shotfit.fitting.heldout import HeldOut, standard_error
from shotfit.fitting.race import Entrant
from shotfit.fitting.selection import Judge, as_found
from shotfit.fitting.train import hits
from shotfit.methods.base import Fold, Method
from shotfit.methods.numbering import tasks_of
from shotfit.methods.several_labels import mean_average_precision

__all__ = ["compared", "with_half"]


def compared(parts: Sequence[tuple[Fold, HeldOut | None]], reference: Method, description: str) -> dict[str, Any]:
    """Accuracy of the fit and of zero-shot on held-out images, of several labels a picture the mean average precision;
    empty where nothing can be held out.

    parts: what the fit says of each fold; a fold that diverged is wrong throughout. Of several tasks, images are judged
    among the classes of their own, and the accuracies are means over the tasks.
    """
    if not parts:
        return {}
    sizes = reference.sizes
    if reference.judges_alone:
        sets = torch.cat([fold.labels for fold, _ in parts])
        zero = torch.cat([held_out_by(reference, fold) for fold, _ in parts])
        own = [torch.zeros(len(fold.labels), sum(sizes)) if held is None else held.logits for fold, held in parts]
        return {"on": description, "images": len(sets), PRECISION: mean_average_precision(torch.cat(own), sets),
                f"zero_shot_{PRECISION}": mean_average_precision(zero, sets)}  # fmt: skip
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


def with_half(judge: Judge, entrant: Entrant) -> dict[str, Any]:
    """What half of the labels would do, by one fit more: whether more of them are worth the work.

    Gives the accuracy of both on the same held-out images, their number, and the standard error of the difference;
    nothing where no image is held out from labels that can be halved.
    """
    lead = entrant.lead
    alone = lead.fitted.judges_alone  # whose quality is one number of all images, without an error
    if alone or not judge.validation.folds or not lead.parts or lead.fitted.name == "zero_shot":
        return {}
    fold, held = lead.parts[0]
    items = [judge.items[index] for index in fold.train.tolist()]
    halves = cross_validation([item.label for item in items], [item.group for item in items], 2, judge.fitter.seed)
    if held is None or not halves:
        return {}
    half = replace(fold, train=fold.train[torch.tensor(halves[0])])
    own = as_found(lead.choice.candidate, lead.fitted)
    other = judge.trials([own], half, judge.share, 4, "Asking what half would do")[own.rank]
    if other is None:
        return {}
    sizes = lead.fitted.sizes
    ours, theirs = held.right(sizes).double(), other.right(sizes).double()
    error = standard_error(ours - theirs)
    if not math.isfinite(error):
        return {}
    return {"accuracy": float(ours.mean()), "half": float(theirs.mean()), "images": len(ours), "error": error}
