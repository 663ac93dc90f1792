"""A cache of support images and its opposite: what the other classes look like, and how far each image is trusted.

Zhang et al., arXiv 2403.12964. Both functions are closed forms of the cache's keys; nothing in them is learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from shotfit.errors import UsageError
from shotfit.methods.several_labels import CACHED

__all__ = ["Cache", "check_left_out", "negative_keys", "trust"]


DEPTH = 256  # images of every class that are looked at together


@dataclass(frozen=True, eq=False)
class Cache:
    """Support images as a cache.

    keys: [support, embed], of unit length. labels: [support]. groups: [support] whose negatives and whose residual a
    row takes; these are the labels, unless labels were made wrong on purpose after the images had been drawn. shots:
    the nominal images a class. opposite: [support, embed] negative keys, where they do not follow from the rows.
    """

    keys: Tensor
    labels: Tensor
    groups: Tensor
    shots: int
    opposite: Tensor | None = None

    def evenly(self) -> Tensor:
        """Weights [support] with which the rows of every label sum to the nominal shots."""
        return self.shots / torch.bincount(self.labels)[self.labels].to(self.keys)

    def take(self, rows: Tensor) -> Cache:
        """The cache of some rows alone."""
        labels = self.labels[rows]
        return Cache(self.keys[rows], labels, self.groups[rows], int(torch.bincount(labels).max()))


def check_left_out(left_out: int, classes: int) -> None:
    """Refuse to leave out so many of the classes with images that none makes negatives; a class alone has none anyway.

    Raises UsageError.
    """
    if left_out >= classes > 1:
        raise UsageError(
            f"left_out is {left_out}, but of {classes} classes with images none would be left to make negatives "
            f"of: expected at most {classes - 1}."
        )


def negative_keys(cache: Cache, left_out: int = 1) -> Tensor:
    """A key for each row that stands for the other classes: [support, embed], of unit length.

    The k-th image of a class gets the mean of the k-th images of all other classes but the `left_out` - 1 most similar
    to it; a class with fewer images gives them again from the first. A row is zero where no class is left.

    Raises UsageError where several classes have images and `left_out` leaves none of them.
    """
    present, group = cache.groups.unique(return_inverse=True)  # [present], [support]
    count = len(present)
    if count == 1:
        return torch.zeros_like(cache.keys)
    check_left_out(left_out, count)
    rows = [(group == index).nonzero().flatten() for index in range(count)]
    deepest = max(len(own) for own in rows)
    table = torch.stack([own[torch.arange(deepest, device=own.device) % len(own)] for own in rows])  # [present, shots]
    means = F.normalize(torch.stack([cache.keys[own].mean(dim=0) for own in rows]), dim=1)
    similar = (means @ means.T).fill_diagonal_(torch.inf)  # a class is never among its own negatives
    negatives = torch.ones_like(similar).scatter_(1, similar.topk(left_out, dim=1).indices, 0.0)
    result = torch.empty_like(cache.keys)
    for start in range(0, deepest, DEPTH):  # a class of thousands of images would ask for as many rows of every class
        some = table[:, start : start + DEPTH]
        sums = torch.einsum("ij,jkd->ikd", negatives, cache.keys[some])  # [present, depth, embed]
        opposite = F.normalize(sums, dim=-1)
        for index, own in enumerate(rows):
            place = own[start : start + DEPTH]
            result[place] = opposite[index, : len(place)]
    return result


def cache_of_sets(keys: Tensor, sets: Tensor) -> Cache:
    """The cache of images with several labels: a row for each image and class that it has, class by class.

    A class with k images has k negative keys: the images without it are dealt into k parts, and each key is the mean of
    one. A row is zero where no image is left. Each class counts for CACHED images.
    keys: [images, embed], of unit length. sets: [images, classes].
    """
    labels, images = sets.T.nonzero(as_tuple=True)  # [rows]
    opposite = torch.zeros_like(keys[images])
    for label in labels.unique().tolist():
        own, without = labels == label, keys[sets[:, label] == 0]
        count = int(own.sum())
        parts = [without[start::count] for start in range(count)]
        # with fewer images than keys, those that there are come again
        parts = [parts[number % len(without)] if len(without) else part for number, part in enumerate(parts)]
        opposite[own] = torch.stack([F.normalize(part.sum(dim=0), dim=0) for part in parts])
    return Cache(keys[images], labels, labels.clone(), CACHED, opposite)


def trust(cache: Cache, temperature: float) -> Tensor:
    """Weights [support] of the rows: the more alike an image is to the others of its label, the larger.

    Softmax over a label's rows of the mean cosine to its other rows; the weights of a label sum to the nominal shots,
    also where it has fewer or more rows. With one shot there is nothing to compare, and all weights are 1.
    """
    weights = torch.ones_like(cache.keys[:, 0])
    if cache.shots == 1:
        return weights
    for label in cache.labels.unique():
        own = (cache.labels == label).nonzero().flatten()
        alike = ((cache.keys[own] @ cache.keys[own].T).sum(dim=1) - 1) / (cache.shots - 1)
        weights[own] = cache.shots * torch.softmax(alike / temperature, dim=0)
    return weights
