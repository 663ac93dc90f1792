"""Prediction sets: the classes that an image may belong to, so that the true one is among them with a stated share.

Vovk et al., "Algorithmic Learning in a Random World", 2005. Sadinle et al., "Least Ambiguous Set-Valued Classifiers
with Bounded Error Levels", JASA 2019, arXiv 1609.00451.

    s_i   = 1 - p(true class of image i)         for n held-out images
    q     = the ceil((n + 1) c)-th smallest s    for the coverage c
    set   = {k : 1 - p(k) <= q}

If new images are exchangeable with the held-out ones, the set holds the true class of at least the share c of them, and
of at most c + 1 / (n + 1). Per class: q is taken among the held-out images of each class, and the share holds for each
class. Nothing is drawn at random, so an image has the same set each time. A set may be empty: no class is
probable enough. docs/trust.md compares this score with APS and RAPS, whose sets are larger here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shotfit.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["check_share", "needed", "rank_of", "strangest", "thresholds", "true_class_scores"]


def true_class_scores(probabilities: Tensor, labels: Tensor) -> Tensor:
    """1 - p of the true class, [images]."""
    return 1 - probabilities.gather(1, labels[:, None])[:, 0]


def check_share(name: str, share: float) -> Fraction:
    """The share as the decimal number that was meant. Raises UsageError unless it is between 0 and 1.

    >>> check_share("--coverage", 0.9)
    Fraction(9, 10)
    """
    if not (isinstance(share, (int, float)) and math.isfinite(share) and 0 < share < 1):
        raise UsageError(f"{name} is {share}; expected a share between 0 and 1, such as 0.95.")
    return Fraction(repr(float(share)))


def needed(coverage: float) -> int:
    """How many held-out images a coverage needs: with fewer, every class is in every set.

    >>> needed(0.9), needed(0.95)
    (9, 19)
    """
    share = check_share("--coverage", coverage)
    return math.ceil(share / (1 - share))


def rank_of(images: int, share: float) -> int:
    """Which of the scores of so many images, counted from 1 in ascending order, is the threshold."""
    return math.ceil((images + 1) * check_share("--coverage", share))


def thresholds(
    scores: ArrayLike, labels: ArrayLike, names: Sequence[str], coverage: float, per_class: bool = False
) -> NDArray[Any]:
    """The largest 1 - p that a class may have to be in the set, [classes]. scores, labels: [images] of held-out images.

    Raises UsageError for a coverage outside (0, 1), and for fewer images than it needs.

    >>> scores = np.arange(1, 20) / 20                              # of 19 held-out images
    >>> [round(q, 2) for q in thresholds(scores, np.zeros(19), ("cat", "dog"), 0.9).tolist()]
    [0.9, 0.9]
    """
    least = needed(coverage)
    scores, labels = np.asarray(scores), np.asarray(labels)
    groups = [scores[labels == number] for number in range(len(names))] if per_class else []
    counts = [len(group) for group in groups] if per_class else [len(scores)]
    fewest = min(counts)
    if fewest < least:
        where = f"the class {names[counts.index(fewest)]!r}" if per_class else "the model"
        most = math.floor(100 * fewest / (fewest + 1)) / 100
        instead = f", or choose a coverage of at most {most:g}" if fewest > 1 else ""
        raise UsageError(
            f"A coverage of {coverage:g} needs {least} held-out images{' of each class' if per_class else ''}, but "
            f"{where} was fitted with {fewest}: fit with more images{instead}."
        )
    if not per_class:
        return np.repeat(np.sort(scores)[rank_of(len(scores), coverage) - 1], len(names))
    return np.stack([np.sort(group)[rank_of(len(group), coverage) - 1] for group in groups])


def strangest(strange: ArrayLike, share: float) -> float:
    """The strangeness that this share of images of the classes does not exceed, by that of held-out ones, [images].

    Raises UsageError for a share outside (0, 1), and for fewer images than it needs.
    """
    check_share("--known-share", share)
    ranked = np.sort(np.asarray(strange))
    if len(ranked) < needed(share):
        raise UsageError(
            f"A share of {share:g} of known images needs {needed(share)} held-out images, but the model was fitted "
            f"with {len(ranked)}: fit with more images, or choose a lower --known-share."
        )
    return float(ranked[rank_of(len(ranked), share) - 1])
