"""Pictures that are there more than once: the same content, or nearly the same picture by its features.

    groups = doubles_of(features, digests, labels, parts)       # worst first
    kept = first_of_each(features)                              # [n] of bool: False for a double of an earlier one

Worst are doubles under two labels, of which one must be wrong, and doubles in the test part and another, which make the
accuracy too high.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NEAR", "Doubles", "doubles_of", "first_of_each", "groups_of", "nearest", "nearest_of_class", "unit"]

NEAR = 0.97
"""Cosine of features from which two pictures count as nearly the same; docs/labels.md has the measurement."""

_CELLS = 2**24  # cosines that are held at once: 64 MB


@dataclass(frozen=True)
class Doubles:
    """Pictures that are nearly the same, as rows. same: their content is equal.

    cosine: of the first picture and the least like it. two_labels, two_parts: whether they differ in label or part.
    """

    rows: tuple[int, ...]
    same: bool
    cosine: float
    two_labels: bool
    two_parts: bool


def doubles_of(
    features: NDArray[Any],
    digests: Sequence[str] = (),
    labels: Sequence[int] = (),
    parts: Sequence[str] = (),
    near: float = NEAR,
) -> list[Doubles]:
    """Groups of two or more pictures that are nearly the same, worst first.

    features: [n, embed], of any length. digests: of each picture, "" where it is not known. labels, parts: of each
    picture; without them nothing is said of labels or parts. near: the least cosine with a group's first picture.

    >>> doubles_of(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), labels=[0, 1, 1])
    [Doubles(rows=(0, 2), same=False, cosine=1.0, two_labels=True, two_parts=False)]
    """

    def differ(values: Sequence[object], rows: Sequence[int]) -> bool:
        return bool(values) and len({values[row] for row in rows}) > 1

    values, names = list(labels), list(parts)
    found = []
    for rows, cosine in groups_of(features, near):
        if len(rows) > 1:
            same = bool(digests) and bool(digests[rows[0]]) and not differ(digests, rows)
            found.append(Doubles(rows, same, cosine, differ(values, rows), differ(names, rows)))
    return sorted(found, key=lambda one: (-one.two_labels - one.two_parts, not one.same, -one.cosine, one.rows))


def first_of_each(features: NDArray[Any], near: float = NEAR) -> NDArray[np.bool_]:
    """Whether each row [n] is the first of its group: the others are doubles of an earlier one.

    >>> first_of_each(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])).tolist()
    [True, True, False]
    """
    kept = np.zeros(len(features), dtype=bool)
    kept[[rows[0] for rows, _ in groups_of(features, near)]] = True
    return kept


def groups_of(features: NDArray[Any], near: float = NEAR) -> Iterator[tuple[tuple[int, ...], float]]:
    """Rows in groups, each row in one: a first picture and those after it that are at least `near` to it.

    A group has no chain: all of it is near its first picture. The second value is the least cosine with that.
    """
    plain = unit(features)
    taken = np.zeros(len(plain), dtype=bool)
    for block in _blocks(np.arange(len(plain)), len(plain)):
        start = int(block[0])
        cosines = plain[block] @ plain[start:].T  # [block, rows from start]
        for row in block.tolist():
            if taken[row]:
                continue
            own = cosines[row - start]
            others = np.flatnonzero(own[row - start + 1 :] >= near) + row + 1
            others = others[~taken[others]]
            taken[others] = True
            least = float(own[others - start].min()) if len(others) else 1.0
            yield (row, *others.tolist()), round(min(least, 1.0), 6)


def nearest(
    features: NDArray[Any],
    rows: Sequence[int] | NDArray[np.intp],
    among: NDArray[np.intp],
    count: int,
    same: NDArray[Any] | None = None,
) -> list[list[tuple[int, float]]]:
    """For each of some rows the `count` rows of `among` that are most like it, with their cosines, nearest first.

    features: [n, embed], of unit length. same: [n] what each row shows; rows that show the same are passed over. By
    default that is the row itself alone.

    >>> nearest(np.eye(3), [0, 1], np.arange(3), 1)
    [[(1, 0.0)], [(0, 0.0)]]
    """
    shown, asked = np.arange(len(features)) if same is None else same, np.asarray(rows, dtype=np.intp)
    others, found = features[among], list[list[tuple[int, float]]]()
    for block in _blocks(asked, len(among)):
        cosines = features[block] @ others.T  # [block, among]
        cosines[shown[block][:, None] == shown[among]] = -np.inf
        best = _best(cosines, count)
        for own, places in zip(cosines, best, strict=True):
            found.append([(int(among[place]), float(own[place])) for place in places if own[place] > -np.inf])
    return found


def nearest_of_class(
    features: NDArray[Any], rows: NDArray[np.intp], wanted: NDArray[np.intp], labels: NDArray[np.intp], count: int
) -> list[list[tuple[int, float]]]:
    """The same for each row [asked] among those [n] whose label is the one that is wanted for it [asked].

    >>> nearest_of_class(np.eye(3), np.array([0, 2]), np.array([1, 0]), np.array([0, 1, 1]), 3)
    [[(1, 0.0), (2, 0.0)], [(0, 0.0)]]
    """
    found = dict[int, list[tuple[int, float]]]()
    for label in np.unique(wanted):
        places = np.flatnonzero(wanted == label)
        of_class = nearest(features, rows[places], np.flatnonzero(labels == label), count)
        found |= dict(zip(places.tolist(), of_class, strict=True))
    return [found[place] for place in range(len(rows))]


def _best(cosines: NDArray[Any], count: int) -> NDArray[np.intp]:
    """The columns [rows, count] of the highest cosines, best first; of equal ones the first, but at the end any."""
    if count < cosines.shape[1]:
        kept = np.sort(np.argpartition(-cosines, count, axis=1)[:, :count], axis=1)
    else:
        kept = np.broadcast_to(np.arange(cosines.shape[1]), cosines.shape)
    order = np.argsort(-np.take_along_axis(cosines, kept, axis=1), axis=1, kind="stable")
    return np.take_along_axis(kept, order, axis=1)


def _blocks(rows: NDArray[np.intp], columns: int) -> Iterator[NDArray[np.intp]]:
    """Rows in parts, each with at most _CELLS cosines with so many others."""
    size = max(1, min(1024, _CELLS // max(columns, 1)))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def unit(features: NDArray[Any]) -> NDArray[Any]:
    """Rows [n, embed] in float32 and of length 1; a row of zeros stays."""
    plain = np.asarray(features, dtype=np.float32)
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    return plain / np.maximum(lengths, 1e-12)
