"""How hard is a transfer: what APEX looks at before it fits anything.

Yang et al., "Towards Difficulty-Agnostic Efficient Transfer Learning for Vision-Language Models", EMNLP 2024, arXiv
2311.15569.

    rtd           1 / (C p)          C classes; p the share of images that zero-shot puts into their class
    separability  within / between   mean cosine of two images of a class; of images of two classes
    alpha         the coefficient of APEX's ensemble, of the second half of the classes after a fit to the first
    names         1 - cos            from each class name to the nearest name of a reference list, in text space

rtd is the accuracy of guessing over that of zero-shot: 1 at chance. It is never below 1 / C, so that a task of few
classes looks hard by it. Nothing is trained, and training images alone are looked at, also for p. A class counts as
much as any other, however many images it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from shotfit.data.shots import base_and_new
from shotfit.data.tasks import DEFAULT_TEMPLATE, ClassList, Task
from shotfit.engine.frozen import Frozen
from shotfit.errors import ShotfitError
from shotfit.evaluation.intervals import Interval, interval_by_image
from shotfit.fitting.heldout import features_of_items
from shotfit.methods import find
from shotfit.methods.base import check_prompts
from shotfit.methods.class_features import class_features

__all__ = ["PUBLISHED", "Coefficient", "Difficulty", "coefficient_of", "difficulty_of", "separability"]

EASY, HARD = 0.01, 0.04
"""rtd of the paper's easy sets (ImageNet, SUN397, Cars) is below EASY, that of its hard ones (Aircraft, DTD, EuroSAT)
above HARD."""
PUBLISHED = {
    "ImageNet": (0.0014, 1.680), "SUN397": (0.0038, 1.602), "Cars": (0.0077, 1.470), "Caltech101": (0.0108, 1.336),
    "Food101": (0.0115, 1.131), "UCF101": (0.0142, 1.287), "Flowers102": (0.0152, 1.234), "Pets": (0.0301, 1.078),
    "Aircraft": (0.0407, 1.150), "DTD": (0.0495, 1.025), "EuroSAT": (0.184, 1.042),
}  # fmt: skip
"""rtd and separability of the paper, ViT-B/16. It prints 0.00495 for DTD, which its own formula makes 0.0495."""
CHANCE = 0.5
"""rtd from which on zero-shot is right less than twice as often as guessing."""
KNOWN = 0.9
"""Zero-shot accuracy from which on names alone do, whatever rtd says of few classes."""


@dataclass(frozen=True)
class Coefficient:
    """APEX's coefficient alpha over the second half of the classes: 1 trusts what was learned, 0 the frozen model."""

    mean: float
    least: float
    largest: float


@dataclass(frozen=True)
class Difficulty:
    """What is known of one task.

    zero_shot: share of training images that zero-shot puts into their class, with its 95 % interval by image. rtd: None
    where that share is 0. within, between: mean cosines; within is None where no class has two images. separability:
    their ratio, None where `between` is not above 0 and a ratio means nothing. alpha: None of an encoder that is closed
    to APEX. names: mean distance of the class names to the nearest name of the reference list; None without a list.
    """

    task: str
    classes: int
    images: int
    zero_shot: float
    zero_shot_interval: Interval
    rtd: float | None
    within: float | None
    between: float
    separability: float | None
    alpha: Coefficient | None
    names: float | None

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return asdict(self)

    def advice(self) -> str:
        """What follows for the choice of a method, in one line, by the paper's scale; nothing was tried for it."""
        if self.zero_shot >= KNOWN:
            return "easy, names alone nearly do: zero_shot, or a text-side method such as coop"
        if self.rtd is None or self.rtd >= CHANCE:
            return "very hard, names say next to nothing: an image-side method such as linear_probe, or apex"
        if self.rtd >= HARD:
            return "hard: visual prompts with a text adapter (apex), or vpt"
        if self.rtd <= EASY:
            return "easy: a text-side method such as coop; zero_shot for new classes"
        return "between easy and hard: compare coop, vpt and apex"


def difficulty_of(frozen: Frozen, task: Task, reference: Sequence[str] = ()) -> Difficulty:
    """Look at the training images and the class names of a task. reference: names to measure the distance to.

    Raises ShotfitError for a single class, for a task without training images, and for names that the backbone cannot
    read.
    """
    classes = task.classes
    if len(classes.names) < 2:
        raise ShotfitError(f"{task.name} has a single class, and difficulty is about telling several apart.")
    if not task.train:
        raise ShotfitError(f"{task.name} has no training images to look at.")
    check_prompts(frozen.backbone, [classes])
    features, labels = features_of_items(frozen, task.train), torch.tensor([item.label for item in task.train])
    with torch.no_grad():
        texts = class_features(frozen, [classes]).float().cpu()
    right = (features @ texts.T).argmax(dim=1) == labels  # [images]
    zero_shot = float(right.double().mean())
    within, between = separability(features, labels)
    return Difficulty(
        task=task.name,
        classes=len(classes.names),
        images=len(labels),
        zero_shot=zero_shot,
        zero_shot_interval=interval_by_image(right.double().numpy()),
        rtd=1 / (len(classes.names) * zero_shot) if zero_shot else None,
        within=within,
        between=between,
        separability=within / between if within is not None and between > 0 else None,
        alpha=coefficient_of(frozen, classes),
        names=distance_to(frozen, classes, reference) if reference else None,
    )


def separability(features: Tensor, labels: Tensor) -> tuple[float | None, float]:
    """Mean cosine of two images of one class, and of images of two classes; each class, or pair of them, counts once.

    features: [images, embed], of unit length. labels: [images]. The first is None where no class has two images.

    By sums alone: of n unit vectors with sum S, the pairs of two have the mean (|S|^2 - n) / (n (n - 1)).

    >>> separability(torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]))
    (1.0, 0.0)
    """
    present, place = labels.unique(return_inverse=True)
    counts = torch.bincount(place).double()  # [classes that have images]
    sums = torch.zeros(len(present), features.shape[1], dtype=torch.double).index_add_(0, place, features.double())
    several = counts > 1
    pairs = (sums.square().sum(dim=1) - counts)[several] / (counts * (counts - 1))[several]
    means = sums / counts[:, None]
    size = len(present)
    between = (means.sum(dim=0).square().sum() - means.square().sum()) / max(size * (size - 1), 1)
    return float(pairs.mean()) if several.any() else None, float(between)


def coefficient_of(frozen: Frozen, classes: ClassList) -> Coefficient | None:
    """APEX's alpha of the second half of the classes, as the method itself finds it after a fit to the first half.

    It depends on the names alone, so that nothing need be fitted. None of a closed encoder, which APEX does not take.
    """
    if frozen.backbone.closed:
        return None
    base, new = (
        replace(classes, names=tuple(classes.names[label] for label in half))
        for half in base_and_new(range(len(classes.names)))
    )
    fitted = find("apex").with_options({"visual_tokens": "0", "text_tokens": "0"})  # the names' distances alone
    fitted.attach(frozen, [base])
    fitted.build(frozen, [base])
    alpha = fitted.for_classes([new]).get_buffer("alpha").float()
    return Coefficient(float(alpha.mean()), float(alpha.min()), float(alpha.max()))


@torch.no_grad()
def distance_to(frozen: Frozen, classes: ClassList, reference: Sequence[str]) -> float:
    """Mean distance (1 - cosine) of the class names to the nearest name of a list, each in the plain template."""
    lists = [ClassList("names", names, (DEFAULT_TEMPLATE,)) for names in (classes.names, tuple(reference))]
    check_prompts(frozen.backbone, lists)
    own, others = (class_features(frozen, [names]).float() for names in lists)
    return float((1 - own @ others.T).clamp(min=0).min(dim=1).values.mean())
