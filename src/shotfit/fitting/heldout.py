"""What a fit says of images that it has not learned from: the ground of every choice, check and probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shotfit.methods.numbering import among_own

__all__ = ["HeldOut", "log_likelihoods", "pooled"]

TEMPERATURES = torch.logspace(-2, 2, 81, dtype=torch.float64)  # a tenth of a factor of ten apart


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Logits of images that the predictor had not learned from.

    logits: [images, classes of all tasks], float32. labels: [images]. features: [images, embed] of the frozen image
    tower, of unit length. source: what the images are, in words.
    """

    logits: Tensor
    labels: Tensor
    features: Tensor
    source: str

    def right(self, sizes: Sequence[int]) -> Tensor:
        """Whether each image is put into its class, among the classes of its task: [images], bool."""
        return among_own(self.logits, self.labels, sizes).argmax(dim=1) == self.labels


def pooled(parts: Sequence[HeldOut]) -> HeldOut:
    """Several as one, in order."""
    columns = zip(*((part.logits, part.labels, part.features) for part in parts), strict=True)
    logits, labels, features = (torch.cat(column) for column in columns)
    return HeldOut(logits, labels, features, parts[0].source)


def log_likelihoods(logits: Tensor, labels: Tensor, sizes: Sequence[int]) -> Tensor:
    """The log probability of each image's class at the temperature that suits all of them best: [images], float64.

    Two methods whose logits differ in scale alone are equal by it, and it moves where the count of right images does
    not. logits: [images, classes]; labels: [images]; sizes: classes of each task.
    """
    own = among_own(logits.double(), labels, sizes)
    spread = own.masked_fill(own.isinf(), torch.nan).nan_to_num(0.0).std().clamp(min=1e-12)  # no unit of its own
    tried = [(own / (spread * one)).log_softmax(dim=1).gather(1, labels[:, None]).squeeze(1) for one in TEMPERATURES]
    return tried[int(torch.stack([one.mean() for one in tried]).argmax())]
