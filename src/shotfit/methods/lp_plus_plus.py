"""LP++: a linear probe that starts from the images and is blended with the text, at rates that the data give.

Huang et al., "LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP", CVPR 2024, arXiv 2404.02285.

    q      = norm(image)                                                          [images, embed]
    logits = q @ W.T + b + alpha * (q @ norm(t).T)                                [images, classes], no temperature

    W starts as the sum of q of each class, b uniform in +-1/sqrt(embed), and
    alpha_c = 250 * mean_k mean_{i in k} q_i . t_k for every class c
    rate of W and b      4 n / (largest eigenvalue of Q^T Q)
    rate of alpha        n / (4 max_k sum_i (q_i . t_k)^2), in every tenth epoch

What is frozen: both towers. What is learned: W, b and alpha, one row a class, so new classes have none. alpha moves by
the sum of all its gradients since the first epoch: the official program never clears them, and so are its figures made.

Of equal epochs on the validation part the last is kept; without a validation part the last of all.

# differs: the one view of each image is the first of those that are drawn once for all methods.
Published: see docs/methods.md#lp_plus_plus.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.methods.base import Method, Support, option
from shotfit.methods.class_features import class_features
from shotfit.methods.declared import Declared
from shotfit.methods.recipe import Axis, Grid, Optimizer, ParameterGroup, Recipe, Schedule

__all__ = ["LPPlusPlus"]


class LPPlusPlus(Method):
    """A linear probe blended with the text classifier, class by class."""

    name: ClassVar[str] = "lp_plus_plus"
    title: ClassVar[str] = "LP++"
    paper: ClassVar[str] = "Huang et al., CVPR 2024, arXiv 2404.02285"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("sgd", lr=1.0),  # times the rate that the data give
        Schedule("constant"),
        epochs={1: 300},
        batch=1_000_000,  # all images in every step
        views=1,
        crop_scale=(0.5, 1.0),
        best_epoch=True,
        latest=True,
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis("alpha_factor", (250.0, 60.0, 1000.0), "how sure the text is depends on the backbone's cosines"),
            Axis("lr", (1.0,), "a factor of the rate that the images give"),
            Axis("steps", (300, 75), "without a validation part nothing else stops a probe of few images"),
        ),
        robust={"alpha_factor": 250.0, "lr": 1.0, "steps": 75},
    )

    alpha_factor: float = option(250.0, "start of alpha, times the mean cosine of images and their texts", at_least=0)
    alpha_interval: int = option(10, "alpha moves once in so many steps", at_least=1)

    def prepare(self, support: Support) -> None:
        """Keep the features that everything starts from."""
        features = normalize(self.frozen.image(support.random.all()))
        self.prepared = features, support.labels.to(features.device)

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """W [classes, embed], b [classes], alpha [classes], and the rates."""
        self.base = class_features(frozen, classes)  # [classes, embed]
        count, embed = self.base.shape
        features, labels = self.prepared
        del self.prepared
        cosines = features @ normalize(self.base).T  # [images, classes]
        images = torch.bincount(labels, minlength=count)
        sums = cosines.new_zeros(count).index_add_(0, labels, cosines.gather(1, labels[:, None]).flatten())
        mean = (sums / images)[images > 0].mean()
        self.weight = nn.Parameter(torch.zeros_like(self.base).index_add_(0, labels, features))
        self.bias = nn.Parameter(torch.empty(count).uniform_(-(embed**-0.5), embed**-0.5).to(self.base))
        self.alpha = nn.Parameter(self.alpha_factor * mean.expand(count).clone())
        self.rate = 4 * len(features) / float(torch.linalg.matrix_norm(features, 2) ** 2)
        self.alpha_rate = len(features) / (4 * float(cosines.square().sum(dim=0).max()))
        self.steps = 0

    def declared(self) -> dict[str, Declared]:
        """W, b and alpha."""
        classes = len(self.class_names)
        weight = {"parameter.weight": Declared(classes, self.frozen.embed)}
        return weight | {f"parameter.{name}": Declared(classes) for name in ("bias", "alpha")}

    def text_features(self) -> Tensor:
        """[classes, embed]."""
        return self.base

    def logits(self, images: Images) -> Tensor:
        """[images, classes]."""
        features = normalize(self.image_features(images))
        text = features @ normalize(self.class_features()).T
        return features @ self.weight.T + self.bias + self.alpha * text

    def parameter_groups(self) -> list[ParameterGroup]:
        """W and b; alpha has its own steps."""
        return [ParameterGroup((self.weight, self.bias), self.rate)]

    def takes_shares(self) -> bool:
        """No: alpha's gradients are added up here."""
        return False

    @torch.no_grad()
    def adjust_gradients(self) -> None:
        """Move alpha in every tenth step by all its gradients so far, which no optimizer clears."""
        self.steps += 1
        if self.steps % self.alpha_interval == 0 and self.alpha.grad is not None:
            self.alpha.sub_(self.alpha_rate * self.alpha.grad)
