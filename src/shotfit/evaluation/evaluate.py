"""How good a fitted model is on labelled images: accuracies, precision, recall, F1, log loss, confusion, calibration.

task = read_task("photos/")
scores = evaluate(model, task.test)
scores.accuracy                              # a fraction from 0 to 1
answers(model, task.test).right              # image by image

evaluate_tasks(model, read_tasks("tasks.toml")).accuracy        # the mean over the tasks
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from shotfit.calls import checked
from shotfit.checkpoints.weights import device_of
from shotfit.data.given import Data, Labels, all_count, tasks_of
from shotfit.data.tasklist import check_names
from shotfit.data.tasks import Item, Task, plain_name
from shotfit.engine.store import cache_folder
from shotfit.errors import ShotfitError, UsageError, first_few
from shotfit.evaluation.intervals import Interval, accuracy_intervals
from shotfit.fitting.clips import by_clip
from shotfit.fitting.fitter import zero_shot
from shotfit.fitting.model import Model, load
from shotfit.fitting.notebook import frame, html_table
from shotfit.fitting.padding import check_same_padding
from shotfit.fitting.transductive import probabilities_together

if TYPE_CHECKING:
    import pandas

__all__ = [
    "BINS",
    "Answers",
    "ClassScores",
    "Scores",
    "TaskScores",
    "answers",
    "answers_of_tasks",
    "answers_together",
    "calibration_error",
    "check_place",
    "evaluate",
    "evaluate_tasks",
    "evaluate_together",
    "labelled_for",
    "model_for",
    "score",
    "scores_of_tasks",
    "share",
    "zero_shot_of",
]

BINS = 15  # equally wide bins of confidence, as Guo et al. (ICML 2017) use
SMALLEST = float(np.finfo(np.float64).eps)  # a probability below it counts as it in the log loss, as in scikit-learn


@dataclass(frozen=True)
class ClassScores:
    """One class: its images, how many images were taken for it, and of these precision, recall and F1 as fractions.

    precision is None for a class that nothing was taken for, recall for one without images, F1 where both
    are None.
    """

    name: str
    images: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Scores:
    """What was measured; fractions from 0 to 1 but `images`, `log_loss` and `confusion`.

    mean_class_accuracy: the mean of each class's accuracy, over the classes that have images. macro_f1: the mean F1
    over the classes that have images or were predicted. calibration_error: the expected calibration error, in 15 bins
    of equal width. confusion: counts [true class][predicted class]. top5_accuracy: how often the right class is among
    the five most probable ones; None for five classes or fewer. log_loss: the mean of -log(probability of the right
    class). The intervals are 95 % bootstrap intervals by image. per_class: in the order of the classes. transductive:
    the images were predicted together, and the answer for each depends on the others.
    """

    images: int
    accuracy: float
    mean_class_accuracy: float
    macro_f1: float
    calibration_error: float
    class_names: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    top5_accuracy: float | None
    log_loss: float
    accuracy_interval: Interval
    mean_class_accuracy_interval: Interval
    per_class: tuple[ClassScores, ...]
    transductive: bool = False

    def most_confused(self, limit: int = 10) -> list[tuple[str, str, int]]:
        """(true class, predicted class, images), the most frequent mistakes first."""
        pairs = [
            (self.class_names[row], self.class_names[column], count)
            for row, counts in enumerate(self.confusion)
            for column, count in enumerate(counts)
            if row != column and count
        ]
        return sorted(pairs, key=lambda pair: -pair[2])[:limit]

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return asdict(self)

    def to_frame(self) -> pandas.DataFrame:
        """A row for each class: name, images, predicted, precision, recall, f1. UsageError where pandas is missing."""
        return frame([asdict(one) for one in self.per_class])

    def _repr_html_(self) -> str:
        low, high = self.accuracy_interval
        title = f"accuracy {100 * self.accuracy:.1f} % ({100 * low:.1f} to {100 * high:.1f}) of {self.images:,} images"
        title += ", predicted together (transductive)" if self.transductive else ""
        return html_table([asdict(one) for one in self.per_class], title=title)


@dataclass(frozen=True)
class TaskScores:
    """Scores of several tasks by name; the means over the tasks count each task once, however many images it has.

    new: the tasks that the model was not fitted to, and predicts from their names and class names.
    """

    tasks: dict[str, Scores]
    new: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """Images of all tasks."""
        return sum(scores.images for scores in self.tasks.values())

    @property
    def accuracy(self) -> float:
        """Mean of the tasks' accuracies."""
        return fmean(scores.accuracy for scores in self.tasks.values())

    @property
    def mean_class_accuracy(self) -> float:
        """Mean of the tasks' mean class accuracies."""
        return fmean(scores.mean_class_accuracy for scores in self.tasks.values())

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        means = {"accuracy": self.accuracy, "mean_class_accuracy": self.mean_class_accuracy}
        tasks = {name: scores.as_json() for name, scores in self.tasks.items()}
        return {"images": self.images} | means | {"new_tasks": list(self.new), "tasks": tasks}


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says of labelled images: labels [images], probabilities [images, classes].

    items: the images, of a clip its middle frame; none where nobody asked. transductive: of images that were predicted
    together.
    """

    labels: NDArray[Any]
    probabilities: NDArray[Any]
    class_names: tuple[str, ...]
    items: tuple[Item, ...] = ()
    transductive: bool = False

    @property
    def predicted(self) -> NDArray[Any]:
        """The most probable class of each image, [images]."""
        return self.probabilities.argmax(axis=1)

    @property
    def right(self) -> NDArray[Any]:
        """Whether that is the image's class, [images]."""
        return self.predicted == self.labels

    def scores(self) -> Scores:
        """What they are worth."""
        return replace(score(self.labels, self.probabilities, self.class_names), transductive=self.transductive)


@checked
def evaluate(
    model: Model | str | Path,
    data: Sequence[Item] | Data,
    labels: Labels | None = None,
    *,
    among: Sequence[int] = (),
    everything: bool = False,
    device: str = "auto",
) -> Scores:
    """Score a model on labelled images.

    model: a model, or the folder of one. data: what `fit` takes: a task or a path, of which the test part counts, or
    with `everything` all images; images with `labels`, or a table, of which all count; or items of a task, whose labels
    count the model's classes (`labelled_for` renumbers those of another list). among: positions of the classes that are
    candidates, where images of a part of them are judged among these alone. device: as in `fit`, for a folder; a model
    is scored where it is.

    Raises ShotfitError if there is no image, or a label that the model has no class for, and UsageError for several
    tasks and for a device where the model is not.

    Example (needs a saved model):
        evaluate("shotfit-model", "photos").accuracy
    """
    if isinstance(model, Model):
        check_place(model, device)
    else:
        model = load(model, device=device)
    return answers(model, _items_of(model, data, labels, everything), among).scores()


@checked
def evaluate_together(
    model: Model | str | Path, data: Sequence[Item] | Data, labels: Labels | None = None, *, everything: bool = False
) -> Scores:
    """Score transductive predictions, as of `predict_together`: all images of the call are predicted together.

    The scores say so by `transductive`. Labels are read to score alone. The arguments are those of `evaluate`.

    Raises as `evaluate` does, and UsageError for more than 50,000 images.
    """
    model = model if isinstance(model, Model) else load(model)
    return answers_together(model, _items_of(model, data, labels, everything)).scores()


def _items_of(model: Model, data: Sequence[Item] | Data, labels: Labels | None, everything: bool) -> Sequence[Item]:
    if labels is None and isinstance(data, (list, tuple)) and all(isinstance(one, Item) for one in data):
        return cast("Sequence[Item]", data)
    tasks = tasks_of(data, labels, model.how, cache=cache_folder(), to_fit=False)
    if len(tasks) > 1:
        raise UsageError(f"{len(tasks)} tasks are given; evaluate_tasks judges several.")
    check_same_padding(model.record, tasks[0])
    return labelled_for(model.class_names, tasks[0], everything or all_count(data, labels))


def check_place(model: Model, device: str) -> None:
    """Refuse a device where a model is not: its features are kept there."""
    if device != "auto":
        wanted, place = device_of(device), model.frozen.backbone.device
        if (wanted.type, wanted.index or 0) != (place.type, place.index or 0):
            raise UsageError(f"The model is on {place}, not on {device}: open it there, load(..., device={device!r}).")


def answers(model: Model, items: Sequence[Item], among: Sequence[int] = (), frames: bool = False) -> Answers:
    """What a model says of images, image by image; takes what `evaluate` takes.

    A clip counts once: by the mean of its frames' probabilities (`fitting/clips.py`). frames: each frame counts.

    Raises ShotfitError if there is no image, or a label that the model has no class for.
    """
    _check_items(model, items)
    return _answers(model, items, model.probabilities(items, among), frames)


def answers_together(model: Model, items: Sequence[Item]) -> Answers:
    """As `answers`, of images that are predicted together; raises UsageError for too many, too."""
    _check_items(model, items)
    return replace(_answers(model, items, probabilities_together(model, items), False), transductive=True)


def _answers(model: Model, items: Sequence[Item], probabilities: Tensor, frames: bool) -> Answers:
    if not frames:
        items, probabilities = by_clip(items, probabilities)
    labels = np.asarray([item.label for item in items], dtype=np.int64)
    return Answers(labels, probabilities.double().numpy(), model.class_names, tuple(items))


def _check_items(model: Model, items: Sequence[Item]) -> None:
    if model.several_labels:
        raise UsageError("This model gives a picture several labels: score it with evaluate_labels.")
    if not items:
        raise ShotfitError("There are no images to evaluate on; give a folder with a test part, or use all its images.")
    largest = max(item.label for item in items)
    if min(item.label for item in items) < 0 or largest >= len(model.class_names):
        raise ShotfitError(
            f"The images have labels up to {largest}, but the model has {len(model.class_names)} classes: evaluate on "
            "a task with the model's classes."
        )


@checked
def evaluate_tasks(model: Model, tasks: Sequence[Task], everything: bool = False) -> TaskScores:
    """Score a model on the test images, or all images, of each task, among that task's own classes.

    A task of a name that the model does not know is predicted from its name and class names, where the method can.

    Raises ShotfitError for a task without images or with other classes; UsageError where the method knows no new tasks.
    """
    return scores_of_tasks(model, answers_of_tasks(model, tasks, everything))


def answers_of_tasks(model: Model, tasks: Sequence[Task], everything: bool = False) -> dict[str, Answers]:
    """What the model says of the images of each task; takes and raises what `evaluate_tasks` does."""
    check_names(tasks)
    found = {}
    for task in tasks:
        check_same_padding(model.record, task)
        own = model_for(model, task)
        found[task.name] = answers(own, labelled_for(own.class_names, task, everything))
    return found


def scores_of_tasks(model: Model, said: Mapping[str, Answers]) -> TaskScores:
    """What the answers of `answers_of_tasks` are worth."""
    scores = {name: own.scores() for name, own in said.items()}
    return TaskScores(scores, tuple(name for name in said if name not in model.tasks))


def model_for(model: Model, task: Task) -> Model:
    """The model for the task of this name, or for its name and class names where the model was not fitted to it."""
    if task.name in model.tasks:
        return model.for_task(task.name)
    return model.for_task(task.name, task.classes.names, task.classes.templates, task.classes.parents)


def zero_shot_of(model: Model) -> Model:
    """The zero-shot model of the same backbone, classes and templates, to compare with."""
    kept = {"pictures": model.rule.as_json()}
    return Model(zero_shot(model.frozen, model.classes), model.frozen, kept)


def score(labels: NDArray[Any], probabilities: NDArray[Any], class_names: Sequence[str]) -> Scores:
    """Scores of probabilities [images, classes] against labels [images].

    Example:
        >>> import numpy as np
        >>> score(np.array([0, 1]), np.array([[0.9, 0.1], [0.6, 0.4]]), ("cat", "dog")).accuracy
        0.5
    """
    predicted = probabilities.argmax(axis=1)
    counts = np.zeros((len(class_names), len(class_names)), dtype=np.int64)  # [true, predicted]
    np.add.at(counts, (labels, predicted), 1)
    right, true, said = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    present, seen = true > 0, (true + said) > 0
    of_label = probabilities[np.arange(len(labels)), labels]  # [images]
    by_image, by_class = accuracy_intervals(labels, predicted == labels, len(class_names))
    return Scores(
        images=len(labels),
        accuracy=float((predicted == labels).mean()),
        mean_class_accuracy=float((right[present] / true[present]).mean()),
        macro_f1=float((2 * right[seen] / (true + said)[seen]).mean()),
        calibration_error=calibration_error(probabilities.max(axis=1), predicted == labels),
        class_names=tuple(class_names),
        confusion=tuple(tuple(int(count) for count in row) for row in counts),
        top5_accuracy=_top_accuracy(probabilities, labels, 5) if len(class_names) > 5 else None,
        log_loss=float(-np.log(np.clip(of_label, SMALLEST, 1)).mean()),
        accuracy_interval=by_image,
        mean_class_accuracy_interval=by_class,
        per_class=tuple(
            ClassScores(name, int(t), int(s), share(r, s), share(r, t), share(2 * r, t + s))
            for name, r, t, s in zip(class_names, right, true, said, strict=True)
        ),
    )


def labelled_for(names: Sequence[str], task: Task, everything: bool = False) -> list[Item]:
    """The task's test images, or all its images, with their labels as positions in `names`.

    Classes are found by name, so that a folder with a few of a model's classes can be evaluated too.

    Raises ShotfitError if the task has a class of another name.
    """
    items = [*task.train, *task.val, *task.test] if everything else list(task.test)
    if tuple(names) == task.classes.names:
        return items
    places = {plain_name(name): place for place, name in enumerate(names)}
    unknown = [name for name in task.classes.names if plain_name(name) not in places]
    if unknown or len(places) < len(names):
        raise ShotfitError(
            f"the classes of {task.name} ({len(task.classes.names)}) are not the model's ({len(names)})"
            f"{f' (not known to it: {first_few(unknown)})' if unknown else ''}: evaluate on images of the classes it "
            "was fitted to, under their names, or fit again."
        )
    order = [places[plain_name(name)] for name in task.classes.names]
    return [item.with_labels([order[label] for label in item.labels]) for item in items]


def calibration_error(confidences: NDArray[Any], right: NDArray[Any]) -> float:
    """The mean over images of |accuracy - confidence| of the image's bin; bins are open below, closed above."""
    bins = np.clip(np.ceil(confidences * BINS).astype(int) - 1, 0, BINS - 1)
    difference = np.bincount(bins, right.astype(float) - confidences, minlength=BINS)
    return float(np.abs(difference).sum() / len(confidences))


def _top_accuracy(probabilities: NDArray[Any], labels: NDArray[Any], count: int) -> float:
    """How often the label is among the `count` most probable classes; of equal ones the first, as in `argmax`."""
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)  # [images, 1]
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]  # [images, classes]
    ahead = ((probabilities > own) | ((probabilities == own) & earlier)).sum(axis=1)  # [images]
    return float((ahead < count).mean())


def share(part: int, whole: int) -> float | None:
    """Part of a whole as a fraction; None of nothing."""
    return float(part / whole) if whole else None
