"""What a fitted method says of labelled images that it has not learned from: the ground of everything in `trust.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shotfit.data.tasks import Item
from shotfit.engine.frozen import Frozen, ImagePool, Images, normalize
from shotfit.methods.base import Method

__all__ = ["HeldOut", "frozen_features", "held_logits", "held_out", "joined_folds"]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Images with the logits of a predictor that had not learned from them.

    logits: [images, classes of all tasks], float32. labels: [images], numbered through all tasks. features: [images,
    embed], of the frozen image tower, of unit length. source: how the images were held out, for the record.
    """

    logits: Tensor
    labels: Tensor
    features: Tensor
    source: str

    def __len__(self) -> int:
        return len(self.labels)


@torch.no_grad()
def frozen_features(frozen: Frozen, images: Images) -> Tensor:
    """Features [images, embed] of the frozen image tower, of unit length, on the CPU."""
    return normalize(frozen.image(images)).float().cpu()


@torch.no_grad()
def held_logits(method: Method, images: Images) -> Tensor:
    """A method's logits [images, classes] on the CPU."""
    return method.logits(images).float().cpu()


def held_out(method: Method, items: Sequence[Item], source: str) -> HeldOut:
    """Images that the method has not learned from, in their center views."""
    pool = ImagePool(items)
    images = pool.all()
    return HeldOut(held_logits(method, images), pool.labels, frozen_features(method.frozen, images), source)


def joined_folds(
    logits: Sequence[Tensor | None], labels: Sequence[Tensor], features: Sequence[Tensor], source: str
) -> HeldOut | None:
    """The held-out images of all folds as one; None where a fold has no logits, because its fit diverged."""
    found = [own for own in logits if own is not None]
    if not found or len(found) < len(logits):
        return None
    return HeldOut(torch.cat(found), torch.cat(list(labels)), torch.cat(list(features)), source)
