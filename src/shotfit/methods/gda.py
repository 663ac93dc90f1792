"""GDA: a Gaussian classifier with one covariance for all classes, beside the text classifier.

Wang et al., "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation", ICLR 2024, arXiv 2402.04087.

    x_i    = norm(image) of every view of every support image          N samples
    mu_c   = mean of class c                                           [classes, embed]
    S      = sum_i (x_i - mu_y)(x_i - mu_y)^T / (N - 1)                [embed, embed]
    P      = embed * pinv((N - 1) S + trace(S) I)
    W      = mu P,   b_c = log(1 / classes) - mu_c^T P mu_c / 2
    logits = exp(s) * norm(image) @ norm(t).T + alpha * (norm(image) @ W.T + b)

What is frozen: both towers. What is solved for: mu and P, in float64; alpha is searched on held-out images. A class
without images has the mean of all classes.

# differs: the temperature is the backbone's exp(s); the official program multiplies by 100 (`temperature=100`).
# differs: 4 views, drawn once for all methods; the official program takes 10 (`views=10`).
# differs: new classes have no Gaussian and are refused; the paper makes one of the images nearest to the text.
Published: see docs/methods.md#gda.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from torch import Tensor

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.methods.base import Method, Support, Validation, option
from shotfit.methods.class_features import class_features, scaled_cosines
from shotfit.methods.coefficients import best_first, parse_values, right_along
from shotfit.methods.declared import Declared
from shotfit.methods.recipe import VIEWS
from shotfit.methods.support_features import support_features

__all__ = ["GDA", "Gaussians", "gaussians"]

LEAST = 1e-12  # variance of samples that are not the same but for rounding


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Means [classes, embed], the precision that they share [embed, embed], and the linear classifier they make."""

    means: Tensor
    precision: Tensor
    weight: Tensor  # [classes, embed]
    bias: Tensor  # [classes]


def gaussians(samples: Tensor, labels: Tensor, classes: int) -> Gaussians:
    """The classes' Gaussians from samples [n, embed] of unit length and labels [n], in float64 on the CPU."""
    samples, labels = samples.cpu().double(), labels.cpu()  # in this order: MPS has no float64
    count, embed = samples.shape
    images = torch.bincount(labels, minlength=classes)
    sums = samples.new_zeros(classes, embed).index_add_(0, labels, samples)
    means = sums / images.clamp(min=1)[:, None]
    means[images == 0] = means[images > 0].mean(dim=0)
    centred = samples - means[labels]
    scatter = centred.T @ centred  # (N - 1) S
    spread = scatter.trace() / max(count - 1, 1)
    shrunk = scatter + spread * torch.eye(embed, dtype=scatter.dtype)
    varied = spread > LEAST  # else the pseudo-inverse is that of zeros
    precision = embed * torch.linalg.inv(shrunk) if varied else torch.zeros_like(scatter)
    weight = means @ precision
    return Gaussians(means, precision, weight, -log(classes) - (weight * means).sum(dim=1) / 2)


class GDA(Method):
    """Gaussian discriminant analysis on stored features."""

    name: ClassVar[str] = "gda"
    title: ClassVar[str] = "GDA"
    paper: ClassVar[str] = "Wang et al., ICLR 2024, arXiv 2402.04087"
    verified: ClassVar[bool] = True
    own_views: ClassVar[str] = "views"

    alpha: float = option(0.01, "weight of the Gaussian classifier where nothing is searched", at_least=0)
    search: bool = option(True, "search alpha on validation images")
    alphas: str = option("0.0001,0.001,0.01,0.1,1,10,100", "values of alpha that are tried; the first of equals wins")
    views: int = option(VIEWS, "random views, each a sample of its own; 0: the center view", at_least=0, at_most=1000)
    temperature: float = option(0.0, "factor of the text classifier's cosines; 0: the backbone's own", at_least=0)

    def check(self) -> None:
        """Refuse values of alpha that cannot be read."""
        parse_values("alphas", self.alphas)

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """W [classes, embed], b [classes] and alpha [], zero until solved."""
        self.base = class_features(frozen, classes)  # [classes, embed]
        self.register_buffer("weight", torch.zeros_like(self.base))
        self.register_buffer("bias", torch.zeros_like(self.base[:, 0]))
        self.register_buffer("scale", self.base.new_tensor(self.alpha))

    def declared(self) -> dict[str, Declared]:
        """W, b and alpha."""
        classes = len(self.class_names)
        weight = Declared(classes, self.frozen.embed)
        return {"buffer.weight": weight, "buffer.bias": Declared(classes), "buffer.scale": Declared()}

    def text_features(self) -> Tensor:
        """[classes, embed]."""
        return self.base

    def logits(self, images: Images) -> Tensor:
        """[images, classes]."""
        features = normalize(self.image_features(images))
        own = features @ self.get_buffer("weight").T + self.get_buffer("bias")
        return self._text_logits(features) + self.get_buffer("scale") * own

    def _text_logits(self, features: Tensor) -> Tensor:
        return scaled_cosines(self.frozen, features, self.class_features(), self.temperature)

    def keep_chosen(self, fitted: Method) -> None:
        """Alpha."""
        self.get_buffer("scale").copy_(fitted.get_buffer("scale"))

    def selection(self, validation: Validation) -> str:
        """What alpha was chosen by."""
        return validation.said(self.search, "alpha")

    @torch.no_grad()
    def solve(self, support: Support, validation: Validation) -> None:
        """Search alpha with the Gaussians of each fold's own images, then take those of all images."""
        samples = normalize(support_features(self.frozen, support, self.views))  # [views, images, embed]
        everything = torch.arange(len(support.labels))
        whole = self._of(samples, support.labels, everything)
        if self.search and validation.folds:
            self._search(samples, support.labels, validation, whole)
        self.get_buffer("weight").copy_(whole.weight)
        self.get_buffer("bias").copy_(whole.bias)

    def _of(self, samples: Tensor, labels: Tensor, some: Tensor) -> Gaussians:
        chosen = samples[:, some.to(samples.device)].flatten(0, 1)
        return gaussians(chosen, labels[some].repeat(len(samples)), len(self.base))

    def _search(self, samples: Tensor, labels: Tensor, validation: Validation, whole: Gaussians) -> None:
        alphas = parse_values("alphas", self.alphas)
        self.correct = torch.zeros(len(alphas), dtype=torch.long)  # held images right of each
        for fold in validation.folds:
            own = whole if len(fold.train) == len(labels) else self._of(samples, labels, fold.train)
            features = normalize(self.image_features(fold.held))
            found = (features.cpu().double() @ own.weight.T + own.bias).to(features)
            self.correct += right_along(self._text_logits(features), found, fold.labels.to(features.device), alphas)
        best = best_first(self.correct)
        if best is not None:
            self.get_buffer("scale").fill_(alphas[best[0]])
