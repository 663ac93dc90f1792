"""Which images make a few-shot task: CoOp's sampling rule and its base and new classes, on labels alone.

Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022, arXiv 2109.01134, and the program on top of
Dassl. Papers compare on the same shots, so the rule is exact: Python's standard generator, the groups in the order in
which their labels first appear, the items in list order.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from shotfit.errors import UsageError

__all__ = [
    "KEPT",
    "VAL_SHOTS",
    "base_and_new",
    "cross_validation",
    "deal",
    "deal_sets",
    "draw",
    "draw_sets",
    "folds_of_sets",
    "renumbered",
    "sample",
]

VAL_SHOTS = 4
"""At most so many images of a class are drawn from the validation part."""

KEPT = -1
"""The fold of an image that is in none: it is always learned from."""


def cross_validation(labels: Sequence[int], groups: Sequence[str], most: int, seed: int) -> list[list[int]]:
    """The positions that each fold holds out, of at most `most` folds; the rest of the images is learned from.

    There are as many folds as the largest class has images, or groups. A class with a single one is in no fold. Where
    fewer than half of the classes are in a fold, nothing can be judged, and there is none.

    groups: the group of each image, "" for an image by itself.

    >>> cross_validation([0, 0, 0, 1, 1, 2], [""] * 6, most=4, seed=1)
    [[0, 4], [2, 3], [1]]
    """
    units = {(label, group or position) for position, (label, group) in enumerate(zip(labels, groups, strict=True))}
    number = min(most, max(Counter(label for label, _ in units).values(), default=0))
    if number < 2:
        return []
    dealt = deal(labels, number, seed, groups)
    return _folds_of(dealt, [(label,) for label in labels], number)


def folds_of_sets(sets: Sequence[Sequence[int]], groups: Sequence[str], most: int, seed: int) -> list[list[int]]:
    """As `cross_validation`, of images with several labels each.

    >>> folds_of_sets([(0, 1), (0,), (1,), (1,), (0, 1), (0,)], [""] * 6, most=2, seed=1)
    [[2, 4, 5], [0, 1, 3]]
    """
    units = {(label, group or place) for place, (own, group) in enumerate(zip(sets, groups, strict=True))
             for label in own}  # fmt: skip
    number = min(most, max(Counter(label for label, _ in units).values(), default=0))
    return [] if number < 2 else _folds_of(deal_sets(sets, number, seed, groups), sets, number)


def _folds_of(dealt: Sequence[int], sets: Sequence[Sequence[int]], number: int) -> list[list[int]]:
    """The positions of each fold; none where fewer than half of the classes are in one."""
    judged = {label for own, fold in zip(sets, dealt, strict=True) if fold != KEPT for label in own}
    if 2 * len(judged) < len({label for own in sets for label in own}):
        return []
    folds = [[position for position, fold in enumerate(dealt) if fold == wanted] for wanted in range(number)]
    return [fold for fold in folds if fold]


def deal(labels: Sequence[int], folds: int, seed: int, groups: Sequence[str] = ()) -> list[int]:
    """The fold from 0 that each image falls into, every class spread evenly: scikit-learn's stratified folds.

    The same folds as of StratifiedKFold(folds, shuffle=True, random_state=seed), whose import alone would take longer
    than all else that a second fit does. The only image of a class is KEPT, so that no fold takes a whole class away.
    groups: the group of each image, "" for an image by itself; groups fall into a fold as a whole (`_deal_groups`).

    >>> deal([7, 7, 5, 5, 5, 5, 3], folds=2, seed=1)
    [0, 1, 0, 1, 0, 1, -1]
    >>> deal([7, 7, 7, 5, 5, 5], folds=2, seed=1, groups=["ann", "ann", "bob", "ann", "bob", "bob"])
    [0, 0, 1, 0, 1, 1]
    """
    if any(groups):
        return _deal_groups([(label,) for label in labels], folds, seed, groups)
    generator, dealt = np.random.RandomState(seed), np.empty(len(labels), dtype=np.int64)
    known, before = np.asarray(labels), 0
    for label in dict.fromkeys(labels):
        places = np.flatnonzero(known == label)
        if len(places) < 2:
            dealt[places] = KEPT
            continue
        numbers = np.sort((before + np.arange(len(places))) % folds)
        generator.shuffle(numbers)
        dealt[places] = numbers
        before += len(places)
    return [int(number) for number in dealt]


def deal_sets(sets: Sequence[Sequence[int]], folds: int, seed: int, groups: Sequence[str] = ()) -> list[int]:
    """As `deal`, of images with several labels each: every class is spread evenly, those with the fewest images first.

    Sechidis et al., "On the Stratification of Multi-Label Data", ECML PKDD 2011, in the order of their rule: what is
    rare is dealt while there is still a choice. sets: what each image counts for, one class at least.
    """
    return _deal_groups(sets, folds, seed, groups or [""] * len(sets), rare_first=True)


def _deal_groups(
    sets: Sequence[Sequence[int]], folds: int, seed: int, groups: Sequence[str], rare_first: bool = False
) -> list[int]:
    """The fold of each image, where groups are whole: each goes where its classes have the smallest share so far.

    Large groups go first, or those of the rarest classes; equal ones in an order that the seed draws. A class that
    would lie in one fold as a whole has its smallest group KEPT.
    """
    _, numbers = np.unique(np.asarray([label for own in sets for label in own]), return_inverse=True)
    totals = np.bincount(numbers)  # images [classes], numbered from 0
    ends = np.cumsum([len(own) for own in sets])
    members: dict[str | int, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(group or position, []).append(position)
    units = [np.asarray(positions) for positions in members.values()]
    owned = np.split(numbers, ends[:-1])  # the classes of each image
    drawn = np.random.RandomState(seed).permutation(len(units))
    dealt = np.full(len(sets), KEPT)
    held = np.zeros((folds, len(totals)))  # images [folds, classes]
    order = [units[index] for index in drawn]
    if rare_first:
        order.sort(key=lambda unit: min(int(totals[owned[image]].min()) for image in unit))
    for unit in order if rare_first else sorted(order, key=len, reverse=True):
        classes, counts = np.unique(np.concatenate([owned[image] for image in unit]), return_counts=True)
        # what the group adds to the sum of the squared shares, over folds and classes, that each fold has of a class
        added = held[:, classes] @ (counts / totals[classes].astype(float) ** 2)  # [folds]
        fold = min(range(folds), key=lambda number: (round(added[number], 9), held[number].sum()))
        held[fold, classes] += counts
        dealt[unit] = fold
    of_image = np.repeat(np.arange(len(sets)), [len(own) for own in sets])
    for number in range(len(totals)):
        own = np.zeros(len(sets), dtype=bool)
        own[of_image[numbers == number]] = True
        if len(set(dealt[own])) == 1 and dealt[own][0] != KEPT:
            dealt[min((unit for unit in units if own[unit].any()), key=len)] = KEPT
    return [int(fold) for fold in dealt]


def draw(train: Sequence[int], val: Sequence[int], shots: int, seed: int) -> tuple[list[int], list[int]]:
    """Positions drawn from the train labels, and from the val labels with `min(shots, VAL_SHOTS)`.

    The val part is drawn by the same generator after the train part, as the official program does. (Its seed 0 means
    "not seeded"; here 0 is a seed like others.)

    Raises:
        UsageError: shots below 1, or a seed that is negative (Python's generator takes -1 for 1) or above 32 bits.

    >>> draw([7, 5, 7, 5, 5], [], shots=2, seed=1)      # label 7 comes first
    ([0, 2, 3, 1], [])
    """
    _check_draw(shots, seed)
    generator = random.Random(seed)
    return sample(train, shots, generator), sample(val, min(shots, VAL_SHOTS), generator)


def draw_sets(
    train: Sequence[Sequence[int]], val: Sequence[Sequence[int]], shots: int, seed: int
) -> tuple[list[int], list[int]]:
    """As `draw`, of images with several labels each: each class has at least `shots` images, or all that there are.

    The classes are gone through from the rarest on. What a class lacks, once the images that were drawn for others are
    counted, is drawn at random from its remaining images. sets: what each image counts for.

    >>> draw_sets([(0,), (0, 1), (1,), (0,), (0,)], [], shots=2, seed=1)     # both of class 1, one of which has class 0
    ([1, 2, 3], [])
    """
    _check_draw(shots, seed)
    generator = random.Random(seed)
    return _sample_sets(train, shots, generator), _sample_sets(val, min(shots, VAL_SHOTS), generator)


def _sample_sets(sets: Sequence[Sequence[int]], shots: int, generator: random.Random) -> list[int]:
    images: dict[int, list[int]] = {}
    for position, own in enumerate(sets):
        for label in own:
            images.setdefault(label, []).append(position)
    chosen: dict[int, None] = {}
    for label in sorted(images, key=lambda label: (len(images[label]), label)):
        left = [position for position in images[label] if position not in chosen]
        missing = shots - (len(images[label]) - len(left))
        if missing > 0:
            chosen |= dict.fromkeys(generator.sample(left, min(missing, len(left))))
    return list(chosen)


def _check_draw(shots: int, seed: int) -> None:
    if shots < 1:
        raise UsageError(f"shots is {shots}; expected 1 or more images a class.")
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed is {seed}; expected 0 to 4,294,967,295.")


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
