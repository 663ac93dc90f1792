"""Which labels look wrong, by what other images say of each.

    judged = judge_labels(features, labels)
    judged.order[:20]                           # rows, the most suspicious first

Northcutt et al., "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021, arXiv 1911.00068:

    p[i, c]     probability of class c for image i, by a classifier that has not learned from image i
    t[c]        mean of p[i, c] over the images with the label c
    l[i]        the class with the highest p[i, c] of those with p[i, c] >= t[c]

A label that is not l[i], where there is one, is called wrong. Images are ranked by

    score[i] = p[i, likely] / (p[i, likely] + p[i, label])      likely: the most probable class but the label

The classifier is ridge regression of one-hot labels on the features, at the best of four penalties and with one
temperature, both by the likelihood of the given labels. docs/labels.md compares it with others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shotfit.data.shots import KEPT, deal
from shotfit.errors import UsageError
from shotfit.evaluation.doubles import groups_of, unit
from shotfit.fitting.heldout import best_temperature, log_likelihoods

__all__ = ["Judged", "judge_labels"]

FOLDS = 10
PENALTIES = (0.03, 0.1, 0.3, 1.0)  # of features of length 1
_BLOCK = 1024  # rows of probabilities that are looked at together


@dataclass(frozen=True, eq=False)
class Judged:
    """What `judge_labels` gives, for each of n images.

    probabilities: [n, classes] by a classifier that has not learned from the image. likely: [n] the most probable class
    but the label. score: [n] how probable it is of the two, from 0 to 1; -1 where nothing is known. wrong: [n] whether
    confident learning calls the label wrong. order: [n] rows, the most suspicious first.
    """

    probabilities: NDArray[Any]
    likely: NDArray[np.intp]
    score: NDArray[Any]
    wrong: NDArray[np.bool_]
    order: NDArray[np.intp]


def judge_labels(
    features: NDArray[Any],
    labels: Sequence[int] | NDArray[Any],
    classes: int | None = None,
    groups: Sequence[str] = (),
    seed: int = 1,
    doubles: Iterable[Sequence[int]] | None = None,
) -> Judged:
    """Say of each image how probable its label is, by images other than itself.

    features: [n, embed] of the frozen model. labels: [n] from 0. classes: how many there are (None: the highest label
    and one). groups: of each image, "" for none; images of a group are never judged by each other, nor are near
    doubles: rows of each group of them, found by the features where they are None. An image that is alone in its class
    cannot be judged: its score is -1.

    Raises UsageError for arrays that do not fit together, labels out of range, and features that are not finite.

    Example:
        >>> features = np.random.default_rng(0).normal(size=(20, 4)) + 6 * np.eye(4)[np.arange(20) // 10]
        >>> int(judge_labels(features, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0] + 10 * [1]).order[0])
        3
    """
    own, count = _checked(features, labels, classes)
    plain = unit(features)
    places = np.arange(len(own))
    near = (rows for rows, _ in groups_of(plain)) if doubles is None else doubles
    folds = np.array(deal(own.tolist(), FOLDS, seed, _together(len(own), groups, near)), dtype=np.int64)
    known = folds != KEPT
    if len(np.unique(own)) < 2 or not known.any():
        flat = np.full((len(own), count), 1 / count)
        return Judged(flat, own, np.full(len(own), -1.0), np.zeros(len(own), dtype=bool), places)
    probabilities = _crossed(plain, own, count, folds)
    given = probabilities[places, own]
    sums = np.bincount(own[known], given[known], minlength=count)
    counts = np.bincount(own[known], minlength=count)
    confident = np.divide(sums, counts, out=np.full(count, np.inf), where=counts > 0)  # [classes]
    likely, best = np.zeros_like(own), np.zeros(len(own))
    wrong = np.zeros(len(own), dtype=bool)
    for start in range(0, len(own), _BLOCK):  # copies of blocks alone
        part = slice(start, start + _BLOCK)
        passed = np.where(probabilities[part] >= confident, probabilities[part], -1)
        wrong[part] = known[part] & (passed.max(axis=1) >= 0) & (passed.argmax(axis=1) != own[part])
        others = probabilities[part].copy()
        others[np.arange(len(others)), own[part]] = -1
        likely[part], best[part] = others.argmax(axis=1), others.max(axis=1)
    score = np.where(known, best / np.maximum(best + given, 1e-300), -1.0)
    return Judged(probabilities, likely, score, wrong, np.argsort(-score, kind="stable"))


def _crossed(plain: NDArray[Any], labels: NDArray[np.intp], count: int, folds: NDArray[Any]) -> NDArray[Any]:
    """Probabilities [n, classes] of each image by the images of other folds; a KEPT image is judged by all others."""
    rows = np.hstack([plain, np.ones((len(plain), 1))]).astype(np.float64)  # [n, embed + 1]
    held_by_fold = [folds == fold for fold in np.unique(folds)]
    # one decomposition serves all penalties
    parts = [(held, *_decomposed(rows, labels, count, held, ~held | (folds == KEPT))) for held in held_by_fold]

    def logits_by(penalty: float) -> Tensor:
        found = np.zeros((len(rows), count))  # one penalty at a time: this is what grows with images and classes
        for held, values, seen, along in parts:
            found[held] = seen @ (along / (values + penalty)[:, None])
        return torch.from_numpy(found)

    judged = torch.from_numpy(folds != KEPT)
    own = torch.from_numpy(labels)[judged]

    def likelihood(penalty: float) -> float:
        return float(log_likelihoods(logits_by(penalty)[judged], own, [count]).mean())

    logits = logits_by(max(PENALTIES, key=likelihood))
    return (logits / best_temperature(logits[judged], own, [count])).softmax(dim=1).numpy()


def _decomposed(
    rows: NDArray[Any], labels: NDArray[np.intp], count: int, held: NDArray[np.bool_], learned: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Ridge regression from the learned rows to their one-hot labels, for the held rows and any penalty.

    Values [k], seen [held, k] and along [k, classes]: the logits are seen @ (along / (values + penalty)). k is the
    smaller one of images and embed + 1.
    """
    own = rows[learned]

    def by_class(vectors: NDArray[Any]) -> NDArray[Any]:  # what a product with one-hot labels would give
        sums = torch.zeros(count, vectors.shape[1], dtype=torch.float64)
        return sums.index_add_(0, torch.from_numpy(labels[learned]), torch.from_numpy(vectors)).numpy().T

    if len(own) < own.shape[1]:
        values, vectors = np.linalg.eigh(own @ own.T)
        return np.maximum(values, 0), rows[held] @ (own.T @ vectors), by_class(vectors)
    values, vectors = np.linalg.eigh(own.T @ own)
    return np.maximum(values, 0), rows[held] @ vectors, vectors.T @ by_class(own)


def _together(n: int, groups: Sequence[str], doubles: Iterable[Sequence[int]]) -> list[str]:
    """The group of each image, in which near doubles are too; all "" where there is nothing to keep together."""
    first = list(range(n))

    def root(row: int) -> int:
        while first[row] != row:
            first[row] = row = first[first[row]]
        return row

    seen: dict[str, int] = {}
    for row, name in enumerate(groups):
        if name:
            first[root(row)] = root(seen.setdefault(name, row))
    for rows in doubles:
        for row in rows[1:]:
            first[root(row)] = root(rows[0])
    roots = [root(row) for row in range(n)]
    sizes = np.bincount(roots, minlength=n)
    return [str(one) if sizes[one] > 1 else "" for one in roots]


def _checked(
    features: NDArray[Any], labels: Sequence[int] | NDArray[Any], classes: int | None
) -> tuple[NDArray[np.intp], int]:
    """Labels [n] and the number of classes. Raises UsageError for what `judge_labels` cannot use."""
    if features.ndim != 2 or not len(features) or not np.isfinite(features).all():
        raise UsageError(f"features is an array {list(features.shape)}; expected finite numbers in rows and columns.")
    own = np.asarray(labels)
    if own.shape != (len(features),) or own.dtype.kind not in "iu":
        raise UsageError(
            f"labels is an array {list(own.shape)} of {own.dtype}; expected a whole number for each of the "
            f"{len(features):,} rows of features."
        )
    count = int(own.max()) + 1 if classes is None else classes
    if own.min() < 0 or own.max() >= count:
        raise UsageError(f"labels go from {own.min()} to {own.max()}; expected 0 to {count - 1} for {count} classes.")
    return own.astype(np.intp), count
