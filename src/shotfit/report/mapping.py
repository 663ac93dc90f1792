"""A map of images in two dimensions, by PCA and t-SNE of the frozen model's features.

drawn = map_of(features)                  # None: too few, or all equal
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAPPED", "Map", "map_of"]

MAPPED = 1500
"""Pictures on a map, evenly drawn of more. t-SNE of these takes seconds."""
FEWEST = 5  # that t-SNE says anything of
SEED = 0  # the same pictures have the same map


@dataclass(frozen=True, eq=False)
class Map:
    """Pictures in two dimensions. rows [n]: which they are; pca, tsne: [n, 2]; None where there are too few."""

    rows: NDArray[Any]
    pca: NDArray[Any]
    tsne: NDArray[Any] | None
    explained: float  # the share of the variance that PCA's two dimensions hold


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
