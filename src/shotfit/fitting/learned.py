"""Which images a fitted model has learned, by content, so that nobody takes their accuracy for a held-out figure.

    model.learned                           # [images], saved with the model: eight bytes an image
    count_learned(model, task.test)         # how many of these are among them

A model has learned the images that it was fitted to, and those of a validation part that it was chosen by. A mark is
the beginning of the sha256 of an image's digest: a million images take eight megabytes, and one of a thousand others is
taken for one of them with a probability below 1e-9.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from shotfit.data.tasks import Item

__all__ = ["LEARNED", "are_learned", "count_learned", "marks", "said_of_learned"]

LEARNED = "learned"
"""The tensor of a saved model that holds the marks."""


class HasLearned(Protocol):
    """A fitted model."""

    learned: Tensor


def marks(items: Iterable[Item]) -> Tensor:
    """[different images] int64, in ascending order; an image that could not be read has none."""
    found = {_mark(item) for item in items if item.digest}
    return torch.from_numpy(np.array(sorted(found), dtype=np.int64))


def count_learned(model: HasLearned, items: Sequence[Item]) -> int:
    """How many of the images the model has learned."""
    return sum(are_learned(model, items))


def are_learned(model: HasLearned, items: Sequence[Item]) -> list[bool]:
    """Whether the model has learned each of the images."""
    learned = set(model.learned.tolist())
    return [bool(item.digest) and _mark(item) in learned for item in items] if learned else [False] * len(items)


def said_of_learned(learned: int, images: int) -> str:
    """What a user is told where a model is judged on images that it has learned; "" where there is none."""
    if not learned:
        return ""
    found = f"{learned:,} of these {images:,} images are among those that the model learned from"
    return f"{found}: this is no held-out figure"


def _mark(item: Item) -> int:
    return int.from_bytes(hashlib.sha256(item.digest.encode()).digest()[:8], "big", signed=True)
