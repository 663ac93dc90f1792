"""CLIP-Adapter: a small bottleneck network on the frozen features.

Gao et al., "CLIP-Adapter: Better Vision-Language Models with Feature Adapters", IJCV 2023, arXiv 2110.04544.

    A(f)   = relu(W_up relu(W_down f))                W_down [hidden, embed], W_up [embed, hidden], no biases
    f'     = ratio * A(f) + (1 - ratio) * f           f not normalized
    logits = exp(s) * norm(f') @ norm(t).T            [images, classes]

What is frozen: both towers. What is learned: W_down and W_up, on the image features, on the text features, or a pair
for each (`side`). They belong to no class, so it predicts new ones.

# differs: the hidden width is embed / reduction; the official program fixes it to that of one ResNet.
# differs: views are drawn once (`--views fresh` draws a new crop at every step, as the official program does).
Published: see docs/methods.md#clip_adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images
from shotfit.errors import UsageError
from shotfit.methods.base import Method, option
from shotfit.methods.class_features import class_features
from shotfit.methods.declared import Declared
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule

__all__ = ["ClipAdapter"]


class ClipAdapter(Method):
    """A residual bottleneck on image features, text features or both."""

    name: ClassVar[str] = "clip_adapter"
    title: ClassVar[str] = "CLIP-Adapter"
    paper: ClassVar[str] = "Gao et al., IJCV 2023, arXiv 2110.04544"
    verified: ClassVar[bool] = True
    several_labels: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("sgd", lr=0.002, weight_decay=5e-4),
        Schedule("cosine", warmup=1, warmup_lr=1e-5),
        epochs={1: 50, 2: 100, 8: 200},
        replayable=True,
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis("ratio", (0.2, 0.6), "classes whose names say little need more of what was learned"),
            Axis("lr", (2e-3, 2e-2, 0.2), "SGD at the published rate hardly moves in few steps"),
            Axis("steps", (400,), "twice the published epochs of a small folder; more changed nothing"),
        ),
        robust={"ratio": 0.2, "lr": 2e-2, "steps": 200},
        together=True,
    )
    accepts_new_classes: ClassVar[bool] = True

    ratio: float = option(0.2, "weight of the adapted image features", at_least=0, at_most=1)
    text_ratio: float = option(0.2, "weight of the adapted text features", at_least=0, at_most=1)
    reduction: int = option(4, "the hidden width is the embedding width divided by this", at_least=1)
    side: str = option("image", "features that are adapted", choices=("image", "text", "both"))

    def check(self) -> None:
        """Refuse a reduction to nothing."""
        if self.reduction > self.frozen.embed:
            raise UsageError(
                f"clip_adapter: a reduction of {self.reduction} leaves no hidden unit of {self.frozen.embed} features: "
                f"use at most {self.frozen.embed}."
            )

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """Two matrices for each adapted side, as a linear layer starts them: uniform in +-1/sqrt(columns)."""
        self.check()
        hidden = frozen.embed // self.reduction
        self.base = class_features(frozen, classes, "raw")  # [classes, embed]
        if self.side != "text":
            self.image_down = self._matrix(hidden, frozen.embed)
            self.image_up = self._matrix(frozen.embed, hidden)
        if self.side != "image":
            self.text_down = self._matrix(hidden, frozen.embed)
            self.text_up = self._matrix(frozen.embed, hidden)

    def declared(self) -> dict[str, Declared]:
        """W_down and W_up of each adapted side."""
        self.check()
        hidden, embed = self.frozen.embed // self.reduction, self.frozen.embed
        shapes = {"down": Declared(hidden, embed), "up": Declared(embed, hidden)}
        sides = ("image", "text") if self.side == "both" else (self.side,)
        return {f"parameter.{side}_{name}": shape for side in sides for name, shape in shapes.items()}

    def _matrix(self, rows: int, columns: int) -> nn.Parameter:
        bound = columns**-0.5
        return nn.Parameter(torch.empty(rows, columns).uniform_(-bound, bound).to(self.base))

    def text_features(self) -> Tensor:
        """[classes, embed]."""
        if self.side == "image":
            return self.base
        return self.text_ratio * adapt(self.base, self.text_down, self.text_up) + (1 - self.text_ratio) * self.base

    def image_features(self, images: Images) -> Tensor:
        """[images, embed]."""
        features = self.frozen.image(images)
        if self.side == "text":
            return features
        return self.ratio * adapt(features, self.image_down, self.image_up) + (1 - self.ratio) * features


def adapt(features: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """relu(up relu(down f)) of each row: [rows, embed]."""
    return ((features @ down.T).relu() @ up.T).relu()
