"""What a fitted model knows of its own reliability: calibration, prediction sets, and images that belong to no class.

    trust = trust_of(held_out, sizes)                       # once, of held-out images: `fit` does
    trust.calibration(logits).softmax(dim=1)                # probabilities: calibration.py
    trust.thresholds(names, 0.95)                           # prediction sets: conformal.py
    trust.strangest(0.95)                                   # unknown images: unknown.py

All of it is stored with the model (format 2), so that coverage and share are chosen when one predicts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from shotfit.errors import UsageError
from shotfit.fitting.calibration import Calibration, calibrate, log_losses
from shotfit.fitting.conformal import strangest, thresholds, true_class_scores
from shotfit.fitting.heldout import HeldOut
from shotfit.fitting.unknown import Strangeness, strangeness_of
from shotfit.methods.numbering import among_own, tasks_of

__all__ = ["PREFIX", "Trust", "trust_of"]

PREFIX = "trust."  # of its tensors among those of a saved model
OTHER_CLASSES = (
    "{} are for the classes that the model was fitted to and held images out of: leave other classes and new tasks "
    "out, or fit again where model.add brought a class."
)


@dataclass(frozen=True, eq=False)
class Trust:
    """Calibration, and what was measured on held-out images; nothing of that for classes it was not fitted to.

    scores: [images] 1 - p of the true class. labels: [images]. strange: [images]. means, center, width: what
    `Strangeness` needs, [classes, embed] and twice [tasks, 2]. summary: what the record says.
    """

    calibration: Calibration
    scores: Tensor
    labels: Tensor
    strange: Tensor
    means: Tensor
    center: Tensor
    width: Tensor
    summary: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def strangeness(self) -> Strangeness:
        """How strange an image is, of a model of one task. Raises UsageError for other classes than the fitted ones."""
        if not len(self):
            raise UsageError(OTHER_CLASSES.format("Marks of unknown images"))
        return Strangeness(self.means, self.center[0], self.width[0])

    def thresholds(self, names: Sequence[str], coverage: float, per_class: bool = False) -> NDArray[Any]:
        """The largest 1 - p of a class in a prediction set, [classes]. Raises UsageError as `conformal` does."""
        if not len(self):
            raise UsageError(OTHER_CLASSES.format("Prediction sets"))
        return thresholds(self.scores, self.labels, names, coverage, per_class)

    def strangest(self, share: float) -> float:
        """The strangeness above which an image is unknown, so that this share of images of the classes is not.

        Raises UsageError for a share outside (0, 1) and for fewer held-out images than it needs.
        """
        if not len(self):
            raise UsageError(OTHER_CLASSES.format("Marks of unknown images"))
        return strangest(self.strange, share)

    def for_task(self, number: int, sizes: Sequence[int]) -> Trust:
        """Of several tasks, that of one."""
        if len(sizes) == 1:
            return self
        classes, own = slice(sum(sizes[:number]), sum(sizes[: number + 1])), tasks_of(self.labels, sizes) == number
        return replace(
            self,
            calibration=self.calibration_of(number, sizes),
            scores=self.scores[own],
            labels=self.labels[own] - classes.start,
            strange=self.strange[own],
            means=self.means[classes],
            center=self.center[[number]],
            width=self.width[[number]],
        )

    def calibration_of(self, number: int, sizes: Sequence[int]) -> Calibration:
        """Of several tasks, how the logits of one are changed."""
        bias, first = self.calibration.bias, sum(sizes[:number])
        return replace(self.calibration, bias=None if bias is None else bias[first : first + sizes[number]])

    def for_new_classes(self) -> Trust:
        """For other classes: the temperature, and nothing that was measured on the fitted ones."""
        plain = Calibration(self.calibration.plain_temperature, self.calibration.plain_temperature)
        kept = {"temperature": plain.temperature, "plain_temperature": plain.temperature, "other_classes": True}
        return _of_other_classes(plain, kept)

    def state(self) -> dict[str, Tensor]:
        """Its tensors as they are saved."""
        if not len(self):
            return {}
        names = ("scores", "labels", "strange", "means", "center", "width")
        tensors = {f"{PREFIX}{name}": getattr(self, name).contiguous() for name in names}
        bias = self.calibration.bias
        return tensors if bias is None else tensors | {f"{PREFIX}bias": bias.contiguous()}

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], summary: Any, sizes: Sequence[int]) -> Trust | None:
        """The inverse of `state`, of all tensors of a saved model; None where it has none.

        Raises ValueError for what does not fit together.
        """
        own = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
        if not own:
            match summary:
                case {"temperature": float(one), "other_classes": True} if 0 < one < math.inf:
                    return _of_other_classes(Calibration(one, one), summary)
            return None
        match summary:
            case {"temperature": float(temperature), "plain_temperature": float(plain)} if _fit_together(own, sizes):
                if 0 < temperature < math.inf and 0 < plain < math.inf:
                    calibration = Calibration(temperature, plain, own.pop("bias", None))
                    return cls(calibration, **own, summary=dict(summary))
        raise ValueError("what is kept of held-out images does not fit together")


def _of_other_classes(calibration: Calibration, summary: Mapping[str, Any]) -> Trust:
    """The temperature alone: no image of other classes was held out."""
    none = torch.zeros(0)
    return Trust(calibration, none, none.long(), none, none, none, none, dict(summary))


def trust_of(held: HeldOut, sizes: Sequence[int]) -> Trust:
    """What held-out images say of a predictor. sizes: the number of classes of each of its tasks."""
    calibration, calibrated = calibrate(held, sizes)
    probabilities = among_own(calibrated, held.labels, sizes).softmax(dim=1)
    losses = (log_losses(logits, held.labels, sizes).mean().item() for logits in (held.logits, calibrated))
    summary = {
        "source": held.source,
        "images": len(held),
        "calibration": "temperature" if calibration.bias is None else "temperature and bias",
        "temperature": calibration.temperature,
        "plain_temperature": calibration.plain_temperature,
    } | dict(zip(("log_loss_before", "log_loss"), losses, strict=True))
    tasks = tasks_of(held.labels, sizes)
    strange, measures = torch.zeros(len(held)), []
    for number, size in enumerate(sizes):
        own, first = tasks == number, sum(sizes[:number])
        among = probabilities[own, first : first + size]
        measure, strange[own] = strangeness_of(among, held.features[own], held.labels[own] - first, size)
        measures.append(measure)
    return Trust(
        calibration,
        true_class_scores(probabilities, held.labels),
        held.labels,
        strange,
        torch.cat([measure.means for measure in measures]),
        torch.stack([measure.center for measure in measures]),
        torch.stack([measure.width for measure in measures]),
        summary,
    )


def _fit_together(own: Mapping[str, Tensor], sizes: Sequence[int]) -> bool:
    """Whether the tensors of a file are those of a model with these classes."""
    names = {"scores", "labels", "strange", "means", "center", "width"}
    if own.keys() - {"bias"} != names or own["scores"].dim() != 1 or own["means"].dim() != 2:
        return False
    images, classes, tasks = len(own["scores"]), sum(sizes), len(sizes)
    shapes = {
        "scores": (images,), "labels": (images,), "strange": (images,), "bias": (classes,),
        "means": (classes, own["means"].shape[1]), "center": (tasks, 2), "width": (tasks, 2),
    }  # fmt: skip
    labels = own["labels"]
    return (
        all(tuple(value.shape) == shapes[name] for name, value in own.items())
        and all(
            value.is_floating_point() and bool(value.isfinite().all())
            for name, value in own.items()
            if name != "labels"
        )
        and labels.dtype == torch.long
        and bool(((labels >= 0) & (labels < classes)).all())
        and bool((own["width"] > 0).all())
    )
