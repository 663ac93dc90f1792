"""Which unlabelled pictures to label next: those that a model is unsure of, and that are unlike each other.

    suggest(model, "inbox/", 20)                            # pictures, of a fitted model
    choose(features, probabilities, 20).rows                # the same on arrays that are there already

Zhdanov, "Diverse mini-batch Active Learning", arXiv 1901.05954: k-means of the features, each picture weighted by

    u = 1 - (p1 - p2)                               p1, p2 the two highest probabilities
    u = max over classes of 1 - |2 p - 1|           of several labels a picture

and one picture from each cluster. So a picture stands for others that are in doubt as it is, and neither outliers nor
the same doubt many times fill the list.

# differs: the weight is (rank of u / n)^4, which no calibration of the probabilities moves; the features are of length
1; near doubles are left out; and far more than ten times as many pictures as are asked for enter. docs/labels.md
compares it with other rules. The second u, the doubt of the most doubtful class, is Brinker's ("On Active Learning in
Multi-label Classification", 2006), and was not compared.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count as numbers
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from shotfit.calls import checked
from shotfit.data.finding import identified, pictures_in
from shotfit.data.pictures import Picture, PictureLike
from shotfit.data.tasks import Item
from shotfit.engine.allocator import kept_memory
from shotfit.engine.store import cache_folder
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.doubles import NEAR, first_of_each, nearest_of_class, unit
from shotfit.fitting.learned import are_learned
from shotfit.fitting.model import Model
from shotfit.fitting.notebook import MOST, frame, html_table, thumbnail
from shotfit.progress import track

if TYPE_CHECKING:
    import pandas

__all__ = ["COLUMNS", "Chosen", "Suggestion", "Suggestions", "choose", "suggest"]

COLUMNS = ("rank", "image", "likely", "probability", "second", "score", "nearest")
"""Of a suggestion's row."""
SHOWN = 3
"""So many pictures that are like a suggested one are named beside it."""
TOGETHER = 256  # pictures that run together
SHARPNESS = 4  # power of the rank by doubt
WIDE = 20  # times as many of the most doubtful pictures are looked at as are asked for,
LEAST = 5000  # or so many: more take long, and change nothing
ROUNDS = 20  # of k-means


@dataclass(frozen=True, eq=False)
class Chosen:
    """What `choose` gives.

    rows: [k] of the pictures to label, the most telling first. scores: [k] the share of all weights that each stands
    for. doubt: [n] of every picture, from 0 (sure) to 1. doubles: how many were left out because they are nearly
    another.
    """

    rows: list[int]
    scores: list[float]
    doubt: NDArray[Any]
    doubles: int


def choose(
    features: NDArray[Any],
    probabilities: NDArray[Any],
    count: int,
    *,
    labelled: NDArray[Any] | None = None,
    near: float = NEAR,
    seed: int = 1,
    several_labels: bool = False,
) -> Chosen:
    """Choose up to `count` of n pictures to label next.

    features: [n, embed] of the frozen model. probabilities: [n, classes] of the model. labelled: [m, embed] features of
    pictures that have labels already; nothing nearly the same is chosen. near: from which cosine pictures are nearly
    the same; of those, one is chosen. several_labels: each column of `probabilities` is judged by itself.

    Raises UsageError for arrays that do not fit together or hold what is not finite, and for `count` below 1.

    Example:
        >>> features = np.array([[1.0, 0.0], [0.99, 0.01], [0.0, 1.0], [0.6, 0.8]])
        >>> probabilities = np.array([[0.5, 0.5], [0.5, 0.5], [0.6, 0.4], [1.0, 0.0]])
        >>> choose(features, probabilities, 2).rows
        [0, 2]
    """
    _check(features, probabilities, count, labelled)
    plain, doubt = unit(features), _doubt_of_labels(probabilities) if several_labels else _doubt(probabilities)
    kept = first_of_each(plain, near)
    if labelled is not None and len(labelled):
        for start in range(0, len(plain), TOGETHER):
            block = slice(start, start + TOGETHER)
            kept[block] &= (plain[block] @ unit(labelled).T).max(axis=1) < near
    pool = np.flatnonzero(kept)
    left_out = len(plain) - len(pool)
    most = max(WIDE * count, LEAST)
    ranks = rankdata(doubt[pool]) / max(len(pool), 1)  # equal doubts have equal ranks
    order = np.sort(np.argsort(-ranks, kind="stable")[:most])
    pool, weights = pool[order], ranks[order] ** SHARPNESS
    if len(pool) <= count:
        order = np.argsort(-weights, kind="stable")
        return Chosen(pool[order].tolist(), (weights[order] / weights.sum()).tolist(), doubt, left_out)
    centers, clusters = _clusters(plain[pool], weights, count, seed)
    masses = np.bincount(clusters, weights, minlength=count)
    distances = (centers**2).sum(axis=1) - 2 * plain[pool] @ centers.T  # [pool, count], less what all have alike
    chosen, free = list[int](), np.ones(len(pool), dtype=bool)
    for cluster in np.argsort(-masses, kind="stable"):
        place = int(np.where(free, distances[:, cluster], np.inf).argmin())
        free[place] = False
        chosen.append(int(pool[place]))
    shares = np.sort(masses)[::-1] / masses.sum()
    return Chosen(chosen, shares.tolist(), doubt, left_out)


@dataclass(frozen=True)
class Suggestion:
    """A picture to label. label, probability: what the model takes it for; second: the class that it might be as well.

    score: the share of all pictures, weighted by their doubt, that it stands for, from 0 to 1. nearest: of the pictures
    that were looked at and that the model takes for the same class, those that are most like it.
    """

    rank: int
    picture: Picture
    label: str
    probability: float
    second: str | None
    score: float
    nearest: tuple[str, ...]

    def row(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "rank": self.rank,
            "image": str(self.picture),
            "likely": self.label,
            "probability": round(self.probability, 6),
            "second": self.second,
            "score": round(self.score, 6),
            "nearest": list(self.nearest),
        }


class Suggestions(list[Suggestion]):
    """Suggestions, the most telling first, which a notebook shows with the pictures.

    images: how many were looked at. learned: passed over, because the model has learned them. copies: passed over,
    because another one is the same or nearly so. broken: why others could not be read.
    """

    images: int = 0
    learned: int = 0
    copies: int = 0
    broken: tuple[str, ...] = ()

    def to_frame(self) -> pandas.DataFrame:
        """A row for each: rank, image, likely, probability, second, score, nearest.

        Raises UsageError where pandas is not installed.
        """
        return frame([one.row() for one in self])

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        counts = {"images": self.images, "learned": self.learned, "copies": self.copies}
        return counts | {"broken": list(self.broken), "suggestions": [one.row() for one in self]}

    def _repr_html_(self) -> str:
        rows = [one.row() | {"nearest": ", ".join(one.nearest)} for one in self]
        return html_table(rows, [thumbnail(one.picture) for one in self[:MOST]], f"{len(self):,} pictures to label")


@checked
@kept_memory()
def suggest(
    model: Model,
    images: PictureLike | Sequence[PictureLike],
    count: int = 20,
    *,
    task: str | None = None,
    lenient: bool = False,
    seed: int = 1,
) -> Suggestions:
    """The pictures to label next, of files, folders, archives, patterns or images in memory.

    Pictures that the model has learned, copies and near doubles are passed over. A picture that cannot be read is named
    in `broken`, and the others are looked at. task: which one is meant, of a model of several. lenient: read what is
    there of pictures that are cut off. Nothing is moved or changed.

    Raises UsageError for a count below 1; ShotfitError for a folder or archive without an image, and where no picture
    can be read.

    Example (needs a saved model):
        for one in suggest(shotfit.load("shotfit-model"), "inbox/", 20):
            print(one.picture, one.label, one.second)
    """
    if count < 1:
        raise UsageError(f"count is {count}; expected 1 or more pictures to label.")
    own = model if task is None else model.for_task(task)
    names = own.one_task().names
    pictures = pictures_in(images)
    items, unread = identified(pictures, cache_folder())
    broken = {picture: str(error) for picture, error in unread.items()}
    known = are_learned(own, items)
    fresh = list({item.digest: item for item, old in zip(items, known, strict=True) if not old}.values())
    read, probabilities, features = _asked(own, fresh, lenient, broken)
    if not read and not any(known):
        first = next(iter(broken.values()), "No picture was given.")
        raise ShotfitError(f"None of {len(pictures):,} pictures can be read: {first}")
    found = Suggestions()
    found.images, found.learned = len(pictures) - len(broken), sum(known)
    found.broken = tuple(broken[picture] for picture in dict.fromkeys(pictures) if picture in broken)
    if not read:
        return found
    chosen = choose(features, probabilities, count, seed=seed, several_labels=own.several_labels)
    found.copies = len(items) - sum(known) - len(fresh) + chosen.doubles
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
    alike = nearest_of_class(features, np.asarray(chosen.rows), best[chosen.rows, 0], best[:, 0], SHOWN)
    for rank, row, score, near in zip(numbers(1), chosen.rows, chosen.scores, alike, strict=False):
        second = names[best[row, 1]] if len(names) > 1 else None
        likely, probability = names[best[row, 0]], float(probabilities[row, best[row, 0]])
        named = tuple(str(read[other].picture) for other, _ in near)
        found.append(Suggestion(rank, read[row].picture, likely, probability, second, score, named))
    return found


def _asked(
    model: Model, items: Sequence[Item], lenient: bool, broken: dict[Picture, str]
) -> tuple[list[Item], NDArray[Any], NDArray[Any]]:
    """The pictures that can be read, their probabilities [n, classes] and features [n, embed]; why others cannot."""
    read, rows, own = list[Item](), list[Tensor](), list[Tensor]()
    starts = range(0, len(items), TOGETHER)
    for start in track(starts, "Looking at pictures", len(starts)) if len(starts) > 1 else starts:
        batch = items[start : start + TOGETHER]
        answers = model.answered([item.picture for item in batch], lambda _, features: list(features()), lenient)
        for item, answer in zip(batch, answers, strict=True):
            if isinstance(answer, ShotfitError):
                broken[item.picture] = str(answer)
                continue
            read.append(item)
            rows.append(answer[0])
            own.append(answer[1])
    if not read:
        return read, np.zeros((0, len(model.class_names))), np.zeros((0, model.frozen.embed))
    return read, torch.stack(rows).numpy(), torch.stack(own).numpy()


def _doubt(probabilities: NDArray[Any]) -> NDArray[Any]:
    """1 - (p1 - p2) of each row, [n]; of a single class nothing is in doubt."""
    if probabilities.shape[1] < 2:
        return np.zeros(len(probabilities))
    best = np.partition(probabilities, -2, axis=1)[:, -2:]
    return np.clip(1 - (best[:, 1] - best[:, 0]), 0, 1)


def _doubt_of_labels(probabilities: NDArray[Any]) -> NDArray[Any]:
    """That of the class of each row that is least sure to be there or not, [n]."""
    return 1 - np.abs(2 * probabilities - 1).min(axis=1)


def _clusters(
    points: NDArray[Any], weights: NDArray[Any], count: int, seed: int
) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Centers [count, embed] of weighted k-means, and the cluster of each point."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different pictures than clusters
        found = KMeans(count, n_init=1, max_iter=ROUNDS, random_state=seed).fit(points, sample_weight=weights)
    return found.cluster_centers_, found.labels_


def _check(features: NDArray[Any], probabilities: NDArray[Any], count: int, labelled: NDArray[Any] | None) -> None:
    """Raise UsageError for arrays that do not fit together, and for a count below 1."""
    if count < 1:
        raise UsageError(f"count is {count}; expected 1 or more pictures to label.")
    given: Iterable[tuple[str, NDArray[Any]]] = (
        ("features", features),
        ("probabilities", probabilities),
        *(() if labelled is None else (("labelled", labelled),)),
    )
    for name, array in given:
        if array.ndim != 2 or not np.isfinite(array).all():
            raise UsageError(f"{name} is an array {list(array.shape)}; expected finite numbers in rows and columns.")
    if len(features) != len(probabilities):
        raise UsageError(
            f"There are {len(features):,} rows of features and {len(probabilities):,} of probabilities; expected one "
            "of each for a picture."
        )
    if labelled is not None and len(labelled) and labelled.shape[1] != features.shape[1]:
        raise UsageError(f"labelled has {labelled.shape[1]:,} columns, and features {features.shape[1]:,}.")
