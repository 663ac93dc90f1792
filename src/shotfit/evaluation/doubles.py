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

__all__ = ["NEAR", "Doubles", "doubles_of", "first_of_each", "groups_of", "nearest", "unit"]

NEAR = 0.97
"""Cosine of features from which two pictures count as nearly the same; docs/labels.md has the measurement."""

_BLOCK = 1024  # rows that are compared with all others at once


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
    for start in range(0, len(plain), _BLOCK):
        cosines = plain[start : start + _BLOCK] @ plain[start:].T  # [block, rows from start]
        for row in range(start, min(start + _BLOCK, len(plain))):
            if taken[row]:
                continue
            own = cosines[row - start]
            others = np.flatnonzero(own[row - start + 1 :] >= near) + row + 1
            others = others[~taken[others]]
            taken[others] = True
            least = float(own[others - start].min()) if len(others) else 1.0
            yield (row, *others.tolist()), round(min(least, 1.0), 6)


def nearest(features: NDArray[Any], row: int, among: NDArray[np.intp], count: int) -> list[int]:
    """The `count` rows of `among` that are most like a row, itself left out, nearest first. features: of unit length.

    >>> nearest(np.eye(3), 0, np.arange(3), 1)
    [1]
    """
    others = among[among != row]
    cosines = features[others] @ features[row]
    return others[np.argsort(-cosines, kind="stable")[:count]].tolist()


def unit(features: NDArray[Any]) -> NDArray[Any]:
    """Rows [n, embed] in float32 and of length 1; a row of zeros stays."""
    plain = np.asarray(features, dtype=np.float32)
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    return plain / np.maximum(lengths, 1e-12)
