"""Which images make a few-shot task: CoOp's sampling rule and its base and new classes, on labels alone.

Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022, arXiv 2109.01134, and the program on top of
Dassl. Papers compare on the same shots, so the rule is exact: Python's standard generator, the groups in the order in
which their labels first appear, the items in list order.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from shotfit.errors import UsageError

__all__ = ["VAL_SHOTS", "base_and_new", "deal", "draw", "renumbered", "sample"]

VAL_SHOTS = 4
"""At most so many images of a class are drawn from the validation part."""


def deal(labels: Sequence[int], folds: int, seed: int) -> list[int]:
    """The fold from 0 that each image falls into, every class spread evenly: scikit-learn's stratified folds.

    The same folds as of StratifiedKFold(folds, shuffle=True, random_state=seed), whose import alone would take longer
    than all else that a second fit does.

    >>> deal([7, 7, 5, 5, 5, 5], folds=2, seed=1)
    [0, 1, 0, 1, 0, 1]
    """
    generator, dealt = np.random.RandomState(seed), np.empty(len(labels), dtype=np.int64)
    known, before = np.asarray(labels), 0
    for label in dict.fromkeys(labels):
        places = np.flatnonzero(known == label)
        numbers = np.sort((before + np.arange(len(places))) % folds)
        generator.shuffle(numbers)
        dealt[places] = numbers
        before += len(places)
    return [int(number) for number in dealt]


def draw(train: Sequence[int], val: Sequence[int], shots: int, seed: int) -> tuple[list[int], list[int]]:
    """Positions drawn from the train labels, and from the val labels with `min(shots, VAL_SHOTS)`.

    The val part is drawn by the same generator after the train part, as the official program does. (Its seed 0 means
    "not seeded"; here 0 is a seed like others.)

    Raises:
        UsageError: shots below 1, or a seed that is negative (Python's generator takes -1 for 1) or above 32 bits.

    >>> draw([7, 5, 7, 5, 5], [], shots=2, seed=1)      # label 7 comes first
    ([0, 2, 3, 1], [])
    """
    if shots < 1:
        raise UsageError(f"shots is {shots}; expected 1 or more images a class.")
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed is {seed}; expected 0 to 4,294,967,295.")
    generator = random.Random(seed)
    return sample(train, shots, generator), sample(val, min(shots, VAL_SHOTS), generator)


def sample(labels: Sequence[int], shots: int, generator: random.Random) -> list[int]:
    """Positions of `shots` items of each label, in the order drawn; of a label with fewer, all in list order."""
    groups: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        groups.setdefault(label, []).append(position)
    chosen: list[int] = []
    for positions in groups.values():
        # a group that is too small draws nothing: the generator's state goes on to the next group as it is
        chosen += generator.sample(positions, shots) if len(positions) >= shots else positions
    return chosen


def base_and_new(labels: Iterable[int]) -> tuple[list[int], list[int]]:
    """The base classes, the first half of the labels in ascending order (the larger half), and the new classes.

    `labels` are those of the sampled train part, as the official program selects after sampling.

    >>> base_and_new([4, 0, 2, 1, 0])
    ([0, 1], [2, 4])
    """
    present = sorted(set(labels))
    half = (len(present) + 1) // 2
    return present[:half], present[half:]


def renumbered(labels: Sequence[int], kept: Collection[int]) -> tuple[list[int], list[int]]:
    """Positions of the items whose label is kept, and their new labels: 0, 1, ... in ascending order of the old.

    >>> renumbered([4, 0, 2, 4], kept=[2, 4])
    ([0, 2, 3], [1, 0, 1])
    """
    number = {label: new for new, label in enumerate(sorted(kept))}
    positions = [position for position, label in enumerate(labels) if label in number]
    return positions, [number[labels[position]] for position in positions]
