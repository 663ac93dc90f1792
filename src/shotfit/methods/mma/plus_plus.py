"""MMA++: MMA with a scale of its own at prediction, many texts for each class, and consistency in training.

Yang et al., "MMA++: Effective Multi-Modal Adaptation for Vision-Language Models", IEEE T-PAMI 48(9), 2026.

    t, v   = text and image features at the scale s, each class read as one of its texts, drawn anew at each step
    t', v' = the same at the scale u s, u uniform from 0 to 1, without gradient
    loss   = cross-entropy(exp(s_clip) cos(v, t)) - w mean_c cos(t_c, t'_c) - w mean_i cos(v_i, v'_i)

It is MMA with other defaults (`scale`, `prediction_scale`, `gradient_rule=plain`, `texts`, `consistency`, `dropout`).
Prediction runs at a smaller scale than training, for known and new classes alike, and reads a class as the mean
direction of all of its texts. What is frozen and learned: as in MMA.

# differs: without `descriptions` the texts of a class are CLIP's eighty templates, the program's `hc`, for which no
figure is published: shotfit ships no sentences. With `descriptions` classes may have lists of unequal length.
# differs: few-shot learning of all classes is not in the program; it has the recipe of base-to-new here.
# differs: float32 throughout; the program multiplies in float16.
# differs: towers of unequal depth are paired from the top (`pairing=index`: the program's way).
# differs: views are drawn once, of half an image at least (`--views fresh` draws a new crop at every step, of 8 % at
least, as the official program does).
Published: see docs/methods.md#mma_plus_plus.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from shotfit.data.tasks import TEMPLATE_SETS
from shotfit.methods.base import option
from shotfit.methods.mma.method import MMA
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule

__all__ = ["MMAPlusPlus"]


class MMAPlusPlus(MMA):
    """MMA with decoupled scales, many texts and consistency."""

    name: ClassVar[str] = "mma_plus_plus"
    title: ClassVar[str] = "MMA++"
    paper: ClassVar[str] = "Yang et al., T-PAMI 2026"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("sgd", lr=0.2, weight_decay=5e-4), Schedule("cosine"), epochs={1: 50}, batch=16
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis("lr", (0.2, 0.05, 0.6), "how far the adapters must go depends on how much the names say"),
            Axis("steps", (400,), "fifty epochs are 300 steps for a dozen classes, and 5,000 for a hundred"),
        ),
        robust={"lr": 0.2, "steps": 240},
    )

    scale: float = option(0.01, "factor of the adapters' output", above=0)
    prediction_scale: float = option(
        -1.0, "that factor at prediction; -1: 0.0065, and 0.005 with protocol=transfer", at_least=-1
    )
    gradient_rule: str = option("plain", "true gradients, or divided by the scale", choices=("plain", "scaled"))
    texts: str = option(
        "imagenet-80",
        "texts of a class: one prompt, the task's templates, or a set",
        choices=("prompt", "task", *TEMPLATE_SETS),
    )
    consistency: float = option(
        -1.0,
        "weight of the likeness to features at a random smaller scale; -1: 2.5, and 1 with protocol=transfer",
        at_least=-1,
    )
    dropout: float = option(
        -1.0, "share of the middle's outputs that training leaves out; -1: 0.1, and 0.2 of templates for base-to-new",
        at_least=-1, at_most=0.9,
    )  # fmt: skip

    def training_recipe(self) -> Recipe | None:
        """The rate of sentences or of templates; fewer epochs for classes of other tasks."""
        assert self.recipe is not None
        if self._transfers():
            return replace(self.recipe, optimizer=replace(self.recipe.optimizer, lr=0.3), epochs={1: 15})
        if not self.descriptions:
            return replace(self.recipe, optimizer=replace(self.recipe.optimizer, lr=0.3))
        return self.recipe

    def _transfers(self) -> bool:
        return self.protocol == "transfer"

    def usual_start(self, depth: int) -> int:
        """The upper two thirds in every protocol."""
        return depth // 3 + 1

    @property
    def used_scale(self) -> float:
        """The scale at prediction; 0 is the frozen model."""
        return self.prediction_scale if self.prediction_scale >= 0 else 0.005 if self._transfers() else 0.0065

    @property
    def consistency_weight(self) -> float:
        """The weight of the consistency loss."""
        return self.consistency if self.consistency >= 0 else 1.0 if self._transfers() else 2.5

    @property
    def dropout_rate(self) -> float:
        """The share that training leaves out."""
        return self.dropout if self.dropout >= 0 else 0.1 if self.descriptions or self._transfers() else 0.2
