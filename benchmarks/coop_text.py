"""CoOp's text side: what a training step costs for the prompts of 100 classes."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.names import CALTECH101
from shotfit.data.tasks import ClassList
from shotfit.frozen import Frozen
from shotfit.methods.coop import CoOp
from shotfit.testing import random_backbone
from shotfit.towers.config import BackboneConfig, BlocksConfig, ImageConfig, TextConfig
from shotfit.towers.layout import Savings
from shotfit.towers.preprocess import clip_preprocessing
from shotfit.towers.tokenizers import load_tokenizer

__all__ = ["coop_text_100"]

TEXT = TextConfig(
    49408, 77, BlocksConfig(512, 12, 8, 2048, "quick_gelu", 1e-5), 512, True, "end", 49407, 0, projection_bias=False
)
IMAGE = ImageConfig(32, 16, BlocksConfig(64, 1, 1, 64, "quick_gelu", 1e-5), 512, True, False, True, "token", True)
"""Text size of ViT-B/16; the image tower takes no part."""


def coop_text_100(repeats: int) -> dict[str, float | int | str]:
    """CoOp's text tower, 16 context vectors, 100 classes, forward and backward, against 77 padded tokens a class."""
    torch.manual_seed(0)
    backbone = random_backbone(
        BackboneConfig(IMAGE, TEXT, clip_preprocessing(32), False), load_tokenizer(None, TEXT, "clip")
    )
    classes, target = (ClassList("caltech101", tuple(CALTECH101)),), torch.randn(32, 512)
    labels = torch.randint(len(CALTECH101), (32,))
    ours, padded = (_step(Frozen(backbone, savings=s), classes, target, labels) for s in (Savings(), Savings.none()))
    gradient, reference = ours(), padded()  # also warms both up
    difference = float((gradient - reference).abs().max() / reference.abs().max())
    seconds: dict[str, list[float]] = {"ours": [], "padded": []}
    for _ in range(repeats):
        for name, step in (("ours", ours), ("padded", padded)):
            begin = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begin)
    ratios = [slow / fast for fast, slow in zip(seconds["ours"], seconds["padded"], strict=True)]
    return {
        "classes": len(CALTECH101),
        "threads": torch.get_num_threads(),
        "seconds_padded": median(seconds["padded"]),
        "seconds_ours": median(seconds["ours"]),
        "times_faster": median(ratios),
        "times_faster_lowest": min(ratios),
        "times_faster_highest": max(ratios),
        "gradient_difference": difference,
    }


def _step(frozen: Frozen, classes: tuple[ClassList, ...], images: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """A training step's text side that gives the gradient of the context [16, 512]."""
    method = CoOp(length=16)
    method.attach(frozen, classes)
    torch.manual_seed(1)
    method.build(frozen, classes)
    (context,) = method.parameters()

    def step() -> Tensor:
        logits = frozen.logits(images, method.text_features())
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels), [context])
        return gradient

    return step
