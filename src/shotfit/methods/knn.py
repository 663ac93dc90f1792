"""Nearest neighbours: the support images that are most like an image vote for their classes.

Cover and Hart, "Nearest Neighbor Pattern Classification", IEEE Transactions on Information Theory 1967; weighted votes
of image features as in Wu et al., CVPR 2018, arXiv 1805.01978.

    s_i    = norm(image) . norm(support image i)                                  [images, support]
    votes  = sum over the k largest s_i of exp((s_i - 1) / sharpness) * onehot(y_i)     [images, classes]
    logits = log(votes / sum of votes + 1e-6)

What is frozen: the image tower; the text tower is not used. What is kept: the features and labels of the support
images, in their center views. k is searched on held-out images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.methods.base import Method, Support, Validation, option
from shotfit.methods.coefficients import best_first, parse_values
from shotfit.methods.declared import Declared
from shotfit.methods.support_features import support_features

__all__ = ["KNN"]

LEAST = 1e-6  # share of the votes that a class without any gets


class KNN(Method):
    """A vote of the nearest support images."""

    name: ClassVar[str] = "knn"
    title: ClassVar[str] = "k nearest neighbours"
    paper: ClassVar[str] = "Cover and Hart 1967; Wu et al., CVPR 2018, arXiv 1805.01978"

    k: int = option(5, "neighbours that vote where nothing is searched", at_least=1)
    sharpness: float = option(0.07, "the smaller, the more the nearest of them count", at_least=0.01)
    search: bool = option(True, "search k on validation images")
    ks: str = option("1,3,5,10,20,50", "values of k that are tried; the first of equals wins")

    def check(self) -> None:
        """Refuse values of k that cannot be read."""
        parse_values("ks", self.ks)

    def prepare(self, support: Support) -> None:
        """The features of the support images."""
        self.prepared = normalize(support_features(self.frozen, support, 0)[0]), support.labels

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """Features [support, embed], labels [support], and k []."""
        features, labels = self.prepared
        del self.prepared
        self.register_buffer("features", features)
        self.register_buffer("labels", labels.to(features.device))
        self.register_buffer("neighbours", features.new_tensor(float(self.k)))

    def declared(self) -> dict[str, Declared]:
        """Features, labels and k."""
        labels = Declared("support", below=len(self.class_names))
        features = Declared("support", self.frozen.embed)
        return {"buffer.features": features, "buffer.labels": labels, "buffer.neighbours": Declared()}

    def logits(self, images: Images) -> Tensor:
        """[images, classes]."""
        likeness = self._likeness(images, self.get_buffer("features"))
        return self._voted(likeness, self.get_buffer("labels"), self.get_buffer("neighbours"))

    def _likeness(self, images: Images, rows: Tensor) -> Tensor:
        """Cosines [images, support] to support images of these features."""
        return normalize(self.frozen.image(images)) @ rows.T

    def _values(self) -> list[int]:
        return [max(1, round(value)) for value in parse_values("ks", self.ks)]

    def _voted(self, likeness: Tensor, labels: Tensor, k: Tensor | int) -> Tensor:
        """Logits [images, classes] by the k nearest of the support images that have these labels."""
        most = min(max(self.k, *self._values()), len(labels))  # known beforehand, as an export needs it
        near, which = likeness.topk(most, dim=1)  # [images, most]
        weights = torch.exp((near - near[:, :1]) / self.sharpness)  # the nearest counts 1: shares are the same
        weights = weights * (torch.arange(most, device=near.device) < k)
        votes = near.new_zeros(near.shape[0], len(self.class_names)).scatter_add_(1, labels[which], weights)
        return torch.log(votes / votes.sum(dim=1, keepdim=True) + LEAST)

    def keep_chosen(self, fitted: Method) -> None:
        """K."""
        self.get_buffer("neighbours").copy_(fitted.get_buffer("neighbours"))

    def selection(self, validation: Validation) -> str:
        """What k was chosen by."""
        return validation.said(self.search, "k")

    @torch.no_grad()
    def solve(self, support: Support, validation: Validation) -> None:
        """Search k on the folds, by neighbours among their own images."""
        if not (self.search and validation.folds):
            return
        ks = self._values()
        self.correct = torch.zeros(len(ks), dtype=torch.long)
        for fold in validation.folds:
            rows, labels = (self.get_buffer(name)[fold.train] for name in ("features", "labels"))
            likeness = self._likeness(fold.held, rows)
            for number, k in enumerate(ks):
                predicted = self._voted(likeness, labels, k).argmax(dim=1).cpu()
                self.correct[number] += int((predicted == fold.labels).sum())
        best = best_first(self.correct)
        if best is not None:
            self.get_buffer("neighbours").fill_(ks[best[0]])
