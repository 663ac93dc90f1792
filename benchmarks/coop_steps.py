"""A training step of CoOp's text side alone, ours and in the reference manner, whose time and memory are measured."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from benchmarks.names import CALTECH101, imagenet_names
from benchmarks.reference import Clip, CoOp, pad
from benchmarks.sizes import Size
from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen
from shotfit.methods import coop

__all__ = ["Step", "ours_of", "reference_of", "text_method"]

IMAGES = 32  # features that take the place of an image tower

Step = Callable[[], dict[str, Tensor]]


def text_method(size: Size, classes: int, memory: int | None = None) -> coop.CoOp:
    """CoOp on a text tower of random weights. memory: bytes for text activations."""
    names = CALTECH101 if classes <= len(CALTECH101) else imagenet_names()
    task = size.classes_of(ClassList("classes", names[:classes]))
    frozen = Frozen(size.backbone(image_tower=False), memory=memory)
    method = coop.CoOp(length=16)
    method.attach(frozen, (task,))
    torch.manual_seed(1)
    method.build(frozen, (task,))
    return method


def _images(method: coop.CoOp) -> tuple[Tensor, Tensor]:
    """Features [n, embed] and labels [n]."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(IMAGES, method.frozen.embed, generator=generator)
    return features, torch.randint(sum(method.sizes), (IMAGES,), generator=generator)


def ours_of(method: coop.CoOp) -> Step:
    """A step that gives the loss and the gradient of the context [16, width]."""
    images, labels = _images(method)

    def step() -> dict[str, Tensor]:
        loss = F.cross_entropy(method.frozen.logits(images, method.text_features()), labels)
        (gradient,) = torch.autograd.grad(loss, [method.context])
        return {"loss": loss.detach(), "context": gradient}

    return step


def reference_of(method: coop.CoOp, chunk: int = 0, first_alone: bool = False) -> Step:
    """The same in the reference manner.

    chunk: classes that run together, recomputed in the backward pass (0: all). first_alone: the first chunk's classes
    are all there are, to see what they take.
    """
    images, labels = _images(method)
    clip = Clip(method.frozen.backbone)
    other = CoOp(clip, pad(method.texts.rows, clip), dict(method.named_parameters()))
    context, classes = other.get_parameter("context"), sum(method.sizes)

    def some(first: int) -> Tensor:
        rows = slice(first, first + chunk)
        return clip.text(other.prompts(rows), other.ends[rows])

    def features() -> Tensor:
        if first_alone:
            return some(0)
        if not 0 < chunk < classes:
            return other.text_features()
        return torch.cat([checkpoint(some, first, use_reentrant=False) for first in range(0, classes, chunk)])

    def step() -> dict[str, Tensor]:
        logits = clip.logits(images, features())
        loss = F.cross_entropy(logits, labels % logits.shape[1])
        (gradient,) = torch.autograd.grad(loss, [context])
        return {"loss": loss.detach(), "context": gradient}

    return step
