"""How much each level of a tower tells, how far two towers are from each other, and from which block on to adapt: what
`mma` with `start=auto` and `shotfit analyze layers` have in common.

A level is what a step has made of a sample, one vector each (`engine/layers.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import torch
from torch import Tensor

from shotfit.data.shots import deal
from shotfit.methods.gda import gaussians

__all__ = ["FEWEST", "alignment", "first_block", "told_apart"]

FEWEST = 4  # paired rows that the alignment can be estimated from


def told_apart(features: Tensor, labels: Sequence[int], seed: int, groups: Sequence[str] = ()) -> float:
    """How well classes are told apart by features [n, width]: the mean over classes of the share of held-out samples
    that are recognised, by a Gaussian classifier (`gda`) of the other half.

    Halves are drawn by the seed, class by class and whole groups; the only sample of a class is learned from. Where no
    class has another, nothing is known: NaN.
    """
    folds, classes = torch.tensor(deal(labels, 2, seed, groups)), torch.tensor(labels)
    held = folds == 0
    if not held.any():
        return nan
    learned, features = features[~held].double(), features.double()
    spread = learned.std(dim=0, correction=0).clamp(min=1e-12)
    found = gaussians((learned - learned.mean(dim=0)) / spread, classes[~held], int(classes.max()) + 1)
    asked = (features[held] - learned.mean(dim=0)) / spread
    right = (asked @ found.weight.T + found.bias).argmax(dim=1) == classes[held]
    shares = [right[classes[held] == one].double().mean() for one in classes[held].unique()]
    return float(torch.stack(shares).mean())


def alignment(first: Tensor, second: Tensor) -> float:
    """How alike two sets of features of the same things are, [n, width] and [n, other width], whatever their widths:
    1 where one is the other turned and scaled, about 0 where they have nothing in common.

    Linear CKA (Kornblith et al., ICML 2019, arXiv 1905.00414) with the unbiased estimate of HSIC (Song et al., JMLR
    2012), which few rows of many columns do not raise. n is at least FEWEST.
    """
    one, other = (features.double() - features.double().mean(dim=0) for features in (first, second))
    between, own = _hsic(one, other), (_hsic(one, one) * _hsic(other, other)).clamp(min=0).sqrt()
    return float(between / own) if own > 0 else 0.0


def _hsic(one: Tensor, other: Tensor) -> Tensor:
    """Of centred rows, with the products K = X X^T and L = Y Y^T of rows with others alone, never written out:

    sum K L + sum K sum L / ((n - 1) (n - 2)) - 2 sum_i (K 1)_i (L 1)_i / (n - 2), over n (n - 3)
    """
    n = len(one)
    own, others = one.square().sum(dim=1), other.square().sum(dim=1)  # what K and L leave out; centred, K 1 is -own
    both = own @ others
    found = (one.T @ other).square().sum() - both + own.sum() * others.sum() / ((n - 1) * (n - 2)) - 2 * both / (n - 2)
    return found / (n * (n - 3))


def first_block(told: Sequence[float]) -> int:
    """The block from which on to adapt, from 1: the first behind which at least half of what is gained over the blocks
    has been gained. told: how much the level after step 0 and after each block tells, higher for more.
    """
    low, high = told[0], max(told[1:])
    return next(block for block, value in enumerate(told[1:], start=1) if value >= min((low + high) / 2, high))
