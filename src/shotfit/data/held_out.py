"""The test part of a task that has none: a fifth of each class, by content, and groups as a whole.

Of each class the images with the smallest sha256 are taken (at least one where there are two). That depends on the
content of the class alone: not on shots, seed, file names or other classes; an image that is added displaces at most
one. Copies of an image stay together, and an image that also stands under another class or in the val part is never
taken.

Where a picture has several labels, a fifth of each class is what is come near to, and pictures without any are a class
of their own.

Images of a group (a patient, a track, a shop) stay together too, and are taken by the sha256 of the group's name: a
group that grows stays where it was as long as the classes' shares allow it. The parts are then about a fifth.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from shotfit.data.tasks import Item

__all__ = ["held_out_share"]


@dataclass(frozen=True)
class _Unit:
    """What is taken or left as a whole. key: decides the order; counts: different images by class."""

    key: str
    items: tuple[int, ...]
    counts: Counter[int]


def held_out_share(train: Sequence[Item], val: Sequence[Item] = ()) -> tuple[list[Item], list[Item]]:
    """Take a fifth of each class's different images, in whole groups, as the test part.

    At least one where a class has two images or groups; images with the digest "" or of two classes, and what shares
    its content or group with `val`, stay.

    Returns:
        What remains of the train part, and the test part, both in the order given.
    """
    units = sorted(_units(train, val), key=lambda unit: unit.key)
    total: Counter[int] = Counter()
    for unit in units:
        total.update(unit.counts)
    goal = {label: max(1, round(count / 5)) for label, count in total.items() if count > 1}
    taken: Counter[int] = Counter()
    chosen: set[int] = set()

    def take(unit: _Unit) -> None:
        taken.update(unit.counts)
        chosen.update(unit.items)

    def leaves_some(unit: _Unit) -> bool:
        return all(taken[label] + count < total[label] for label, count in unit.counts.items())

    for unit in units:
        missing = {label: goal.get(label, 0) - taken[label] for label in unit.counts}
        nearer = sum(abs(missing[label]) - abs(missing[label] - count) for label, count in unit.counts.items())
        if nearer > 0 and leaves_some(unit):
            take(unit)
    for label in goal:  # whose groups are all too large for a fifth
        if not taken[label]:
            own = sorted((unit for unit in units if unit.counts[label]), key=lambda unit: unit.counts[label])
            smallest = next(filter(leaves_some, own), None)
            if smallest is not None:
                take(smallest)
    return (
        [item for position, item in enumerate(train) if position not in chosen],
        [item for position, item in enumerate(train) if position in chosen],
    )


def _units(train: Sequence[Item], val: Sequence[Item]) -> list[_Unit]:
    """Images that belong together by content or group, but those that must stay in the train part."""
    labels: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for item in train:
        labels[item.digest].add(item.strata)
    barred = {name for item in val for name in _names(item)}
    barred |= {f"digest {digest}" for digest, found in labels.items() if len(found) > 1}
    first: dict[str, str] = {}  # of each content and group, another that it belongs to

    def root(name: str) -> str:
        while first.setdefault(name, name) != name:
            first[name] = name = first[first[name]]  # halves the way, for those that ask next
        return name

    for item in train:
        names = _names(item)
        for name in names[1:]:
            first[root(name)] = root(names[0])
    together: dict[str, list[int]] = defaultdict(list)
    for position, item in enumerate(train):
        names = _names(item)
        if names:
            together[root(names[0])].append(position)
    found = []
    for positions in together.values():
        items = [train[position] for position in positions]
        if any(name in barred for item in items for name in _names(item)):
            continue
        different = {item.digest: item.strata for item in items if item.digest}
        if different:
            keys = [hashlib.sha256(item.group.encode()).hexdigest() for item in items if item.group] or list(different)
            found.append(_Unit(min(keys), tuple(positions), Counter(chain(*different.values()))))
    return found


def _names(item: Item) -> list[str]:
    """What tells where an item belongs: its content and its group; nothing for a file by itself that is unreadable."""
    return [f"digest {item.digest}"] * bool(item.digest) + [f"group {item.group}"] * bool(item.group)
