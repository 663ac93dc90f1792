"""What a model's probabilities, prediction sets and unknown marks are worth, on images that it has not seen.

found = evaluate_trust(model, task.test, Asked(coverage=0.9), unknown=items_of(Path("others")))
found.calibration_error, found.calibration_error_before
found.covered, found.mean_set_size                     # of prediction sets
found.auroc, found.fpr_at_95                            # of images that belong to no class
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shotfit.data.finding import find_images, identified
from shotfit.data.images import shown
from shotfit.data.tasks import Item
from shotfit.engine.store import cache_folder
from shotfit.errors import ShotfitError
from shotfit.evaluation.evaluate import score
from shotfit.fitting.asked import NOTHING_MORE, Asked, Verdict, judge
from shotfit.fitting.calibration import log_losses
from shotfit.fitting.conformal import needed
from shotfit.fitting.heldout import features_of_items
from shotfit.fitting.model import Model

__all__ = ["TrustScores", "auroc", "evaluate_trust", "fpr_at", "items_of", "trust_lines", "verdicts_of"]

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
    return TrustScores(**found)


def verdicts_of(model: Model, items: Sequence[Item], asked: Asked) -> list[Verdict]:
    """The set of each image, and whether it belongs to no class, as far as they are asked for.

    Raises as `evaluate_trust` does.
    """
    items = [item.under(model.rule) for item in items]
    answers = judge(asked, model.own_trust, model.record, model.one_task().names)
    return answers(model.probabilities(items), lambda: features_of_items(model.frozen, items))


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


def items_of(folder: Path) -> list[Item]:
    """All images below a folder, for `unknown`. Raises ShotfitError where there is none, or one cannot be read."""
    pictures = find_images([str(folder)]).images
    items, broken = identified(pictures, cache_folder())
    if broken:
        raise ShotfitError(f"{shown(next(iter(broken)))} cannot be read: replace or remove it.")
    return items


def trust_lines(found: TrustScores) -> list[str]:
    """What was measured, for people."""
    before, after = 100 * found.calibration_error_before, 100 * found.calibration_error
    lines = [
        f"{'calibrated from':22} calibration error {before:.1f} % to {after:.1f} %, "
        f"log loss {found.log_loss_before:.3f} to {found.log_loss:.3f}"
    ]
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
