"""ZS-LP and CLAP: class prototypes that start as the text features, and may be held near them.

Silva-Rodriguez et al., "A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models", CVPR 2024, arXiv
2312.12730.

    p_c    = mean_k t_ck at the start                                       [classes, embed]
    logits = exp(s) * norm(image) @ norm(p).T                               [images, classes]
    ZS-LP    loss = CE
    CLAP     loss = CE + mean_c lambda_c * ||p_c - mean_k t_ck||^2
             lambda_c = mean over the images of class c of the zero-shot probability of c

What is frozen: both towers. What is learned: p, one row a class, so new classes have none. CLAP's lambda is weak where
zero-shot is wrong. Nothing is chosen on images: the authors use one setting everywhere.

    mode=balanced     lambda_c = 1
    mode=constant     the mean of all for each
    mode=corrected    times classes / sum
    mode=adaptative   after each epoch, with h_c = ||p_c - mean_k t_ck||^2: lambda = max(0, lambda + rho h), rho = h

# differs: 4 views, drawn once for all methods, in place of 20.
# differs: underscores in class names become spaces; the official program leaves them.
Published: see docs/methods.md#clap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.methods.base import Method, Support, option
from shotfit.methods.class_features import class_features
from shotfit.methods.declared import Declared
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule
from shotfit.methods.support_features import support_features

__all__ = ["CLAP", "ZSLP"]

RECIPE = Recipe(
    Optimizer("sgd", lr=0.1), Schedule("cosine", warmup=1, warmup_lr=1e-5), epochs={1: 300}, batch=256, replayable=True
)
RATE = Axis("lr", (0.1, 1.0), "how far a prototype must go depends on the length of the text features")
STEPS = Axis("steps", (400, 100), "300 epochs are 300 steps for 256 images, where a hundred suffice for few")


class ZSLP(Method):
    """A linear probe of cosines that starts as the text classifier."""

    name: ClassVar[str] = "zs_lp"
    title: ClassVar[str] = "ZS-LP"
    paper: ClassVar[str] = "Silva-Rodriguez et al., CVPR 2024, arXiv 2312.12730"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = RECIPE
    grid: ClassVar[Grid | None] = Grid((RATE, STEPS), robust={"lr": 1.0, "steps": 400}, together=True)

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """The prototypes [classes, embed], and where they start."""
        self.base = class_features(frozen, classes, "raw")  # [classes, embed]
        self.prototypes = nn.Parameter(self.base.clone())

    def declared(self) -> dict[str, Declared]:
        """The prototypes."""
        return {"parameter.prototypes": Declared(len(self.class_names), self.frozen.embed)}

    def text_features(self) -> Tensor:
        """[classes, embed]."""
        return self.prototypes


class CLAP(ZSLP):
    """Prototypes that a penalty for each class holds near the text."""

    name: ClassVar[str] = "clap"
    title: ClassVar[str] = "CLAP"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = RECIPE
    grid: ClassVar[Grid | None] = Grid(  # not together: `adaptative` counts its epochs step by step
        (RATE, STEPS, Axis("strength", (1.0, 0.1, 0.01), "names that say little should hold less")),
        robust={"lr": 1.0, "steps": 100, "strength": 0.1},
    )

    distance: str = option("l2", "what holds a prototype near its text", choices=("l2", "cosine"))
    mode: str = option(
        "class", "how strongly each class is held", choices=("class", "balanced", "constant", "corrected", "adaptative")
    )
    strength: float = option(1.0, "factor of the penalty", at_least=0)

    def training_recipe(self) -> Recipe:
        """A step of a lambda that adapts is not the same for every batch."""
        return replace(RECIPE, replayable=self.mode != "adaptative")

    @torch.no_grad()
    def prepare(self, support: Support) -> None:
        """The zero-shot probability of the true class of every view, and the number of steps in an epoch."""
        features = support_features(self.frozen, support, support.random.views)  # [views, images, embed]
        base = class_features(self.frozen, self.classes, "raw")
        labels = support.labels.to(base.device)
        likely = self.frozen.logits(features.flatten(0, 1), base).softmax(dim=1)
        own = likely.gather(1, labels.repeat(len(features))[:, None]).unflatten(0, (len(features), -1)).mean(dim=(0, 2))
        self.prepared = own, labels
        self.epoch = RECIPE.steps_for(len(labels))

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """The prototypes, and lambda [classes]."""
        super().build(frozen, classes)
        own, labels = self.prepared
        del self.prepared
        count = len(self.base)
        images = torch.bincount(labels, minlength=count)
        held = own.new_zeros(count).index_add_(0, labels, own) / images
        held = held.where(images > 0, held[images > 0].mean())  # a class without images is held as the others
        if self.mode == "balanced":
            held = torch.ones_like(held)
        elif self.mode == "constant":
            held = held.mean().expand(count)
        elif self.mode == "corrected":
            held = held * count / held.sum()
        self.multipliers = held.clone()
        self.rho, self.steps, self.due = torch.zeros_like(held), 0, False

    def distances(self) -> Tensor:
        """How far each prototype is from its text, [classes]."""
        if self.distance == "cosine":
            return 1 - (normalize(self.prototypes) * normalize(self.base)).sum(dim=1)
        return (self.prototypes - self.base).square().sum(dim=1)

    def loss(self, images: Images, labels: Tensor) -> Tensor:
        """Cross-entropy and the penalty."""
        if self.due:
            self.end_epoch()
        return super().loss(images, labels) + self.strength * (self.multipliers * self.distances()).mean()

    def adjust_gradients(self) -> None:
        """Count the steps: after the last of an epoch lambda adapts."""
        self.steps += 1
        self.due = self.mode == "adaptative" and self.steps % self.epoch == 0

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Raise lambda of the classes that have moved, where it adapts."""
        moved = self.distances()
        self.multipliers = (self.multipliers + self.rho * moved).clamp(min=0)
        self.rho, self.due = moved, False
