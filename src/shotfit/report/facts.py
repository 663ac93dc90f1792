"""What there is to see of a model on labelled pictures: mistakes, doubtful hits, suspected labels, doubles, neighbours.

    facts = look(model, task)                 # judged on the test part, as `evaluate` does
    for seen in facts.mistakes(12):           # the most confident ones
        print(seen.item.picture, [facts.class_names[one] for one, _ in seen.top], seen.nearest[0].item.picture)

It is data: `page.py` shows it as a report. Labels and doubles are judged as `clean` judges them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shotfit.data.tasks import Item, Task
from shotfit.engine.allocator import kept_memory
from shotfit.evaluation.clean import DoublePictures, Examined, Suspect, examined
from shotfit.evaluation.doubles import nearest
from shotfit.evaluation.evaluate import Answers, answers, labelled_for, zero_shot_of
from shotfit.evaluation.paired import Paired, compare_answers
from shotfit.fitting.learned import count_learned
from shotfit.fitting.model import Model

__all__ = ["Facts", "Judged", "Near", "Seen", "look", "neighbours"]

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


@dataclass(frozen=True, eq=False)
class Judged:
    """Labelled pictures that a model is judged on. Labels count `class_names`.

    known: all pictures, those of the test part last; the first `labelled` are the training and validation part. whole:
    the model is judged on all of them, not on the test part alone. learned: how many of the judged ones the model has
    learned from. is_plain: the model is zero-shot itself.
    """

    task: str
    source: Path
    class_names: tuple[str, ...]
    known: tuple[Item, ...]
    labelled: int
    whole: bool
    learned: int
    is_plain: bool

    @property
    def first(self) -> int:
        """The first place of `known` that the model is judged on."""
        return 0 if self.whole else self.labelled

    @property
    def items(self) -> tuple[Item, ...]:
        """The pictures that the model is judged on."""
        return self.known[self.first :]


@dataclass(frozen=True, eq=False)
class Facts(Judged):
    """A model on labelled pictures.

    answers and plain (zero-shot's): what is said of those that it is judged on. examined: labels and doubles of all.
    """

    answers: Answers
    plain: Answers
    examined: Examined

    @property
    def features(self) -> NDArray[Any]:
        """Of the pictures that the model is judged on, [items, embed]."""
        return self.examined.features[self.first :]

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

    def suspects(self, most: int) -> tuple[Suspect, ...]:
        """Those of `wrong_labels`, in the ranking of `clean`."""
        return self.examined.suspects(self.examined.wrong()[:most])

    @property
    def wrong_labels(self) -> int:
        """How many labels confident learning calls wrong: as many as `clean` counts."""
        return int(self.examined.judged.wrong.sum())

    def doubles(self, most: int) -> tuple[DoublePictures, ...]:
        """Groups of pictures that are the same or nearly so, the worst first, as `clean` names them."""
        return self.examined.double_pictures(most)

    def neighbours(self, places: NDArray[np.intp]) -> list[list[Near]]:
        """The labelled pictures that are most like each of some of `known`, without itself and its copies."""
        return neighbours(self.known, self.examined.features, self.labelled, places)

    def _seen(self, rows: NDArray[np.intp]) -> list[Seen]:
        found = []
        for row, near in zip(rows.tolist(), self.neighbours(rows + self.first), strict=True):
            probabilities, label = self.answers.probabilities[row], int(self.answers.labels[row])
            best = np.argsort(-probabilities, kind="stable")[:SHOWN]
            top = tuple((int(one), float(probabilities[one])) for one in best)
            found.append(Seen(self.items[row], label, float(probabilities[label]), top, tuple(near)))
        return found


def neighbours(
    known: Sequence[Item], features: NDArray[Any], labelled: int, places: NDArray[np.intp]
) -> list[list[Near]]:
    """Those of the first `labelled` pictures that are most like each of some places, without itself and its copies.

    features: [known, embed], of length 1.
    """
    content = {digest: number for number, digest in enumerate(dict.fromkeys(item.digest for item in known))}
    same = np.array([content[item.digest] for item in known])
    found = nearest(features, places, np.arange(labelled), SHOWN, same)
    return [[Near(known[place], cosine) for place, cosine in row] for row in found]


@kept_memory()
@torch.no_grad()
def look(model: Model, task: Task, everything: bool = False) -> Facts:
    """Everything that there is to see of a model of one task.

    task: it is judged on its test part, or with `everything` on all its pictures; labels are matched by the names of
    classes.

    Raises ShotfitError as `evaluate` does: no picture to judge on, a class that the model does not know.
    """
    names = model.one_task().names
    known, labelled = labelled_for(names, task, everything=True), len(task.train) + len(task.val)
    items = known if everything else known[labelled:]
    said = answers(model, items, frames=True)
    is_plain = model.method.name == "zero_shot"
    return Facts(
        task=task.name,
        source=task.source,
        class_names=names,
        known=tuple(known),
        labelled=labelled,
        whole=everything,
        answers=said,
        plain=said if is_plain else answers(zero_shot_of(model), items, frames=True),
        examined=examined(model.frozen, task),
        learned=count_learned(model, items),
        is_plain=is_plain,
    )
