"""What there is to see of a model of several labels a picture: labels that it misses, and labels that it adds.

    facts = look_at_labels(model, task)         # judged on the test part, as `evaluate` does
    for slip in facts.missed(12):               # those that it was surest of are not there
        print(slip.item.picture, facts.class_names[slip.label], slip.probability)

It is data: `labels_page.py` shows it as a report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shotfit.data.tasks import Item, Task
from shotfit.engine.allocator import kept_memory
from shotfit.evaluation.evaluate import labelled_for, zero_shot_of
from shotfit.evaluation.several_labels import LabelAnswers, labelled_answers
from shotfit.fitting.heldout import features_of_items
from shotfit.fitting.learned import count_learned
from shotfit.fitting.model import Model
from shotfit.report.facts import Judged, Near, neighbours

__all__ = ["LabelFacts", "Slip", "look_at_labels"]

SHOWN = 8  # classes of a picture


@dataclass(frozen=True)
class Slip:
    """A class of a picture that the model decides wrongly, and its probability.

    shown: the picture's own classes and those that the model says, with their probabilities, the most probable first.
    """

    item: Item
    label: int
    probability: float
    shown: tuple[tuple[int, float], ...]
    nearest: tuple[Near, ...]


@dataclass(frozen=True, eq=False)
class LabelFacts(Judged):
    """A model of several labels on labelled pictures.

    features: of all, [known, embed]. answers and plain (zero-shot's): what is said of those that it is judged on.
    """

    features: NDArray[Any]
    answers: LabelAnswers
    plain: LabelAnswers

    @property
    def wrong(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Labels that are missed, and labels that are added, each [items, classes]."""
        truth, said = self.answers.sets.astype(bool), self.answers.probabilities >= self.answers.thresholds
        return truth & ~said, said & ~truth

    def missed(self, most: int) -> list[Slip]:
        """Labels that the model does not say, the least probable first."""
        return self._slips(self.wrong[0], self.answers.probabilities, most)

    def added(self, most: int) -> list[Slip]:
        """Labels that the model says and that are not there, the most probable first."""
        return self._slips(self.wrong[1], -self.answers.probabilities, most)

    def _slips(self, wrong: NDArray[np.bool_], order: NDArray[Any], most: int) -> list[Slip]:
        rows, labels = np.nonzero(wrong)
        chosen = np.argsort(order[rows, labels], kind="stable")[:most]
        near = neighbours(self.known, self.features, self.labelled, rows[chosen] + self.first)
        found = []
        for row, label, own in zip(rows[chosen].tolist(), labels[chosen].tolist(), near, strict=True):
            probability = float(self.answers.probabilities[row, label])
            found.append(Slip(self.items[row], label, probability, self._shown(row, label), tuple(own)))
        return found

    def _shown(self, row: int, label: int) -> tuple[tuple[int, float], ...]:
        values = self.answers.probabilities[row]
        there = np.flatnonzero(self.answers.sets[row].astype(bool) | (values >= self.answers.thresholds))
        best = there[np.argsort(-values[there], kind="stable")].tolist()
        kept = best if len(best) <= SHOWN else [*[one for one in best if one != label][: SHOWN - 1], label]
        return tuple((one, float(values[one])) for one in kept)


@kept_memory()
@torch.no_grad()
def look_at_labels(model: Model, task: Task, everything: bool = False) -> LabelFacts:
    """Everything that there is to see of a model of several labels a picture.

    task: it is judged on its test part, or with `everything` on all its pictures.

    Raises ShotfitError as `evaluate_labels` does.
    """
    names = model.class_names
    known, labelled = labelled_for(names, task, everything=True), len(task.train) + len(task.val)
    items = known if everything else known[labelled:]
    said = labelled_answers(model, items)
    is_plain = model.method.name == "zero_shot"
    return LabelFacts(
        task=task.name,
        source=task.source,
        class_names=names,
        known=tuple(known),
        labelled=labelled,
        whole=everything,
        features=features_of_items(model.frozen, known).numpy(),
        answers=said,
        plain=said if is_plain else labelled_answers(zero_shot_of(model), items),
        learned=count_learned(model, items),
        is_plain=is_plain,
    )
