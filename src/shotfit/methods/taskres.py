"""TaskRes: a learned residual on the frozen text features.

Yu et al., "Task Residual for Tuning Vision-Language Models", CVPR 2023, arXiv 2211.10277.

    t'_c   = mean_k t_ck + alpha * x_c                x [classes, embed], zero at the start
    logits = exp(s) * norm(image) @ norm(t').T        [images, classes]

What is frozen: both towers. What is learned: x, one row a class, so new classes have none. With `side=image` one x
[1, embed] is added to the image features instead, and the text is fixed. With `enhanced=N` the base is enhanced: the
text tower's projection is tuned to the support images in the first N steps, and x is learned behind it in the rest.

# differs: underscores in class names become spaces; the official program leaves them. Give names without underscores
and both agree.
# differs: views are drawn once (`--views fresh` draws a new crop at every step, as the official program does).
# differs: the authors' enhanced base is a checkpoint of its own, whose training they do not describe; here it is the
first part of one training (not compared with their program).
Published: see docs/methods.md#taskres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images
from shotfit.errors import UsageError
from shotfit.methods.base import Method, option
from shotfit.methods.class_features import class_features, last_matrix, unprojected_texts
from shotfit.methods.declared import Declared
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule

__all__ = ["TaskRes"]


class TaskRes(Method):
    """A residual on each class's text features."""

    name: ClassVar[str] = "taskres"
    title: ClassVar[str] = "TaskRes"
    paper: ClassVar[str] = "Yu et al., CVPR 2023, arXiv 2211.10277"
    verified: ClassVar[bool] = True
    several_labels: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("adam", lr=2e-3, weight_decay=5e-4),
        Schedule("cosine", warmup=1, warmup_lr=1e-5),
        epochs={1: 100, 8: 200},
        batch=256,
        replayable=True,
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis(
                "alpha", (0.5, 2.0, 6.0), "a residual of a tenth of the text's length cannot say what the names do not"
            ),
            Axis("lr", (2e-3, 6e-3, 2e-2), "few images give few steps, in which the published rate goes nowhere"),
            Axis("steps", (200,), "a cosine of 200 steps ends where one of 400 does"),
        ),
        robust={"alpha": 2.0, "lr": 6e-3, "steps": 200},
        together=True,
    )

    alpha: float = option(0.5, "scale of the residual; the authors use 1.0 on OxfordFlowers", above=0)
    learnable_alpha: bool = option(False, "learn the scale too, from `alpha` on")
    side: str = option("text", "features that the residual is added to", choices=("text", "image"))
    enhanced: int = option(0, "steps that first tune the text projection; 0: the regular base", at_least=0)

    def training_recipe(self) -> Recipe:
        """A training in two parts has steps that differ."""
        assert self.recipe is not None
        return replace(self.recipe, replayable=not self.enhanced)

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """The residual: [classes, embed], or [1, embed] on the image side."""
        self.base, self.steps = class_features(frozen, classes, "raw"), 0  # [classes, embed]
        if self.enhanced:
            self.projection = nn.Parameter(self._projection().weight.to(self.base, copy=True))
            self.pooled = unprojected_texts(frozen, classes)  # [classes, width]
        self.residual = nn.Parameter(torch.zeros_like(self.base if self.side == "text" else self.base[:1]))
        if self.learnable_alpha:
            self.scale = nn.Parameter(self.residual.new_tensor(self.alpha))

    def declared(self) -> dict[str, Declared]:
        """The residual, and its scale where that is learned."""
        rows = len(self.class_names) if self.side == "text" else 1
        scale = {"parameter.scale": Declared()} if self.learnable_alpha else {}
        base = {}
        if self.enhanced:
            base = {"parameter.projection": Declared(self.frozen.embed, self._projection().in_features)}
        return {"parameter.residual": Declared(rows, self.frozen.embed)} | scale | base

    def _projection(self) -> nn.Linear:
        projection = last_matrix(self.frozen.backbone.text)
        if projection is None:
            raise UsageError(
                f"enhanced tunes the projection of the text tower, and that of {self.frozen.backbone.name} has none: "
                "leave it out."
            )
        return projection

    def adjust_gradients(self) -> None:
        """Of what rests in this part of the training no gradient is left, so that the optimizer passes it over."""
        self.steps += 1
        if not self.enhanced:
            return
        tuned = self.steps <= self.enhanced
        for name, parameter in self.named_parameters():
            if (name == "projection") != tuned:
                parameter.grad = None

    def texts(self) -> Tensor:
        """The base, [classes, embed]: as the frozen tower gives it, or through the tuned projection."""
        if not self.enhanced:
            return self.base
        bias = self._projection().bias
        return F.linear(self.pooled, self.projection, None if bias is None else bias.to(self.base))

    def shift(self) -> Tensor:
        """What is added to the features, [classes, embed] or [1, embed]."""
        return (self.scale if self.learnable_alpha else self.alpha) * self.residual

    def text_features(self) -> Tensor:
        """[classes, embed]."""
        return self.texts() + self.shift() if self.side == "text" else self.texts()

    def image_features(self, images: Images) -> Tensor:
        """[images, embed]."""
        features = self.frozen.image(images)
        return features + self.shift() if self.side == "image" else features
