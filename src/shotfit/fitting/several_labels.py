"""What held-out images say of a model of several labels a picture: probabilities a class, and the threshold of each.

    p_c = sigmoid(z_c / T + b_c)          the image has class c where p_c >= t_c

T, one number, and b [classes] are those of the least log loss on held-out logits, where b_c makes as many images
expected of class c as there are (half an image more of either kind, so that a rare class is not called impossible).
Probabilities for the thresholds come from other held-out images than those that they are taken from.

t_c is where the F1 of class c is highest, halfway between two probabilities: at most 0.5, above which no threshold of
calibrated probabilities has the highest F1 (Lipton et al., "Optimal Thresholding of Classifiers to Maximize F1
Measure", ECML PKDD 2014, arXiv 1402.1892). A class with fewer than FEW held-out images of its own has the threshold
that is best for all classes together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import torch
from torch import Tensor

from shotfit.data.shots import deal_sets
from shotfit.errors import UsageError
from shotfit.fitting.calibration import FOLDS, SEED, Calibration
from shotfit.fitting.heldout import HeldOut, best_temperature
from shotfit.fitting.trust import PREFIX, Trust
from shotfit.methods.several_labels import offsets, set_log_likelihoods

__all__ = ["SeveralTrust", "calibrated_sets", "refuse", "several_trust_of", "strata_of", "thresholds_of"]

FEW = 10  # held-out images of a class that a threshold of its own asks for
LOWEST, HIGHEST = 0.01, 0.5  # of a threshold


@dataclass(frozen=True, eq=False)
class SeveralTrust(Trust):
    """Calibration and the threshold of each class, `cutoffs` [classes], and nothing else of `Trust`."""

    cutoffs: Tensor = field(default_factory=lambda: torch.zeros(0))

    @classmethod
    def of(cls, calibration: Calibration, cutoffs: Tensor, summary: Mapping[str, Any]) -> SeveralTrust:
        """From what it holds."""
        none = torch.zeros(0)
        return cls(calibration, none, none.long(), none, none, none, none, dict(summary), cutoffs)

    def moved(self, by: Tensor) -> SeveralTrust:
        """For logits [images, classes] that lack `by` [classes]."""
        known = self.calibration
        assert known.bias is not None
        return replace(self, calibration=replace(known, bias=known.bias + by / known.temperature))

    def thresholds(self, names: Sequence[str], coverage: float, per_class: bool = False) -> Any:
        """Refuse. Raises UsageError."""
        raise refuse("Prediction sets")

    def strangest(self, share: float) -> float:
        """Refuse. Raises UsageError."""
        raise refuse("Marks of unknown images")

    def state(self) -> dict[str, Tensor]:
        """Offsets and thresholds; the temperature stands in the record."""
        assert self.calibration.bias is not None
        return {f"{PREFIX}bias": self.calibration.bias.contiguous(), f"{PREFIX}cutoffs": self.cutoffs.contiguous()}

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], summary: Any, classes: int) -> SeveralTrust:
        """The inverse of `state`. Raises ValueError for what does not fit together."""
        own = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
        match summary:
            case {"temperature": float(temperature)} if 0 < temperature < inf and own.keys() == {
                "bias",
                "cutoffs",
            }:
                whole = all(value.shape == (classes,) and value.is_floating_point() for value in own.values())
                if whole and bool(((own["cutoffs"] > 0) & (own["cutoffs"] < 1)).all()):
                    return cls.of(Calibration(temperature, temperature, own["bias"]), own["cutoffs"], summary)
        raise ValueError("what is kept of held-out images does not fit together")


def refuse(what: str) -> UsageError:
    """Why something that is about one label a picture is not done for a model of several."""
    return UsageError(f"{what} are for models that give each picture one label, and this one may give several.")


def several_trust_of(held: HeldOut, own_offsets: Tensor | None = None) -> SeveralTrust:
    """What held-out images say of a predictor of several labels a picture.

    own_offsets: [classes] of the predictor, which its logits lack and those held out have (`fitter.held_out_by`).

    >>> logits, sets = torch.tensor([[9.0], [8.0], [2.0], [1.0]] * 5), torch.tensor([[1.0], [1.0], [0.0], [0.0]] * 5)
    >>> trust = several_trust_of(HeldOut(logits, sets, torch.zeros(20, 2), "by hand"))
    >>> (trust.calibration(logits).sigmoid() >= trust.cutoffs)[:4, 0].tolist()
    [True, True, False, False]
    """
    calibration = _calibration(held.logits, held.labels)
    calibrated = calibrated_sets(held)
    before, after = (-set_log_likelihoods(one, held.labels).mean().item() for one in (held.logits, calibrated))
    summary = {
        "source": held.source,
        "images": len(held),
        "calibration": "temperature and an offset a class",
        "temperature": calibration.temperature,
        "log_loss_before": before,
        "log_loss": after,
    }
    trust = SeveralTrust.of(calibration, thresholds_of(calibrated.sigmoid(), held.labels), summary)
    return trust if own_offsets is None else trust.moved(own_offsets)


def calibrated_sets(held: HeldOut) -> Tensor:
    """The held-out logits [images, classes], those of each part calibrated by the others."""
    dealt = torch.tensor(deal_sets(strata_of(held.labels), FOLDS, SEED))  # [images]
    calibrated = torch.empty_like(held.logits)
    for number in dealt.unique().tolist():
        own, rest = dealt == number, dealt != number
        by = rest if rest.any() else own
        calibrated[own] = _calibration(held.logits[by], held.labels[by])(held.logits[own])
    return calibrated


def strata_of(sets: Tensor) -> list[tuple[int, ...]]:
    """What each image counts for, as `Item.strata` says it. sets: [images, classes]."""
    return [tuple(row.nonzero().flatten().tolist()) or (-1,) for row in sets]


def thresholds_of(probabilities: Tensor, sets: Tensor) -> Tensor:
    """[classes] the probability from which on an image has the class. probabilities, sets: [images, classes]."""
    common = _best_cut(probabilities.flatten(), sets.flatten())
    counts = sets.sum(dim=0)
    own = [_best_cut(*columns) if count >= FEW else common
           for *columns, count in zip(probabilities.T, sets.T, counts.tolist(), strict=True)]  # fmt: skip
    return torch.tensor(own)


def _best_cut(probabilities: Tensor, truth: Tensor) -> float:
    """The threshold of the highest F1, the lowest of equals; HIGHEST where there is nothing to be found."""
    ranked, order = probabilities.double().sort(descending=True)
    right = truth.double()[order].cumsum(dim=0)  # found with a cut below each
    f1 = 2 * right / (torch.arange(1, len(ranked) + 1) + right[-1])
    f1[:-1][ranked[:-1] == ranked[1:]] = -1.0  # no cut goes between equal probabilities
    if right[-1] == 0:
        return HIGHEST
    best = len(f1) - 1 - int(f1.flip(0).argmax())
    lower = float(ranked[best + 1]) if best + 1 < len(ranked) else 0.0
    return min(max((float(ranked[best]) + lower) / 2, LOWEST), HIGHEST)


def _calibration(logits: Tensor, sets: Tensor) -> Calibration:
    temperature = best_temperature(logits, sets, (logits.shape[1],))
    bias = offsets(logits.double() / temperature, sets).float()
    return Calibration(temperature, temperature, bias)
