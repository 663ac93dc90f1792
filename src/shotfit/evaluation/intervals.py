"""How far a measured figure can be trusted: 95 % intervals by image and by seed.

By image: the images are drawn again with replacement, 2,000 times, and the interval holds the middle 95 % of the
figures that come out. Images that are alike for the figure are counted instead of drawn one by one: how often each kind
comes up is multinomial, so that the resamples cost the same for a hundred images and for a million.

By seed: Student's interval of the mean over seeds, of which each draws its own shots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LEVEL",
    "Interval",
    "accuracy_intervals",
    "difference_intervals",
    "interval_by_group",
    "interval_by_image",
    "interval_by_seed",
]

LEVEL = 0.95
RESAMPLES = 2000
SEED = 0  # the same images and answers have the same interval
HELD = 2**22  # counts of resamples that are held at once

Interval = tuple[float, float]  # low and high end, as fractions


def accuracy_intervals(labels: NDArray[Any], right: NDArray[Any], classes: int) -> tuple[Interval, Interval]:
    """Intervals by image of the accuracy and of the mean class accuracy.

    labels [images], right [images]: whether the answer is right. A class that a resample misses is left out there.

        >>> accuracy_intervals(np.array([0, 0, 1, 1]), np.array([True, True, True, True]), 2)
        ((1.0, 1.0), (1.0, 1.0))
    """
    kinds = np.bincount(2 * labels + right, minlength=2 * classes)  # [classes * (wrong, right)]
    values = _resampled(kinds.reshape(classes, 2), np.array([0.0, 1.0]))
    return _middle(values[0]), _middle(values[1])


def difference_intervals(
    labels: NDArray[Any], first: NDArray[Any], second: NDArray[Any], classes: int
) -> tuple[Interval, Interval]:
    """Intervals by image of how much second is better than first: in accuracy, and in mean class accuracy.

    Both have seen the same images, so each is drawn with both answers. first, second [images]: whether each is right.
    """
    gain = second.astype(int) - first.astype(int) + 1  # [images], 0 to 2
    kinds = np.bincount(3 * labels + gain, minlength=3 * classes)
    values = _resampled(kinds.reshape(classes, 3), np.array([-1.0, 0.0, 1.0]))
    return _middle(values[0]), _middle(values[1])


def interval_by_image(values: NDArray[Any]) -> Interval:
    """The interval of a mean over images. values [images]: of each, such as the share of seeds that are right on it.

    >>> interval_by_image(np.array([0.5, 0.5, 0.5]))
    (0.5, 0.5)
    """
    kinds, counts = np.unique(values, return_counts=True)
    return _middle(_resampled(counts[None], kinds)[0])


def interval_by_group(sums: NDArray[Any], counts: NDArray[Any]) -> Interval:
    """The interval of a mean over images that come in groups, as boxes in pictures: whole groups are drawn.

    sums, counts [groups]: what the images of each count together, and how many they are.

    >>> interval_by_group(np.array([2, 2]), np.array([2, 2]))
    (1.0, 1.0)
    """
    kinds, times = np.unique(np.stack([sums, counts], axis=1), axis=0, return_counts=True)  # [kinds, 2]
    drawn = np.random.default_rng(SEED).multinomial(times.sum(), times / times.sum(), RESAMPLES)  # [resamples, kinds]
    return _middle((drawn @ kinds[:, 0]) / (drawn @ kinds[:, 1]))


def interval_by_seed(values: Sequence[float]) -> Interval | None:
    """Student's interval of a mean over seeds, within 0 and 1; None for one seed.

    >>> [round(end, 3) for end in interval_by_seed([0.50, 0.52, 0.54])]
    [0.47, 0.57]
    """
    if len(values) < 2:
        return None
    from scipy.stats import t

    reach = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return max(fmean(values) - reach, 0.0), min(fmean(values) + reach, 1.0)


def _resampled(kinds: NDArray[Any], worth: NDArray[Any]) -> NDArray[Any]:
    """The mean over images and the mean over classes of each resample, [2, resamples].

    kinds [classes, k]: images of each kind. worth [k]: what an image of each kind counts.
    """
    generator, total = np.random.default_rng(SEED), int(kinds.sum())
    there = kinds[kinds.sum(axis=1) > 0]
    parts = []
    for start in range(0, RESAMPLES, step := max(1, HELD // there.size)):
        size = min(step, RESAMPLES - start)
        drawn = generator.multinomial(total, there.ravel() / total, size).reshape(size, *there.shape)
        sums, counts = drawn @ worth, drawn.sum(axis=2)  # [resamples, classes]
        means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
        parts.append(np.stack([sums.sum(axis=1) / total, means.sum(axis=1) / (counts > 0).sum(axis=1)]))
    return np.concatenate(parts, axis=1)


def _middle(values: NDArray[Any]) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
