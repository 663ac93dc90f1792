"""Two answers to the same images: which is better, and whether that could be chance.

    found = compare_models(first, second, items_of_first, items_of_second)
    found.difference, found.p

McNemar's exact test asks only the images on which one is right and the other wrong: if neither were better, each of
the two would be as often right on them. Where many pairs are tested, Holm's correction keeps the chance of one false
finding in the whole table at 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shotfit.data.tasks import Item
from shotfit.evaluation.evaluate import Answers, Scores, answers
from shotfit.evaluation.intervals import Interval, difference_intervals
from shotfit.fitting.model import Model

__all__ = ["Paired", "compare_answers", "compare_models", "favoured", "holm", "mcnemar"]


@dataclass(frozen=True)
class Paired:
    """Two models on the same images. Differences are second less first, as fractions, with paired bootstrap intervals.

    both_right, only_first, only_second, both_wrong: images. p: McNemar's exact test.
    """

    first: Scores
    second: Scores
    difference: float
    difference_interval: Interval
    mean_class_difference: float
    mean_class_difference_interval: Interval
    both_right: int
    only_first: int
    only_second: int
    both_wrong: int
    p: float

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return asdict(self) | {"first": self.first.as_json(), "second": self.second.as_json()}


def compare_models(first: Model, second: Model, items: Sequence[Item], as_second: Sequence[Item]) -> Paired:
    """Score two models on the same images.

    items, as_second: the same images in the same order, with labels that count the classes of each.

    Raises as `evaluate` does.
    """
    return compare_answers(answers(first, items), answers(second, as_second))


def compare_answers(first: Answers, second: Answers) -> Paired:
    """The same of answers that are known."""
    ours, theirs = first.scores(), second.scores()
    right, other = first.right, second.right
    plain, by_class = difference_intervals(first.labels, right, other, len(first.class_names))
    only_first, only_second = int((right & ~other).sum()), int((other & ~right).sum())
    return Paired(
        first=ours,
        second=theirs,
        difference=theirs.accuracy - ours.accuracy,
        difference_interval=plain,
        mean_class_difference=theirs.mean_class_accuracy - ours.mean_class_accuracy,
        mean_class_difference_interval=by_class,
        both_right=int((right & other).sum()),
        only_first=only_first,
        only_second=only_second,
        both_wrong=int((~right & ~other).sum()),
        p=mcnemar(only_first, only_second),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """The p-value of McNemar's exact test, two-sided.

    >>> mcnemar(0, 5), mcnemar(0, 0)
    (0.0625, 1.0)
    """
    if only_first == only_second:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(only_first, only_first + only_second).pvalue)


def favoured(first: NDArray[Any], second: NDArray[Any]) -> tuple[int, int]:
    """Images that speak for the first and for the second. first, second [images]: how many seeds are right on each.

    An image counts once, however many seeds there are: its answers under several seeds are alike, and counted apart
    they would make chance look certain.
    """
    return int((first > second).sum()), int((second > first).sum())


def holm(values: Sequence[float]) -> list[float]:
    """p-values after Holm's correction for all of them, in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(values, kind="stable")
    adjusted, floor = [0.0] * len(values), 0.0
    for rank, place in enumerate(order.tolist()):
        floor = max(floor, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = floor
    return adjusted
