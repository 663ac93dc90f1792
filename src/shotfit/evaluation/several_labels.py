"""How good a model of several labels a picture is: average precisions, and precision, recall and F1 at its thresholds.

scores = evaluate_labels("shotfit-model", "labels.csv")
scores.mean_average_precision, scores.macro_f1

Average precision is scikit-learn's: of a class, the mean over its images of the precision down to each in the ranking
by probability. The mean is over the classes that have images. The F1 of all decisions together is micro, the mean of
the classes' own is macro.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shotfit.calls import checked
from shotfit.data.given import Data, Labels, all_count, tasks_of
from shotfit.data.rows import Columns, form_of, write_rows
from shotfit.data.tasks import Item, Task
from shotfit.engine.frozen import ImagePool
from shotfit.engine.store import cache_folder
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.evaluate import calibration_error, check_place, labelled_for, share, zero_shot_of
from shotfit.evaluation.printed import WORST, aligned, percent
from shotfit.fitting.figures import PRECISION
from shotfit.fitting.model import Model, load
from shotfit.fitting.notebook import frame, html_table
from shotfit.methods.several_labels import average_precision

if TYPE_CHECKING:
    import pandas

__all__ = [
    "LabelAnswers",
    "LabelScores",
    "OneLabel",
    "by_precision",
    "class_rows",
    "evaluate_labels",
    "label_lines",
    "label_scores",
    "labelled_answers",
    "scored_labels",
    "write_label_answers",
]


@dataclass(frozen=True)
class OneLabel:
    """One class: its images, how many were taken for it at its threshold, and of these precision, recall and F1.

    average_precision and recall are None for a class without images, precision for one that nothing was taken for.
    """

    name: str
    images: int
    predicted: int
    threshold: float
    average_precision: float | None
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class LabelScores:
    """What was measured; fractions from 0 to 1 but for the counts.

    unlabelled: images of none of the classes. exact: the share of images all of whose labels are right.
    calibration_error: of all images and classes, in 15 bins of equal width. per_class: in the order of the classes.
    """

    images: int
    unlabelled: int
    mean_average_precision: float
    micro_f1: float
    macro_f1: float
    exact: float
    calibration_error: float
    per_class: tuple[OneLabel, ...]

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return asdict(self)

    def to_frame(self) -> pandas.DataFrame:
        """A row for each class. UsageError where pandas is missing."""
        return frame([asdict(one) for one in self.per_class])

    def _repr_html_(self) -> str:
        title = f"mean average precision {100 * self.mean_average_precision:.1f} % of {self.images:,} images"
        return html_table([asdict(one) for one in self.per_class], title=title)


@dataclass(frozen=True, eq=False)
class LabelAnswers:
    """What a model says of labelled images: sets and probabilities [images, classes], thresholds [classes]."""

    sets: NDArray[Any]
    probabilities: NDArray[Any]
    thresholds: NDArray[Any]
    class_names: tuple[str, ...]

    def scores(self) -> LabelScores:
        """What they are worth."""
        return label_scores(self.sets, self.probabilities, self.thresholds, self.class_names)


@checked
def evaluate_labels(
    model: Model | str | Path,
    data: Data,
    labels: Labels | None = None,
    *,
    everything: bool = False,
    device: str = "auto",
) -> LabelScores:
    """Score a model of several labels a picture on labelled images.

    model: a model, or the folder of one. data, labels: what `fit` takes with several_labels; the test part counts, or
    with `everything` all images. device: as in `fit`, for a folder; a model is scored where it is.

    Raises UsageError for a model of one label a picture, for several tasks and for a device where the model is not;
    ShotfitError for no image, and for other classes.

    Example (needs a saved model):
        evaluate_labels("shotfit-model", "labels.csv").mean_average_precision
    """
    if isinstance(model, Model):
        check_place(model, device)
    opened = model if isinstance(model, Model) else load(model, device=device)
    _check_kind(opened)
    how = replace(opened.how, several_labels=not isinstance(data, Task))  # a task is read already
    tasks = tasks_of(data, labels, how, cache=cache_folder(), to_fit=False)
    if len(tasks) > 1:
        raise UsageError(f"{len(tasks)} tasks are given; a model of several labels has one: name its images.")
    items = labelled_for(opened.class_names, tasks[0], everything or all_count(data, labels))
    return labelled_answers(opened, items).scores()


def _check_kind(model: Model) -> None:
    """Refuse a model of one label a picture. Raises UsageError."""
    if not model.several_labels:
        raise UsageError("This model gives each picture one label: evaluate it without --several-labels, by evaluate.")


def labelled_answers(model: Model, items: Sequence[Item]) -> LabelAnswers:
    """What a model says of images, image by image. Raises as `evaluate_labels` does."""
    _check_kind(model)
    if not items:
        raise ShotfitError("There are no images to evaluate on; give a list with a test part, or use all its images.")
    sets = ImagePool(items, sets=len(model.class_names)).labels.numpy()
    probabilities = model.probabilities(items).double().numpy()
    thresholds = np.broadcast_to(model.cutoffs.double().numpy(), len(model.class_names))
    return LabelAnswers(sets, probabilities, thresholds, model.class_names)


def label_scores(
    sets: NDArray[Any], probabilities: NDArray[Any], thresholds: NDArray[Any], class_names: Sequence[str]
) -> LabelScores:
    """Scores of probabilities [images, classes] against sets [images, classes] of 0 and 1.

    >>> sets = np.array([[1, 0], [1, 1], [0, 0]])
    >>> said = np.array([[0.9, 0.2], [0.6, 0.7], [0.3, 0.1]])
    >>> scores = label_scores(sets, said, np.array([0.5, 0.5]), ("cat", "dog"))
    >>> scores.mean_average_precision, scores.micro_f1, scores.unlabelled
    (1.0, 1.0, 1)
    """
    import torch

    truth, said = sets.astype(bool), probabilities >= thresholds
    precisions = average_precision(torch.from_numpy(probabilities), torch.from_numpy(sets.astype(np.float64))).numpy()
    own, taken, right = truth.sum(axis=0), said.sum(axis=0), (truth & said).sum(axis=0)
    seen = (own + taken) > 0
    return LabelScores(
        images=len(sets),
        unlabelled=int((~truth.any(axis=1)).sum()),
        mean_average_precision=float(precisions[own > 0].mean()) if own.any() else 0.0,
        micro_f1=float(2 * right.sum() / max(own.sum() + taken.sum(), 1)),
        macro_f1=float((2 * right[seen] / (own + taken)[seen]).mean()) if seen.any() else 0.0,
        exact=float((truth == said).all(axis=1).mean()),
        calibration_error=calibration_error(probabilities.ravel(), truth.ravel()),
        per_class=tuple(
            OneLabel(
                name,
                int(o),
                int(t),
                float(cut),
                float(ap) if o else None,
                share(r, t),
                share(r, o),
                share(2 * r, o + t),
            )
            for name, o, t, cut, ap, r in zip(class_names, own, taken, thresholds, precisions, right, strict=True)
        ),
    )


def scored_labels(model: Model, task: Task) -> tuple[LabelScores, LabelScores] | None:
    """Scores of zero-shot and of the model on the task's test part, noted in the model's record; None without one.

    Of zero-shot the average precisions alone mean something: its probabilities are not calibrated.
    """
    record: dict[str, Any] = {"test_images": len(task.test), f"zero_shot_{PRECISION}": None, PRECISION: None}
    model.record["scores"] = record
    if not task.test:
        return None
    plain, fitted = (labelled_answers(one, task.test).scores() for one in (zero_shot_of(model), model))
    record |= {f"zero_shot_{PRECISION}": plain.mean_average_precision, PRECISION: fitted.mean_average_precision}
    record |= {"micro_f1": fitted.micro_f1, "macro_f1": fitted.macro_f1}
    return plain, fitted


def label_lines(scores: LabelScores, every_class: bool = False) -> list[str]:
    """Figures and classes of a model, for people. every_class: all of them, else the worst ten."""
    figures = {
        "images": f"{scores.images:,} ({scores.unlabelled:,} of no class)",
        "mean average precision": f"{100 * scores.mean_average_precision:.1f} %",
        "micro F1": f"{100 * scores.micro_f1:.1f} %",
        "macro F1": f"{100 * scores.macro_f1:.1f} %",
        "all labels right": f"{100 * scores.exact:.1f} %",
        "calibration error": f"{100 * scores.calibration_error:.1f} %",
    }
    rows, known = class_rows(scores, every_class), len(scores.per_class)
    head = "classes:" if len(rows) - 1 == known else f"classes, the {len(rows) - 1} with the lowest average precision:"
    more = [f"  and {known - len(rows) + 1:,} more (--per-class shows all)"] if len(rows) - 1 < known else []
    return [*(f"{name:22} {value}" for name, value in figures.items()), head,
            *(f"  {line}" for line in aligned(rows)), *more]  # fmt: skip


def by_precision(scores: LabelScores) -> list[OneLabel]:
    """The classes, the lowest average precision first, those without images last."""
    return sorted(scores.per_class, key=lambda own: 2.0 if own.average_precision is None else own.average_precision)


def class_rows(scores: LabelScores, every: bool = False) -> list[list[str]]:
    """The classes as cells with their head, the lowest average precision first."""
    ordered = by_precision(scores)
    rows = [["class", "images", "predicted", "threshold", "AP", "precision", "recall", "F1"]]
    for own in ordered if every else ordered[:WORST]:
        shares = [percent(value) for value in (own.average_precision, own.precision, own.recall, own.f1)]
        rows.append([own.name, f"{own.images:,}", f"{own.predicted:,}", f"{own.threshold:.2f}", *shares])
    return rows


def write_label_answers(path: Path, items: Sequence[Item], answers: LabelAnswers) -> None:
    """Write a row for each image: its labels, those predicted, and whether they are the same.

    Raises as `write_rows` does.
    """
    columns: Columns = {"image": "text", "labels": "texts", "predicted": "texts", "right": "flag"}
    said = answers.probabilities >= answers.thresholds

    def named(row: NDArray[Any]) -> tuple[str, ...]:
        return tuple(answers.class_names[place] for place in np.flatnonzero(row))

    write_rows(path, form_of(path) or "csv", columns, (
        (str(item.picture), named(own), named(told), bool((own.astype(bool) == told).all()))
        for item, own, told in zip(items, answers.sets, said, strict=True)
    ))  # fmt: skip
