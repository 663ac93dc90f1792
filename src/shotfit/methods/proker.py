"""ProKeR: kernel ridge regression of what the zero-shot scores get wrong on the support images.

Bendou et al., "ProKeR: A Kernel Perspective on Few-Shot Adaptation of Large Vision-Language Models", CVPR 2025,
arXiv 2501.11175.

    S      = norm(image) of every view of every support image, a row each         [rows, embed]
    k(a,b) = exp(-beta * (1 - a . b)),   K = k(S, S)                              [rows, rows]
    R      = one-hot labels - S @ norm(t).T                                       [rows, classes]
    A      = solve(K / lambda + I, R)                                             [rows, classes]
    logits = exp(s) * (q @ norm(t).T + k(q, S) @ A),   q = norm(image)            [images, classes]

What is frozen: both towers. What is solved for: A, in one linear system; beta and lambda are searched on held-out
images, and where there are none they are the authors' for this number of shots. lambda sets smoothness and weight at
once: near 0 the scores are zero-shot's. A class without images gets no correction.

# differs: the scores are multiplied by the backbone's exp(s), so that probabilities mean something; the official
program leaves the cosines as they are (`temperature=1`). The order of classes is the same.
# differs: rows are center views, not 10 random ones, which make the system ten times as large (`views=10`).
# differs: a coarse grid of beta and lambda serves all data sets; the official program has one for each.
Published: see docs/methods.md#proker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.errors import UsageError
from shotfit.methods.base import Method, Support, Validation, option
from shotfit.methods.class_features import class_features, scaled_cosines
from shotfit.methods.coefficients import best_first, parse_values
from shotfit.methods.declared import Declared
from shotfit.methods.support_features import support_features

__all__ = ["ProKeR", "kernel", "solved"]

MOST_ROWS = 20_000  # whose kernel takes 3.2 GB
# The authors' beta and lambda by shots, which they found on ImageNet with RN50.
PUBLISHED = {1: (3.0, 0.05), 2: (2.6, 0.05), 4: (1.5, 0.05), 8: (1.66, 0.07), 16: (1.7, 0.1)}


def kernel(cosines: Tensor, beta: Tensor | float) -> Tensor:
    """exp(-beta * (1 - cosine)), [n, m]."""
    return torch.exp(beta * (cosines - 1))


class ProKeR(Method):
    """Proximal kernel ridge regression on stored features."""

    name: ClassVar[str] = "proker"
    title: ClassVar[str] = "ProKeR"
    paper: ClassVar[str] = "Bendou et al., CVPR 2025, arXiv 2501.11175"
    verified: ClassVar[bool] = True

    beta: float = option(0.0, "sharpness of the kernel where nothing is searched; 0: the authors' by shots", at_least=0)
    lmbda: float = option(0.0, "lambda where nothing is searched; 0: the authors' by shots", at_least=0)
    search: bool = option(True, "search beta and lambda on validation images")
    betas: str = option("0.5,1.5,3,8", "values of beta that are tried, outermost; the first of equals wins")
    lambdas: str = option("0.01,0.05,0.25,1,5", "values of lambda that are tried")
    views: int = option(0, "random views, each a row of its own; 0: the center view", at_least=0, at_most=1000)
    temperature: float = option(0.0, "factor of the scores; 0: the backbone's own", at_least=0)

    def check(self) -> None:
        """Refuse values of beta and lambda that cannot be read."""
        parse_values("betas", self.betas)
        parse_values("lambdas", self.lambdas)

    def prepare(self, support: Support) -> None:
        """Keep the rows; a kernel that would fill the memory is refused."""
        rows = len(support.labels) * max(self.views, 1)
        if rows > MOST_ROWS:
            raise UsageError(
                f"proker: {len(support.labels):,} support images in {max(self.views, 1)} views make {rows:,} rows, and "
                f"a linear system of as many; expected at most {MOST_ROWS:,}: use fewer views or shots."
            )
        self.rows = normalize(support_features(self.frozen, support, self.views)).flatten(0, 1)  # view after view

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """S [rows, embed], A [rows, classes] and beta [], zero until solved."""
        self.base = class_features(frozen, classes)  # [classes, embed]
        self.register_buffer("support", self.rows)
        self.register_buffer("dual", self.rows.new_zeros(len(self.rows), len(self.base)))
        self.register_buffer("sharpness", self.rows.new_zeros(()))
        self.pair: tuple[float, float] | None = None  # beta and lambda, once solved

    def declared(self) -> dict[str, Declared]:
        """S, A and beta."""
        rows = {"support": self.frozen.embed, "dual": len(self.class_names)}
        return {f"buffer.{name}": Declared("rows", width) for name, width in rows.items()} | {
            "buffer.sharpness": Declared()
        }

    def text_features(self) -> Tensor:
        """[classes, embed]."""
        return self.base

    def logits(self, images: Images) -> Tensor:
        """[images, classes]."""
        features = normalize(self.image_features(images))
        scale = self.temperature if self.temperature else self.frozen.temperature.to(features)
        near = kernel(features @ self.get_buffer("support").T, self.get_buffer("sharpness"))
        text = scaled_cosines(self.frozen, features, self.class_features(), self.temperature)
        return text + scale * (near @ self.get_buffer("dual"))

    def chosen(self) -> dict[str, Any]:
        """Beta and lambda: for each pair that is tried, each fold takes a linear system."""
        return {"search": False, "beta": self.pair[0], "lmbda": self.pair[1]} if self.pair else {}

    def selection(self, validation: Validation) -> str:
        """What beta and lambda were chosen by."""
        return validation.said(self.search, "coefficients")

    @torch.no_grad()
    def solve(self, support: Support, validation: Validation) -> None:
        """Search beta and lambda on the folds, then solve for all rows."""
        published = PUBLISHED[max(shots for shots in PUBLISHED if shots <= support.shots)]
        found = self._searched(support.labels, validation) if self.search and validation.folds else None
        beta, lmbda = self.pair = found or (self.beta or published[0], self.lmbda or published[1])
        every = torch.arange(len(support.labels))
        rows, residuals = (one.double() for one in self._system(support.labels, every))
        self.get_buffer("dual").copy_(solved(kernel(rows @ rows.T, beta), residuals, lmbda))
        self.get_buffer("sharpness").fill_(beta)

    def _system(self, labels: Tensor, some: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of some images and what zero-shot gets wrong on them: [rows, embed], [rows, classes], on the CPU."""
        rows = self.get_buffer("support").cpu().unflatten(0, (-1, len(labels)))[:, some].flatten(0, 1)
        classes = len(self.base)
        wanted = F.one_hot(labels[some].repeat(len(rows) // len(some)), classes).to(rows)
        residuals = wanted - rows @ normalize(self.base.cpu()).T
        return rows, residuals * (wanted.sum(dim=0) > 0)

    def _searched(self, labels: Tensor, validation: Validation) -> tuple[float, float] | None:
        """The pair with the most held images right, the first of equals with beta outermost; None: nothing is right."""
        betas, lambdas = parse_values("betas", self.betas), parse_values("lambdas", self.lambdas)
        self.correct = torch.zeros(len(betas), len(lambdas), dtype=torch.long)
        for fold in validation.folds:
            rows, residuals = self._system(labels, fold.train)
            held = normalize(self.image_features(fold.held)).cpu()
            text, among, towards = held @ normalize(self.base.cpu()).T, rows @ rows.T, held @ rows.T
            for row, beta in enumerate(betas):
                own, near = kernel(among, beta), kernel(towards, beta)
                for column, lmbda in enumerate(lambdas):
                    scores = text + near @ solved(own, residuals, lmbda)
                    self.correct[row, column] += int((scores.argmax(dim=1) == fold.labels).sum())
        best = best_first(self.correct)
        return None if best is None else (betas[best[0]], lambdas[best[1]])


def solved(own: Tensor, residuals: Tensor, lmbda: float) -> Tensor:
    """solve(K / lambda + I, R) [rows, classes]: as lambda * solve(K + lambda I, R), which is symmetric and positive.

    Raises UsageError where lambda is too small beside a kernel of images that are nearly equal.
    """
    shifted = own.clone()
    shifted.diagonal().add_(lmbda)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    if not failed:
        return lmbda * torch.cholesky_solve(residuals, factor)
    if own.dtype == torch.float64:
        raise UsageError(f"proker: a lambda of {lmbda:g} is too small for these images: use 0.001 or more.")
    return solved(own.double(), residuals.double(), lmbda).to(own)
