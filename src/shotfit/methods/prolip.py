"""ProLIP: the image tower's projection into the joint space, trained near its pretrained value.

Fahes et al., "CLIP's Visual Embedding Projector is a Few-shot Cornucopia", arXiv 2410.05270.

    g      = what the image tower pools, in front of its projection W0             [images, width]
    logits = exp(s) * norm(g @ W.T + b) @ norm(t).T                                [images, classes]
    loss   = CE + lambda * ||W - W0||^2          a sum over entries; lambda = penalty / shots

What is frozen: all else; b is a ResNet's. What is learned: W, which belongs to no class, so it predicts new ones. It is
learned from stored g, in one step an epoch on all images.

    side=text       the text tower's projection instead, of the mean of a class's templates
    side=features   a matrix behind the frozen image features, from the identity: the regularized linear adapter, for
                    towers without a projection (SigLIP) or out of reach

# differs: the temperature is the backbone's exp(s); the official program multiplies by 100 (`temperature=100`).
# differs: views are drawn once, 4 of each image in place of 300, and a step takes one of each image by chance.
# differs: float32; the official program trains in float16, where a step of 1e-5 is lost to rounding in many entries.
Published: see docs/methods.md#prolip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.errors import UsageError
from shotfit.methods.base import Method, Support, option
from shotfit.methods.class_features import class_features, last_matrix, scaled_cosines, unprojected_texts
from shotfit.methods.declared import Declared
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule
from shotfit.towers.edits import Unprojected

__all__ = ["ProLIP"]

RECIPE = Recipe(
    Optimizer("adam", lr=1e-4, eps=1e-4),  # with the usual 1e-8 every entry would move by the rate at the first step
    Schedule("cosine"),
    epochs={1: 300},
    batch=1_000_000,  # all images in every step
    crop_scale=(0.5, 1.0),
    replayable=True,
)


class ProLIP(Method):
    """The final projection of a tower."""

    name: ClassVar[str] = "prolip"
    title: ClassVar[str] = "ProLIP"
    paper: ClassVar[str] = "Fahes et al., arXiv 2410.05270"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = RECIPE
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis("lr", (1e-4, 1e-3, 1e-2), "the authors report four rates apart, none of which serves all data sets"),
            Axis("penalty", (1.0, 0.01), "unlike domains are farther from the pretrained projection"),
            Axis("steps", (100,), "at the higher rates a third of the published steps arrives"),
        ),
        robust={"lr": 1e-4, "penalty": 1.0, "steps": 100},
        together=True,
    )
    accepts_new_classes: ClassVar[bool] = True

    side: str = option("image", "what is trained", choices=("image", "text", "features"))
    penalty: float = option(1.0, "weight of the squared distance from the start", at_least=0)
    per: str = option("shot", "what the penalty is divided by", choices=("shot", "shot-squared", "nothing"))
    protocol: str = option(
        "few-shot", "transfer: the authors' rate for new classes and other domains", choices=("few-shot", "transfer")
    )
    temperature: float = option(0.0, "factor of the cosines; 0: the backbone's own", at_least=0)

    def training_recipe(self) -> Recipe:
        """A tenth of the rate where what is learned must hold elsewhere."""
        return RECIPE if self.protocol == "few-shot" else replace(RECIPE, optimizer=replace(RECIPE.optimizer, lr=1e-5))

    def check(self) -> None:
        """Refuse a tower that does not end in a projection."""
        if self.side != "features" and self._projection() is None:
            raise UsageError(
                f"prolip trains the projection of the {self.side} tower, but that of {self.frozen.backbone.name} has "
                "none: choose another backbone, or a matrix behind its features (--set side=features)."
            )

    def _projection(self) -> nn.Linear | None:
        """The frozen map that is replaced; None behind the features."""
        towers = {"image": self.frozen.backbone.image, "text": self.frozen.backbone.text}
        return last_matrix(towers[self.side]) if self.side in towers else None

    @torch.no_grad()
    def prepare(self, support: Support) -> None:
        """Keep what the image tower pools of every view."""
        self.divisor = {"shot": support.shots, "shot-squared": support.shots**2, "nothing": 1}[self.per]
        if self.side == "image":
            rows = torch.arange(len(support.labels) * max(support.random.views, 1))
            self.views, self.kept = support.random, self._pooled(Images(support.random, rows))

    def _pooled(self, images: Images) -> Tensor:
        if hasattr(self, "kept") and images.pool is self.views:
            return self.kept.index_select(0, images.rows.to(self.kept.device))
        return self.frozen.image(images, [Unprojected("image", self.frozen.backbone.image.last - 1)])

    @torch.no_grad()
    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """W [embed, width] as it is loaded; behind the features the identity [embed, embed]."""
        self.check()
        projection, dtype = self._projection(), frozen.parameter_dtype
        of_text = self.side == "text"  # [classes, width] of the text tower, else [classes, embed]
        self.base = unprojected_texts(frozen, classes) if of_text else class_features(frozen, classes)
        eye = torch.eye(frozen.embed, dtype=dtype, device=self.base.device)
        self.start = eye if projection is None else projection.weight.detach().to(dtype)
        self.weight = nn.Parameter(self.start.clone())

    def declared(self) -> dict[str, Declared]:
        """W."""
        projection = self._projection()
        width = self.frozen.embed if projection is None else projection.in_features
        return {"parameter.weight": Declared(self.frozen.embed, width)}

    def text_features(self) -> Tensor:
        """[classes, embed]."""
        return F.linear(self.base, self.weight, self._bias()) if self.side == "text" else self.base

    def image_features(self, images: Images) -> Tensor:
        """[images, embed]."""
        if self.side == "text":
            return self.frozen.image(images)
        features = self._pooled(images) if self.side == "image" else self.frozen.image(images)
        return F.linear(features, self.weight, self._bias())

    def _bias(self) -> Tensor | None:
        projection = self._projection()
        if projection is None or projection.bias is None:
            return None
        return projection.bias.detach().to(self.frozen.parameter_dtype)

    def logits(self, images: Images) -> Tensor:
        """[images, classes]."""
        features = normalize(self.image_features(images))
        return scaled_cosines(self.frozen, features, self.class_features(), self.temperature)

    def loss(self, images: Images, labels: Tensor) -> Tensor:
        """Cross-entropy and the penalty."""
        away = (self.weight - self.start).square().sum()
        return super().loss(images, labels) + self.penalty / self.divisor * away
