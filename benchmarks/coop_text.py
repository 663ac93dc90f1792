"""CoOp's text side alone: what a training step costs for the prompts of 100 and of 1,000 classes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from benchmarks.measure import Line, Target, alternate, check_same, line, long
from benchmarks.names import CALTECH101, imagenet_names
from benchmarks.reference import Clip, CoOp, pad
from benchmarks.sizes import Size
from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen
from shotfit.methods import coop

__all__ = ["coop_text_100", "coop_text_1000", "ours_of", "reference_of", "text_method"]

IMAGES = 32  # features that take the place of an image tower
MEMORY = 2**30  # bytes that ours may take for text activations of 1,000 classes
BUDGET = 20 * 2**30  # bytes that the reference may take

Step = Callable[[], dict[str, Tensor]]


def coop_text_100(size: Size, repeats: int) -> Line:
    """CoOp's text tower, 16 context vectors, 100 classes, forward and backward, against 77 padded tokens a class."""
    method = text_method(size, 100)
    timed, sizes = _timed(size, method, 0, repeats)
    return line("coop_text_100", timed["ratio"], Target(24, "times faster"), torch.float32, sizes, **timed)


def coop_text_1000(size: Size, repeats: int) -> Line:
    """The same with ImageNet's 1,000 names; the reference in the largest chunks of classes that fit 20 GiB."""
    from benchmarks.memory import measured_apart  # which imports the steps from here

    classes = min(1000, size.classes)
    ours, reference = (
        measured_apart(manner, classes, size, budget) for manner, budget in (("ours", MEMORY), ("reference", BUDGET))
    )
    timed, sizes = _timed(size, text_method(size, classes, MEMORY), reference["chunk"], long(repeats), warm=False)
    sizes |= {"reference_chunk": reference["chunk"], "ours_memory": MEMORY}
    peaks = {"ours_bytes": ours["peak"], "reference_bytes": reference["peak"]}
    timed |= peaks | {"memory_ratio": peaks["reference_bytes"] / peaks["ours_bytes"], "memory_target": 10}
    return line("coop_text_1000", timed["ratio"], Target(16, "times faster"), torch.float32, sizes, **timed)


def _timed(size: Size, method: coop.CoOp, chunk: int, repeats: int, warm: bool = True) -> tuple[Line, Line]:
    """Timings and sizes of both manners on the same prompts. warm: the reference runs once before it is timed."""
    found: dict[str, dict[str, Tensor]] = {}
    steps = {"ours": ours_of(method), "reference": reference_of(method, chunk)}

    def run(manner: str) -> None:
        found[manner] = steps[manner]()

    run("ours")
    if warm:
        run("reference")
    timing = alternate(partial(run, "ours"), partial(run, "reference"), repeats).fields()
    difference = check_same(found["ours"], found["reference"], 1e-3)
    sizes = {"backbone": size.name, "classes": sum(method.sizes), "context": method.length}
    return timing | {"gradient_difference": difference}, sizes


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
