"""The terms of CLIP-CITE's loss, on scores of a batch's images with the texts of their classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["contrasted", "diverged"]


def contrasted(scores: Tensor, labels: Tensor) -> Tensor:
    """The contrast of images and texts, []: the mean over images and that over texts, added up.

    scores: [images, images] of each image with the text of each image's class. labels: [images].
    """
    own = scores.diagonal()
    same = (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    against = scores.masked_fill(same, -torch.inf)  # texts of the own class count once
    return sum((against.logsumexp(dim=side) - own).mean() for side in (0, 1))  # type: ignore[return-value]


def diverged(scores: Tensor, frozen: Tensor) -> Tensor:
    """KL(p || p0), the mean over images, []: how far probabilities are from the frozen model's.

    scores, frozen: [images, images], as of `contrasted`.
    """
    return F.kl_div(frozen.log_softmax(dim=1), scores.log_softmax(dim=1), reduction="batchmean", log_target=True)
