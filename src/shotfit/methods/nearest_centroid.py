"""Nearest class mean: an image belongs to the class whose mean feature it is nearest to.

Wang et al., "SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning", arXiv 1911.04623.

    x      = norm(norm(image) - m),   m = mean of norm(image) over the support         [images, embed]
    mu_c   = mean of x over the images of class c                                      [classes, embed]
    logits = exp(s) * (x . mu_c - ||mu_c||^2 / 2)                                      [images, classes]

so that of two classes the one whose mean is nearer has the larger logit.

What is frozen: the image tower; the text tower is not used. What is computed: m and mu. Towers of language and images
give all images a large part in common, which m takes away; `centered=false` keeps it. A class without images is never
predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.methods.base import Method, Support, Validation, option
from shotfit.methods.declared import Declared
from shotfit.methods.recipe import VIEWS
from shotfit.methods.support_features import support_features

__all__ = ["NearestCentroid"]

NO_IMAGES = -1e6  # logit of a class that has none


class NearestCentroid(Method):
    """Class means of image features."""

    name: ClassVar[str] = "nearest_centroid"
    title: ClassVar[str] = "nearest class mean"
    paper: ClassVar[str] = "Wang et al., arXiv 1911.04623"
    own_views: ClassVar[str] = "views"

    centered: bool = option(True, "take away what all support images have in common")
    views: int = option(VIEWS, "random views of each image; 0: the center view", at_least=0, at_most=1000)

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """m [embed], mu [classes, embed] and a bias [classes] for classes without images, zero until solved."""
        count = sum(len(task.names) for task in classes)
        for name, shape in {"center": (frozen.embed,), "means": (count, frozen.embed), "bias": (count,)}.items():
            empty = torch.zeros(shape, dtype=frozen.parameter_dtype, device=frozen.backbone.device)
            self.register_buffer(name, empty)

    def declared(self) -> dict[str, Declared]:
        """m, mu and the bias."""
        classes, embed = len(self.class_names), self.frozen.embed
        shapes = {"center": (embed,), "means": (classes, embed), "bias": (classes,)}
        return {f"buffer.{name}": Declared(*shape) for name, shape in shapes.items()}

    @torch.no_grad()
    def solve(self, support: Support, validation: Validation) -> None:
        """The means."""
        features = normalize(support_features(self.frozen, support, self.views))  # [views, images, embed]
        means, labels = self.get_buffer("means"), support.labels.to(features.device)
        if self.centered:
            self.get_buffer("center").copy_(features.mean(dim=(0, 1)))
        images = torch.bincount(labels, minlength=len(means))
        means.index_add_(0, labels, self._moved(features).mean(dim=0)).div_(images.clamp(min=1)[:, None])
        self.get_buffer("bias").masked_fill_(images == 0, NO_IMAGES)

    def _moved(self, features: Tensor) -> Tensor:
        """x of normalized features [..., embed]; of an image that is the center itself, zeros."""
        return F.normalize(features - self.get_buffer("center"), dim=-1)

    def logits(self, images: Images) -> Tensor:
        """[images, classes]."""
        features, means = self._moved(normalize(self.frozen.image(images))), self.get_buffer("means")
        near = features @ means.T - means.square().sum(dim=1) / 2
        return self.get_buffer("bias") + self.frozen.temperature.to(features) * near

    def selection(self, validation: Validation) -> str:
        """Nothing is chosen."""
        return "nothing was chosen"
