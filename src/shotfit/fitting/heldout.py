"""What a fit says of images that it has not learned from: the ground of every choice, check and probability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from shotfit.data.tasks import Item
from shotfit.engine.frozen import Frozen, ImagePool, Images, normalize
from shotfit.fitting.train import quality_of, right_of
from shotfit.methods.numbering import among_own
from shotfit.methods.several_labels import are_sets, set_log_likelihoods

__all__ = [
    "HeldOut",
    "best_temperature",
    "features_of_items",
    "frozen_features",
    "log_likelihoods",
    "pooled",
    "standard_error",
]

TEMPERATURES = torch.logspace(-2, 2, 81, dtype=torch.float64)  # a tenth of a factor of ten apart

TOGETHER = 256  # stored images whose features are read at once


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Logits of images that the predictor had not learned from.

    logits: [images, classes of all tasks], float32. labels: [images], or sets [images, classes]. features: [images,
    embed] of the frozen image tower, of unit length. source: what the images are, in words.
    """

    logits: Tensor
    labels: Tensor
    features: Tensor
    source: str

    def __len__(self) -> int:
        return len(self.labels)

    def right(self, sizes: Sequence[int]) -> Tensor:
        """Whether each image is put into its class, among the classes of its task: [images], bool."""
        return right_of(self.logits, self.labels, sizes)

    def quality(self, sizes: Sequence[int]) -> float:
        """The share of images that are right, or of sets the mean average precision."""
        return quality_of(self.logits, self.labels, sizes)


@torch.no_grad()
def frozen_features(frozen: Frozen, images: Images) -> Tensor:
    """Features [images, embed] of the frozen image tower, of unit length, on the CPU."""
    return normalize(frozen.image(images)).float().cpu()


def features_of_items(frozen: Frozen, items: Sequence[Item]) -> Tensor:
    """The same of images that belong to a task, [items, embed]; their features are kept in the store."""
    pool, parts = ImagePool(items), torch.arange(len(items)).split(TOGETHER)
    rows = [frozen_features(frozen, pool.take(part)) for part in parts if len(part)]
    return torch.cat([torch.zeros(0, frozen.embed), *rows])


def pooled(parts: Sequence[HeldOut | None]) -> HeldOut | None:
    """Several as one, in order; None where there are none, or one of them diverged."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    columns = zip(*((part.logits, part.labels, part.features) for part in known), strict=True)
    logits, labels, features = (torch.cat(column) for column in columns)
    return HeldOut(logits, labels, features, known[0].source)


def log_likelihoods(logits: Tensor, labels: Tensor, sizes: Sequence[int]) -> Tensor:
    """The log probability of each image's class at the temperature that suits all of them best: [images], float64.

    Two methods whose logits differ in scale alone are equal by it, and it moves where the count of right images does
    not. logits: [images, classes]; labels: [images], or sets [images, classes], of which all classes of an image are
    added up; sizes: classes of each task.
    """
    own = among_own(logits.double(), labels, sizes)
    return _scores(own, labels, best_temperature(logits, labels, sizes))


def best_temperature(logits: Tensor, labels: Tensor, sizes: Sequence[int]) -> float:
    """What logits are to be divided by so that the classes of these images are as probable as can be."""
    own = among_own(logits.double(), labels, sizes)
    finite = own[own.isfinite()]
    spread = max(float(finite.std()) if len(finite) > 1 else 0.0, 1e-12)  # logits have no unit of their own
    tried = [spread * float(one) for one in TEMPERATURES]

    @cache
    def score(place: int) -> float:
        return float(_scores(own, labels, tried[place]).mean())

    low, high = 0, len(tried) - 1
    while high - low > 2:  # the score has one peak: it is concave in 1 / T
        left, right = low + (high - low) // 3, high - (high - low) // 3
        low, high = (left, high) if score(left) < score(right) else (low, right)
    return tried[max(range(low, high + 1), key=score)]


def standard_error(values: Tensor) -> float:
    """Of the mean of values [images]; infinite for fewer than two, of which nothing is known.

    >>> round(standard_error(torch.tensor([0.0, 1.0, 0.0, 1.0])), 3), standard_error(torch.tensor([1.0]))
    (0.289, inf)
    """
    return float(values.std()) / len(values) ** 0.5 if len(values) > 1 else math.inf


def _scores(own: Tensor, labels: Tensor, temperature: float) -> Tensor:
    if are_sets(labels):
        return set_log_likelihoods(own / temperature, labels)
    return (own / temperature).log_softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
