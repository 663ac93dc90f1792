"""Losses on class prototypes: how image features lie to them, and how far they have moved.

Zhang et al., arXiv 2403.12964.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["away_from", "rerank"]

COSINE_EPS = 1e-7


def rerank(features: Tensor, prototypes: Tensor, labels: Tensor, neighbours: int, scale: float) -> Tensor:
    """[] hinge that asks the own prototype to be nearest, by a margin that grows with how unlike the other one is.

        margin = (1 - p_other . p_own) / scale
        loss   = mean over the nearest prototypes of max(0, |f - p_own| + margin - |f - p_other|)

    The own prototype may be among the nearest; its margin is above 0 where it is shorter than 1, which draws it out.
    features: [images, embed]; prototypes: [classes, embed].
    """
    distances, nearest = torch.cdist(features, prototypes).topk(min(neighbours, len(prototypes)), largest=False)
    own = prototypes[labels]  # [images, embed]
    anchor = (features - own).norm(dim=1, keepdim=True)
    margin = (1 - (prototypes[nearest] @ own[:, :, None]).squeeze(-1)) / scale  # [images, neighbours]
    return F.relu(anchor + margin - distances).mean()


def away_from(moved: Tensor, start: Tensor, axis: int) -> Tensor:
    """[] mean of 1 - cosine along an axis: 1 compares rows, 0 compares columns."""
    return (1 - F.cosine_similarity(moved, start, dim=axis, eps=COSINE_EPS)).mean()
