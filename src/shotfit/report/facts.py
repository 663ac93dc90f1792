"""What there is to see of a model on labelled pictures: mistakes, doubtful hits, suspected labels, doubles, neighbours.

    facts = look(model, task)                 # judged on the test part, as `evaluate` does
    for seen in facts.mistakes(12):           # the most confident ones
        print(seen.item.picture, [facts.class_names[one] for one, _ in seen.top], seen.nearest[0].item.picture)

It is data: `page.py` shows it as a report, and a labelling page can show it as it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shotfit.data.tasks import Item, Task
from shotfit.engine.allocator import kept_memory
from shotfit.evaluation.evaluate import Answers, answers, labelled_for, zero_shot_of
from shotfit.evaluation.paired import Paired, compare_answers
from shotfit.fitting.heldout import best_temperature, features_of_items
from shotfit.fitting.learned import count_learned
from shotfit.fitting.model import Model
from shotfit.report.similar import Double, doubles_of, nearest

__all__ = ["Facts", "Near", "Seen", "Suspect", "look", "suspected"]

SHOWN = 3  # classes, and nearest labelled pictures, of each picture


@dataclass(frozen=True)
class Near:
    """A labelled picture, and how similar it is to the one that it stands beside (a cosine)."""

    item: Item
    similarity: float


@dataclass(frozen=True)
class Seen:
    """A picture as the model sees it. label: its class; top: classes and probabilities, the most probable first."""

    item: Item
    label: int
    probability: float  # of its class
    top: tuple[tuple[int, float], ...]
    nearest: tuple[Near, ...]


@dataclass(frozen=True)
class Suspect:
    """A picture whose label looks wrong: another class is as probable as it is for pictures of that class.

    place: where the picture stands in what was asked. label, suggested: classes, with their probabilities.
    """

    place: int
    label: int
    suggested: int
    probability: float
    suggested_probability: float


@dataclass(frozen=True, eq=False)
class Facts:
    """A model on labelled pictures. Labels count `class_names`.

    items: the pictures that it is judged on, answers and plain (zero-shot's) what is said of them, features
    [items, embed]. labelled, labelled_features: the training and validation part. learned: how many of items the model
    has learned from. suspects: places in `everything`, the most suspect first. doubles: places there too; double_count:
    how many pairs there are. is_plain: the model is zero-shot itself.
    """

    task: str
    source: Path
    class_names: tuple[str, ...]
    items: tuple[Item, ...]
    answers: Answers
    plain: Answers
    features: NDArray[Any]
    labelled: tuple[Item, ...]
    labelled_features: NDArray[Any]
    learned: int
    suspects: tuple[Suspect, ...]
    doubles: tuple[Double, ...]
    double_count: int
    is_plain: bool
    whole: bool  # judged on all pictures, not on the test part alone

    @property
    def everything(self) -> tuple[Item, ...]:
        """The labelled pictures and those of the test part."""
        return self.items if self.whole else (*self.labelled, *self.items)

    def is_test(self, place: int) -> bool:
        """Whether that picture of `everything` belongs to the test part."""
        return place >= len(self.labelled)

    def paired(self) -> Paired:
        """Zero-shot (first) beside the model (second) on the same pictures."""
        return compare_answers(self.plain, self.answers)

    def mistakes(self, most: int) -> list[Seen]:
        """Pictures that were put into a wrong class, the most confident mistake first."""
        wrong = np.flatnonzero(~self.answers.right)
        return self._seen(wrong[np.argsort(-self.answers.probabilities.max(axis=1)[wrong], kind="stable")][:most])

    def hits(self, most: int) -> list[Seen]:
        """Pictures that were put into their class, the least confident hit first."""
        right = np.flatnonzero(self.answers.right)
        return self._seen(right[np.argsort(self.answers.probabilities.max(axis=1)[right], kind="stable")][:most])

    def neighbours(self, place: int) -> list[Near]:
        """The labelled pictures that are most similar to a picture of `everything`, without itself and its copies."""
        item, rows = self.everything[place], self._features_of_everything()[[place]]
        (found,) = nearest(rows, self.labelled_features, SHOWN + 1)
        near = [Near(self.labelled[one], cosine) for one, cosine in found if not _is_same(item, self.labelled[one])]
        return near[:SHOWN]

    def _features_of_everything(self) -> NDArray[Any]:
        return self.features if self.whole else np.concatenate([self.labelled_features, self.features])

    def _seen(self, rows: NDArray[Any]) -> list[Seen]:
        found = []
        for row in rows.tolist():
            probabilities, label = self.answers.probabilities[row], int(self.answers.labels[row])
            best = np.argsort(-probabilities, kind="stable")[:SHOWN]
            top = tuple((int(one), float(probabilities[one])) for one in best)
            place = row if self.whole else len(self.labelled) + row
            near = tuple(self.neighbours(place))
            found.append(Seen(self.items[row], label, float(probabilities[label]), top, near))
        return found


@kept_memory()
@torch.no_grad()
def look(model: Model, task: Task, everything: bool = False) -> Facts:
    """Everything that there is to see of a model of one task.

    task: it is judged on its test part, or with `everything` on all its pictures; labels are matched by the names of
    classes.

    Raises ShotfitError as `evaluate` does: no picture to judge on, a class that the model does not know.
    """
    names = model.one_task().names
    known = labelled_for(names, task, everything=True)
    labelled = known[: len(task.train) + len(task.val)]
    items = known if everything else known[len(labelled) :]
    said = answers(model, items)
    is_plain = model.method.name == "zero_shot"
    plain = said if is_plain else answers(zero_shot_of(model), items)
    features = features_of_items(model.frozen, known)  # [known, embed]
    own = features[: len(labelled)]
    tested = said.probabilities[len(labelled) :] if everything else said.probabilities
    held_out = np.concatenate([_left_out(own, labelled, len(names)), tested])  # [known, classes]
    doubles, count = doubles_of(known, features.numpy())
    return Facts(
        task=task.name,
        source=task.source,
        class_names=names,
        items=tuple(items),
        answers=said,
        plain=plain,
        features=features.numpy() if everything else features[len(labelled) :].numpy(),
        labelled=tuple(labelled),
        labelled_features=own.numpy(),
        learned=count_learned(model, items),
        suspects=tuple(suspected([item.label for item in known], held_out)),
        doubles=tuple(doubles),
        double_count=count,
        is_plain=is_plain,
        whole=everything,
    )


def suspected(labels: Sequence[int], probabilities: NDArray[Any]) -> list[Suspect]:
    """Labels that look wrong, the most suspect first.

    probabilities [pictures, classes]: of a model that has not learned the picture itself; a row of zeros says nothing.
    A class is confident of a picture from the mean probability on that its own pictures have (confident learning:
    Northcutt et al., JAIR 2021, arXiv 1911.00068). Suspects are those of which another class is confident and more
    probable than the label, by how much more.

    >>> [one.place for one in suspected([0, 0, 1, 1], np.array([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7]]))]
    [1]
    """
    given = np.asarray(labels)
    if not len(given):
        return []
    own = probabilities[np.arange(len(given)), given]  # [pictures]
    said = probabilities.sum(axis=1) > 0
    sums = np.bincount(given[said], own[said], minlength=probabilities.shape[1])
    counts = np.bincount(given[said], minlength=probabilities.shape[1])
    needed = np.divide(sums, counts, out=np.full(len(sums), np.inf), where=counts > 0)  # [classes]
    confident = np.where(probabilities >= needed, probabilities, 0.0)
    suggested = confident.argmax(axis=1)
    best = confident.max(axis=1)
    places = np.flatnonzero((suggested != given) & (best > own))
    order = places[np.argsort((own - best)[places], kind="stable")]
    return [
        Suspect(place, int(given[place]), int(suggested[place]), float(own[place]), float(best[place]))
        for place in order.tolist()
    ]


def _left_out(features: Tensor, items: Sequence[Item], classes: int) -> NDArray[Any]:
    """Probabilities [items, classes] of labelled pictures by the means of classes, each without the picture itself.

    The model cannot be asked: it has learned them. Of a picture that is alone in its class nothing is said: zeros.
    """
    labels = torch.tensor([item.label for item in items], dtype=torch.long)
    if not len(labels):
        return np.zeros((0, classes))
    sums = torch.zeros(classes, features.shape[1]).index_add(0, labels, features)
    counts = torch.bincount(labels, minlength=classes)
    means = torch.nn.functional.normalize(sums, dim=1)
    rest = torch.nn.functional.normalize(sums[labels] - features, dim=1)  # of the picture's class without it
    cosines = features @ means.T  # [items, classes]
    cosines[torch.arange(len(labels)), labels] = (features * rest).sum(dim=1)
    cosines[:, counts == 0] = -torch.inf
    asked = counts[labels] > 1
    found = np.zeros((len(labels), classes))
    if asked.any():
        scale = best_temperature(cosines[asked], labels[asked], (classes,))
        found[asked.numpy()] = (cosines[asked].double() / scale).softmax(dim=1).numpy()
    return found


def _is_same(one: Item, other: Item) -> bool:
    return one.picture == other.picture or (bool(one.digest) and one.digest == other.digest)
