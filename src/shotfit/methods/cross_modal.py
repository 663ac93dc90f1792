"""Cross-modal linear probe: one classifier learned from image features and from the class's texts, as equal examples.

Lin et al., "Multimodality Helps Unimodality: Cross-Modal Few-Shot Learning with Multimodal Models", CVPR 2023, arXiv
2301.06267.

    W      = norm(t) at the start                                                 [classes, embed]
    logits = exp(s) * norm(x) @ W.T              x an image, or a prompt of a class; W is not normalized again
    loss   = (1 - text_share) * CE(images) + text_share * CE(prompts)

What is frozen: both towers. What is learned: W, one row a class, so new classes have none. Every step sees all prompts
of all classes, and a batch of images. Not compared with the authors' program: no recorded results.

# differs: rate, decay and length are ours; the authors search them for each data set on a validation part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.methods.base import Method, option
from shotfit.methods.class_features import class_features
from shotfit.methods.declared import Declared
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule

__all__ = ["CrossModal"]


class CrossModal(Method):
    """A linear probe over image and text features together."""

    name: ClassVar[str] = "cross_modal"
    title: ClassVar[str] = "cross-modal linear probe"
    paper: ClassVar[str] = "Lin et al., CVPR 2023, arXiv 2301.06267"
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("adamw", lr=1e-3, weight_decay=0.01),
        Schedule("cosine", unit="step"),
        epochs={1: 100},
        replayable=True,
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis("text_share", (0.5, 0.1), "names that say little should count less"),
            Axis("lr", (1e-3, 3e-3, 1e-2), "few images give few steps"),
            Axis("steps", (1600, 400, 100), "a hundred epochs are 600 steps for a dozen classes, 5,000 for a hundred"),
        ),
        robust={"text_share": 0.5, "lr": 1e-3, "steps": 100},
        together=True,
    )

    text_share: float = option(0.5, "weight of the texts in the loss", at_least=0, at_most=1)

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """W [classes, embed], and the prompts [classes * templates, embed] that it learns from."""
        texts, templates = frozen.class_texts(classes)
        self.texts = normalize(frozen.text(texts))  # class by class
        start = class_features(frozen, classes)
        self.weight = nn.Parameter(start.clone())
        self.owners = torch.arange(len(start), device=start.device).repeat_interleave(templates)

    def declared(self) -> dict[str, Declared]:
        """W."""
        return {"parameter.weight": Declared(len(self.class_names), self.frozen.embed)}

    def logits(self, images: Images) -> Tensor:
        """[images, classes]."""
        return self._logits(normalize(self.image_features(images)))

    def _logits(self, features: Tensor) -> Tensor:
        return self.frozen.temperature.to(features) * features @ self.weight.T

    def loss(self, images: Images, labels: Tensor) -> Tensor:
        """Cross-entropy of both kinds of examples."""
        of_texts = F.cross_entropy(self._logits(self.texts), self.owners)
        return (1 - self.text_share) * super().loss(images, labels) + self.text_share * of_texts
