"""Recorded images, features and tokens of a case in the place of files, and its training steps."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shotfit.data.pictures import Picture
from shotfit.data.tasks import ClassList, Item
from shotfit.engine.frozen import Frozen, ImagePool, Images, normalize
from shotfit.fitting.train import Stepper
from shotfit.methods.base import Fold, Method, Validation
from shotfit.methods.recipe import Optimizer, Recipe, Schedule
from shotfit.towers.config import Preprocessing
from shotfit.towers.edits import Edit
from shotfit.towers.texts import Texts

from .backbones import build
from .cases import Case, assert_close

__all__ = [
    "ClassifierFrozen",
    "FeaturePool",
    "PixelPool",
    "RecordedFrozen",
    "Step",
    "assert_counts",
    "assert_course",
    "assert_features",
    "assert_losses",
    "class_list",
    "judged_by",
    "need_clip_vocabulary",
    "optimizer_of",
    "schedule_of",
    "token_texts",
    "train",
]


class PixelPool(ImagePool):
    """Recorded pixels [views, images, 3, size, size] as an image pool."""

    def __init__(self, recorded: Tensor, labels: Tensor) -> None:
        super().__init__(
            [Item(Picture(Path(f"{index}.png")), int(label), str(index)) for index, label in enumerate(labels)]
        )
        self.recorded = recorded

    def pixels(self, rows: tuple[int, ...], rule: Preprocessing, reduced: bool) -> list[Tensor]:
        places = (divmod(row, max(self.views, 1)) for row in rows)
        return [self.recorded[view, item] for item, view in places]


class FeaturePool(ImagePool):
    """Recorded image features [images, embed], or [views, images, embed], as an image pool."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        items = [Item(Picture(Path(f"{index}.png")), int(label), str(index)) for index, label in enumerate(labels)]
        super().__init__(items, views=len(features) if features.dim() == 3 else 0)
        self.features = features.transpose(0, 1).flatten(0, 1) if self.views else features


class RecordedFrozen(Frozen):
    """The case's backbone, where prompts are the recorded tokens and images may be recorded features."""

    def __init__(self, case: Case) -> None:
        super().__init__(build(case))
        self.case = case

    def class_texts(self, classes: Sequence[ClassList]) -> tuple[Texts, int]:
        tokens = self.case["in/tokens"]
        return token_texts(tokens), tokens.shape[1] if tokens.dim() == 3 else 1

    def image(self, images: Images, edits: Sequence[Edit] = ()) -> Tensor:
        if isinstance(images.pool, FeaturePool):
            return images.pool.features[images.rows]
        if images.pool is None and images.rows.dim() == 2:
            return images.rows
        return super().image(images, edits)


class ClassifierFrozen(RecordedFrozen):
    """The case's backbone, where the one prompt of a class is a column of the recorded classifier."""

    def class_texts(self, classes: Sequence[ClassList]) -> tuple[Texts, int]:
        return Texts.of([number] for number in range(self.case["in/clip_weights"].shape[1])), 1

    def text(self, texts: Texts, edits: Sequence[Edit] = (), absent: int = 0) -> Tensor:
        return torch.stack([self.case["in/clip_weights"][:, number] for (number,) in texts.rows])


def token_texts(tokens: Tensor) -> Texts:
    """Texts of padded rows [..., length]: a row ends at its largest id, which is the end token."""
    rows = tokens.flatten(0, -2).tolist()
    return Texts.of(row[: row.index(max(row)) + 1] for row in rows)


def class_list(case: Case, count: int = 0) -> ClassList:
    """The case's classes, or `count` nameless ones."""
    names = case.meta.get("class_names") or [f"class {index}" for index in range(count)]
    return ClassList(case.name, tuple(names))


def judged_by(images: Images, labels: Tensor, support: int) -> Validation:
    """A validation part of these images, for a support of this many."""
    return Validation("validation part", (Fold(torch.arange(support), images, labels),))


def assert_counts(correct: Tensor, accuracy: Tensor, images: int, share: float) -> bool:
    """Counts of right images are those of recorded accuracies (%), but for one image at `share` of the places.

    Gives whether they are the same everywhere.
    """
    difference = (correct - accuracy * images / 100).abs()
    assert float(difference.max()) < 1.01
    assert float((difference > 0.5).float().mean()) <= share
    return float(difference.max()) < 0.5


def need_clip_vocabulary() -> None:
    """Skip the case on a Python that the package with CLIP's vocabulary has no wheel for; elsewhere it has to be there.

    Prompts are made from class names, and the cases are recorded with OpenAI's ids.
    """
    if sys.version_info >= (3, 13):
        pytest.importorskip("instant_clip_tokenizer")
    assert find_spec("instant_clip_tokenizer"), "install the extra shotfit[clip]: this case needs CLIP's vocabulary"


def optimizer_of(settings: dict[str, Any]) -> Optimizer:
    """The recorded optimizer as ours."""
    recorded = settings["optimizer"]
    assert not recorded.get("dampening") and not recorded.get("nesterov")
    keys = ("name", "lr", "weight_decay", "momentum", "eps", "rho")
    chosen = {key: recorded[key] for key in keys if key in recorded}
    return Optimizer(**chosen, betas=tuple(recorded.get("betas", (0.9, 0.999))))


def schedule_of(settings: dict[str, Any]) -> tuple[Schedule, int]:
    """The recorded schedule (uniform keys) as ours, and its period."""
    recorded = settings["schedule"]
    warmup, warmup_lr = recorded.get("warmup_epochs") or 0, recorded.get("warmup_lr") or 0.0
    schedule = Schedule(recorded["name"], recorded["unit"], warmup, warmup_lr, recorded.get("eta_min") or 0.0)
    return schedule, recorded.get("period") or 1


@dataclass(frozen=True)
class Step:
    """One step as it went: the loss and gradients before it, the parameters after it."""

    lr: float
    loss: Tensor
    gradients: dict[str, Tensor]
    parameters: dict[str, Tensor]


def train(
    method: Method,
    optimizer: Optimizer,
    schedule: Schedule,
    period: int,
    steps_per_epoch: int,
    batches: Iterable[tuple[Images, Tensor]],
    updates: int = 1,
) -> list[Step]:
    """Steps on given batches by the library's own stepper, at the rates of the schedule.

    period: the schedule's, in its unit. The gradients are those that the optimizer saw.
    """
    per_unit = steps_per_epoch if schedule.unit == "epoch" else 1
    stepper = Stepper(method, Recipe(optimizer, schedule, updates=updates), period, per_unit)
    steps = []
    for images, labels in batches:
        rate, loss = stepper.rate(), stepper(images, labels)
        gradients = {name: value.grad.clone() for name, value in method.named_parameters() if value.grad is not None}
        after = {name: value.detach().clone() for name, value in method.named_parameters()}
        steps.append(Step(rate, loss, gradients, after))
    return steps


def assert_features(method: Method, case: Case, tolerance: float) -> Tensor:
    """Features of classes and images, as they are and normalized, and the logits equal the recorded ones.

    Gives the logits [images, classes].
    """
    images = Images.of(case["in/images"])
    logits = method.logits(images)
    for kind, features in (("text", method.text_features()), ("image", method.image_features(images))):
        assert_close(features, case[f"out/{kind}_features_raw"], tolerance, kind)
        assert_close(normalize(features), case[f"out/{kind}_features"], tolerance, f"normalized {kind}")
    assert_close(logits, case["out/logits"], tolerance, "logits")
    return logits


def assert_course(losses: Sequence[Tensor], case: Case, tolerance: float) -> None:
    """The losses of all steps equal the recorded ones, to this share of the case's largest."""
    recorded = torch.stack([case[f"step/{number}/loss"] for number in range(1, case.settings["steps"] + 1)])
    assert_close(torch.stack(list(losses)), recorded, tolerance, "losses")


def assert_losses(steps: Sequence[Step], case: Case, first: float, later: float) -> None:
    """The losses of all steps equal the recorded ones: the first to one tolerance, those after it to another."""
    for number, step in enumerate(steps, start=1):
        assert_close(step.loss, case[f"step/{number}/loss"], first if number == 1 else later, f"loss {number}")
