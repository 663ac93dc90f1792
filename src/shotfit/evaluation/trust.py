"""What a model's probabilities, prediction sets and unknown marks are worth, on images that it has not seen.

found = evaluate_trust(model, task.test, Asked(coverage=0.9), unknown=items_of(Path("others")))
found.calibration_error, found.calibration_error_before
found.covered, found.mean_set_size                     # of prediction sets
found.auroc, found.fpr_at_95                            # of images that belong to no class
trust_of_tasks(model, tasks, Asked(coverage=0.9))       # the same of each task of a list
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shotfit.data.finding import find_images, identified
from shotfit.data.images import open_image, shown
from shotfit.data.tasks import Item, Task
from shotfit.engine.store import cache_folder
from shotfit.errors import ShotfitError, UsageError, first_few
from shotfit.evaluation.evaluate import labelled_for, model_for, score
from shotfit.fitting.asked import NOTHING_MORE, Asked, Verdict, judge
from shotfit.fitting.calibration import log_losses
from shotfit.fitting.conformal import needed
from shotfit.fitting.heldout import features_of_items
from shotfit.fitting.model import Model
from shotfit.progress import say

__all__ = [
    "TaskTrust",
    "TrustScores",
    "auroc",
    "evaluate_trust",
    "fpr_at",
    "items_of",
    "mean_trust",
    "trust_cells",
    "trust_lines",
    "trust_of_tasks",
    "trusted",
]

LEAST = 1e-12  # probability that a log loss is taken of


@dataclass(frozen=True)
class TrustScores:
    """What was measured on labelled images, and on unknown ones where there are some; None where it was not asked.

    log_loss, calibration_error: as the model predicts; `_before`: without calibration. covered: the share of images
    whose class is in their set; mean_set_size, empty_sets: in classes, and as a share. known_marked, unknown_marked:
    the share of images of the classes, and of others, that are marked as unknown. auroc, fpr_at_95: of the score behind
    that; the share of unknown images that pass as known where 95 % of the known ones do.
    """

    log_loss: float
    log_loss_before: float
    calibration_error: float
    calibration_error_before: float
    coverage: float | None = None
    covered: float | None = None
    mean_set_size: float | None = None
    empty_sets: float | None = None
    known_marked: float | None = None
    unknown_images: int | None = None
    unknown_marked: float | None = None
    auroc: float | None = None
    fpr_at_95: float | None = None

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def evaluate_trust(
    model: Model, items: Sequence[Item], asked: Asked = NOTHING_MORE, unknown: Sequence[Item] = ()
) -> TrustScores:
    """Measure calibration, sets and unknown marks. unknown: images of none of the classes; their labels do not count.

    Raises UsageError where the model has no held-out images to answer by, or too few of them.
    """
    return trusted(model, items, asked, unknown)[0]


def trusted(
    model: Model, items: Sequence[Item], asked: Asked = NOTHING_MORE, unknown: Sequence[Item] = ()
) -> tuple[TrustScores, list[Verdict]]:
    """As `evaluate_trust`, with the set of each image, and whether it is marked as unknown, as far as that is asked."""
    items, unknown = ([item.under(model.rule) for item in some] for some in (items, unknown))
    trust, names, labels = model.own_trust, model.one_task().names, torch.tensor([item.label for item in items])
    few = trust is not None and len(trust) < needed(asked.known_share)  # to mark by, but not to tell apart
    asked = replace(asked, unknown=asked.unknown or (bool(unknown) and not few))
    answers = judge(asked, trust, model.record, names)
    after, before = (model.probabilities(items, calibrated=kind) for kind in (True, False))
    found: dict[str, Any] = {}
    for suffix, probabilities in (("", after), ("_before", before)):
        found[f"log_loss{suffix}"] = (
            log_losses(probabilities.clamp_min(LEAST).log(), labels, (len(names),)).mean().item()
        )
        scores = score(labels.numpy(), probabilities.double().numpy(), names)
        found[f"calibration_error{suffix}"] = scores.calibration_error
    features = features_of_items(model.frozen, items) if asked.unknown or unknown else torch.zeros(0)
    verdicts = answers(after, lambda: features)
    if asked.coverage is not None:
        sets = [verdict.set or () for verdict in verdicts]
        found["coverage"] = asked.coverage
        found["covered"] = float(np.mean([names[k] in own for k, own in zip(labels.tolist(), sets, strict=True)]))
        found["mean_set_size"] = float(np.mean([len(own) for own in sets]))
        found["empty_sets"] = float(np.mean([not own for own in sets]))
    if asked.unknown:
        found["known_marked"] = float(np.mean([bool(verdict.unknown) for verdict in verdicts]))
    if unknown:
        theirs, their_features = model.probabilities(unknown), features_of_items(model.frozen, unknown)
        assert trust is not None  # or `judge` had raised
        known, others = (trust.strangeness(own, seen) for own, seen in ((after, features), (theirs, their_features)))
        found["unknown_images"] = len(unknown)
        if asked.unknown:
            marked = answers(theirs, lambda: their_features)
            found["unknown_marked"] = float(np.mean([bool(verdict.unknown) for verdict in marked]))
        found |= {"auroc": auroc(known, others), "fpr_at_95": fpr_at(known, others)}
    return TrustScores(**found), verdicts


@dataclass(frozen=True)
class TaskTrust:
    """What was measured of one task, and what was said of each of its images.

    refusal: why the sets and marks that were asked for have no answer for this task; "" where they have.
    """

    task: str
    scores: TrustScores
    verdicts: list[Verdict]
    refusal: str = ""


def trust_of_tasks(
    model: Model,
    tasks: Sequence[Task],
    asked: Asked = NOTHING_MORE,
    unknown: Sequence[Item] = (),
    everything: bool = False,
) -> list[TaskTrust]:
    """The same of each task, on its test images or on all of them, among its own classes.

    A task that the model has no held-out images of, or too few, is measured without sets and marks, and says why.
    """
    found = []
    for task in tasks:
        own = model_for(model, task)
        items, refusal = labelled_for(own.class_names, task, everything), ""
        try:
            measured = trusted(own, items, asked, unknown)
        except UsageError as error:
            measured, refusal = trusted(own, items), str(error)
        found.append(TaskTrust(task.name, *measured, refusal))
    return found


def auroc(known: Tensor, unknown: Tensor) -> float:
    """How often an unknown image is stranger than a known one; of equals half. Both are [images] of strangeness.

    >>> auroc(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0]))
    0.875
    """
    known = known.sort().values
    below = torch.searchsorted(known, unknown.contiguous()) + torch.searchsorted(
        known, unknown.contiguous(), right=True
    )
    return below.double().mean().item() / (2 * len(known))


def fpr_at(known: Tensor, unknown: Tensor, kept: float = 0.95) -> float:
    """The share of unknown images that pass as known where this share of the known ones does.

    >>> fpr_at(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([2.5, 5.0]), kept=0.75)
    0.5
    """
    threshold = np.quantile(known.numpy(), kept, method="inverted_cdf")
    return float((unknown.numpy() <= threshold).mean())


def items_of(folder: Path, skip_broken: bool = False) -> list[Item]:
    """All images below a folder, for `unknown`; skip_broken: but those that cannot be read.

    Raises ShotfitError where there is none, or one cannot be read.
    """
    pictures = find_images([str(folder)]).images
    items, broken = identified(pictures, cache_folder())
    for item in items if skip_broken else []:
        try:
            open_image(item.picture)
        except ShotfitError as error:
            broken[item.picture] = error
    items = [item for item in items if item.picture not in broken]
    if (broken and not skip_broken) or not items:
        raise ShotfitError(
            f"{shown(next(iter(broken)))} cannot be read: replace or remove it, or leave it out with --skip-broken."
        )
    if broken:
        say(f"note: left out of {folder}, which cannot be read: {first_few([shown(one) for one in broken])}.")
    return items


def trust_lines(found: TrustScores) -> list[str]:
    """What was measured, for people."""
    before, after = (
        f"error {100 * error:.1f} %, log loss {loss:.3f}"
        for error, loss in (
            (found.calibration_error_before, found.log_loss_before),
            (found.calibration_error, found.log_loss),
        )
    )
    lines = [f"{'calibration':22} before: {before}; after: {after}"] if before != after else []
    if found.covered is not None and found.coverage is not None:
        lines.append(
            f"{'prediction sets':22} {100 * found.covered:.1f} % covered (asked: {100 * found.coverage:g} %), "
            f"{found.mean_set_size:.2f} classes on average, {100 * (found.empty_sets or 0):.1f} % empty"
        )
    if found.known_marked is not None:
        lines.append(f"{'marked as unknown':22} {100 * found.known_marked:.1f} % of these images")
    if found.auroc is not None and found.fpr_at_95 is not None:
        marked = "" if found.unknown_marked is None else f"{100 * found.unknown_marked:.1f} % marked, "
        lines.append(
            f"{'unknown images':22} {found.unknown_images:,}: {marked}"
            f"AUROC {found.auroc:.3f}, FPR at 95 % {100 * found.fpr_at_95:.1f} %"
        )
    return lines


def mean_trust(found: Sequence[TaskTrust]) -> TrustScores:
    """The means over the tasks, each over those that it was measured of."""
    rows = [asdict(one.scores) for one in found]
    known = {name: [row[name] for row in rows if row[name] is not None] for name in rows[0]}
    means = {name: fmean(values) if values else None for name, values in known.items()}
    same = {name: known[name][0] for name in ("coverage", "unknown_images") if known[name]}
    return TrustScores(**means | same)


def trust_cells(found: Sequence[TaskTrust]) -> list[list[str]]:
    """What was measured of several tasks as cells with their head, a task a row and the means last."""
    mean = _cells(mean_trust(found))
    rows = [(one.task, _cells(one.scores)) for one in found] + ([("mean", mean)] if len(found) > 1 else [])
    return [["task", *mean], *([task, *(cells.get(title, "-") for title in mean)] for task, cells in rows)]


def _cells(found: TrustScores) -> dict[str, str]:
    before, after = 100 * found.calibration_error_before, 100 * found.calibration_error
    cells = {"calibration error": f"{before:.1f} to {after:.1f} %"}
    cells["log loss"] = f"{found.log_loss_before:.3f} to {found.log_loss:.3f}"
    for title, value, form in (
        ("covered", found.covered, _percent),
        ("classes in a set", found.mean_set_size, "{:.2f}".format),
        ("marked", found.known_marked, _percent),
        ("unknown marked", found.unknown_marked, _percent),
        ("AUROC", found.auroc, "{:.3f}".format),
        ("FPR at 95 %", found.fpr_at_95, _percent),
    ):
        if value is not None:
            cells[title] = form(value)
    return cells


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
