"""Which pictures are alike, by the frozen model's features: neighbours, doubles, and a map in two dimensions.

    nearest(features, others, 3)              # the most similar ones of others, for each
    doubles_of(items, features)               # pairs that are nearly one picture
    map_of(features)                          # where each lies, by PCA and t-SNE

Features are rows of unit length, so that a product of two is their cosine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shotfit.data.tasks import Item

__all__ = ["MAPPED", "Double", "Map", "doubles_of", "map_of", "nearest"]

ALIKE = 0.985
"""Two pictures of a higher cosine look like one: crops, other sizes or compressions of it, or the next of a burst."""
COMPARED = 30_000
"""Pictures that are compared each with each; of more, copies of equal content alone are found."""
BLOCK = 1024  # rows of similarities that are held at once
KEPT = 200  # pairs
MAPPED = 1500
"""Pictures on a map, evenly drawn of more. t-SNE of these takes seconds."""
FEWEST = 5  # that t-SNE says anything of
SEED = 0  # the same pictures have the same map


@dataclass(frozen=True)
class Double:
    """Two pictures that are nearly one. first, second: their places. same: the content is equal, byte for byte."""

    first: int
    second: int
    similarity: float
    same: bool


@dataclass(frozen=True, eq=False)
class Map:
    """Pictures in two dimensions. rows [n]: which they are; pca, tsne: [n, 2]; None where there are too few."""

    rows: NDArray[Any]
    pca: NDArray[Any]
    tsne: NDArray[Any] | None
    explained: float  # the share of the variance that PCA's two dimensions hold


def nearest(
    features: NDArray[Any], others: NDArray[Any], most: int, without: Sequence[int | None] = ()
) -> list[list[tuple[int, float]]]:
    """The most similar rows of others for each row of features, with their cosines, best first.

    without: for each row one of the others that does not count: the picture itself.

    >>> nearest(np.eye(2), np.array([[0.6, 0.8], [0.8, 0.6]]), 1)
    [[(1, 0.8)], [(0, 0.8)]]
    """
    found = []
    for place, row in enumerate(features):
        cosines = others @ row  # [others]
        left_out = without[place] if without else None
        order = [int(one) for one in np.argsort(-cosines, kind="stable")[: most + 1] if one != left_out][:most]
        found.append([(one, float(cosines[one])) for one in order])
    return found


def doubles_of(items: Sequence[Item], features: NDArray[Any]) -> tuple[list[Double], int]:
    """Pairs that are nearly one picture, the most alike first: KEPT at most, and how many there are.

    A picture of equal content counts once, with the first that has it.
    """
    first: dict[str, int] = {}
    copies = []
    for place, item in enumerate(items):
        known = first.setdefault(item.digest or f"{place}", place)
        if known != place:
            copies.append(Double(known, place, 1.0, True))
    rows = np.array(sorted(first.values()))
    if not len(rows) or len(rows) > COMPARED:
        return copies[:KEPT], len(copies)
    own, near = features[rows], list[Double]()
    count = 0
    for start in range(0, len(rows), BLOCK):
        cosines = own[start : start + BLOCK] @ own[start:].T  # [block, rest]
        here, there = np.nonzero(np.triu(cosines > ALIKE, k=1))
        count += len(here)
        best = np.argsort(-cosines[here, there], kind="stable")[:KEPT]
        near += [
            Double(int(rows[start + one]), int(rows[start + other]), float(cosines[one, other]), False)
            for one, other in zip(here[best], there[best], strict=True)
        ]
    near.sort(key=lambda pair: -pair.similarity)
    return [*copies, *near][:KEPT], len(copies) + count


def map_of(features: NDArray[Any]) -> Map | None:
    """Where pictures lie beside each other; None for fewer than three."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(features) < 3:
        return None
    rows = np.arange(len(features))
    if len(rows) > MAPPED:
        rows = np.sort(np.random.default_rng(SEED).choice(rows, MAPPED, replace=False))
    own = features[rows].astype(np.float64)
    if np.ptp(own, axis=0).max() < 1e-9:  # one picture, many times
        return None
    reduced = PCA(min(50, *own.shape), svd_solver="full")
    places = reduced.fit_transform(own)  # [n, 50]
    explained = float(reduced.explained_variance_ratio_[:2].sum())
    tsne = None
    if len(rows) >= FEWEST:
        perplexity = min(30.0, (len(rows) - 1) / 3)
        tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=SEED, n_jobs=1).fit_transform(places)
    pca = places[:, :2] if places.shape[1] > 1 else np.column_stack([places[:, 0], np.zeros(len(rows))])
    return Map(rows, pca, tsne, explained)
