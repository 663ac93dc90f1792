"""Several tasks from outside: which model serves which, where it is saved, and how it compares with zero-shot.

A method of several tasks makes one model of a list. Any other makes one model a task, each in a folder OUT/TASK that
opens like every model; `models_of` finds both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from shotfit.data.tasklist import check_names
from shotfit.data.tasks import Task, composed
from shotfit.engine.store import MemoryStore, Store
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.evaluate import TaskScores, evaluate_tasks, zero_shot_of
from shotfit.files import standing
from shotfit.fitting.addresses import local_folder
from shotfit.fitting.folder import RECORD
from shotfit.fitting.model import Model, load
from shotfit.fitting.race import AUTO
from shotfit.fitting.record import read_record
from shotfit.methods import find
from shotfit.towers.backbone import Backbone
from shotfit.towers.precision import Precision

RECORDED = (
    "shots", "seed", "seconds", "selection", "fell_back", "support_images", "labelled_images", "learned_images",
)  # fmt: skip
# Of fits to images: how it was trained and chosen, and what is known by images that were held out.
CHOSEN = ("recipe", "choice", "race", "training", "checked", "half_of_the_labels", "trust")

# Where the model of all tasks goes, and how it is fitted to them
Together = tuple[Path, Callable[[Sequence[Task]], Model]]

__all__ = [
    "Fitted",
    "fitted_in_turn",
    "load_task",
    "merged",
    "methods_for",
    "models_of",
    "overview",
    "places",
    "scored",
    "table",
]


@dataclass(frozen=True)
class Fitted:
    """A fitted model, where it is saved, and the test accuracies of its tasks beside zero-shot's.

    Of several labels a picture there are no accuracies; what was measured stands in the model's record.
    """

    model: Model
    place: Path
    plain: TaskScores = field(default_factory=lambda: TaskScores({}))
    fitted: TaskScores = field(default_factory=lambda: TaskScores({}))

    def as_json(self) -> dict[str, Any]:
        """What a program wants to know of the fit."""
        record = {name: self.model.record[name] for name in RECORDED}
        record |= {name: self.model.record[name] for name in CHOSEN if name in self.model.record}
        record["found"] = {name: self.model.record["options"][name] for name in self.model.record.get("found", [])}
        names = {"model": str(self.place), "predicts_with": self.model.record["method"]}
        scores: dict[str, Any] = self.model.record["scores"]
        return names | record | {"refit": self.model.record.get("refit", False)} | scores


def load_task(
    folder: str | Path,
    task: str | None,
    backbone: str | None,
    method: str | None = None,
    precision: Precision | None = None,
    device: str = "auto",
    store: Store | MemoryStore | None = None,
    trust_backbone: bool = False,
    alone: bool = False,
) -> Model:
    """The model in the folder, or the one below it that was fitted to the task. folder: also an address on the hub.

    alone: this task of the model's, whose others need not be read.

    Raises as `load` does, and UsageError where the folder holds models of tasks and not of this one, or none is named.
    """
    folder = local_folder(folder)
    if not _is_model(folder) and task is not None and _is_model(_place(folder, task)):
        folder = _place(folder, task)
    if not _is_model(folder) and (below := _below(folder)):
        known = ", ".join(below)
        raise UsageError(
            f"{folder} is no model itself, and holds those of the tasks {known}: name one with --task."
            if task is None
            else f"{folder} holds no model of the task {task!r}; those of its tasks: {known}."
        )
    return load(folder, backbone, store, method, precision, device, trust_backbone, task if alone else None)


def methods_for(folders: Sequence[Path], method: str | None) -> list[str | None]:
    """A method's file for each of several models: for those that it saved, where there are any, else for all."""
    if method is None:
        return [None for _ in folders]
    name = find(method).name
    saved = [_method_in(folder) == name for folder in folders]
    return [method if own or not any(saved) else None for own in saved]


def _method_in(folder: Path) -> str | None:
    """By the record of a model; None where none lies there."""
    try:
        return str(read_record(standing(folder))["method"])
    except ShotfitError:
        return None


def places(tasks: Sequence[Task], method: str, out: Path, apart: bool) -> dict[Path, list[Task]]:
    """The tasks that are fitted together, by the folder of their model.

    apart: give each task a folder of its own below `out` if the method fits one task at a time.

    Raises UsageError for two tasks of one name, for names that would be the same folder, and for an `out` that is a
    model itself.
    """
    check_names(tasks)
    if not apart or (method != AUTO and find(method).several_tasks):
        return {out: list(tasks)}
    if method == AUTO and len(tasks) > 1 and out.is_dir() and any(out.iterdir()):
        raise UsageError(
            f"{out} is not empty, and {method} of several tasks saves there one model, or one a task, whichever is "
            "better: choose another --out, or delete it."
        )
    if (out / RECORD).exists():
        raise UsageError(f"{out} is a model, but {method} makes one a task, in folders below it: choose another --out.")
    found: dict[Path, list[Task]] = {}
    for task in tasks:
        place = _place(out, task.name)
        if place in found:
            raise UsageError(
                f"The tasks {found[place][0].name!r} and {task.name!r} would both be saved as {place}: rename one."
            )
        found[place] = [task]
    return found


def fitted_in_turn(
    groups: Mapping[Path, Sequence[Task]], fit_to: Callable[[Sequence[Task]], Model], together: Together | None = None
) -> Iterator[tuple[Path, Model]]:
    """Fit the tasks of each folder, one folder after the other.

    together: for a race of several tasks, where the model of all of them goes and how it is fitted. Its method takes
    the place of what won task by task where its held-out accuracy, as the mean over the tasks, is higher by more than
    a standard error of the differences.
    """
    if together is None or len(groups) < 2:
        yield from ((place, fit_to(tasks)) for place, tasks in groups.items())
        return
    apart = {place: fit_to(tasks) for place, tasks in groups.items()}
    if not all(model.record["checked"] for model in apart.values()):  # nothing can be held out
        yield from apart.items()
        return
    place, fit_all = together
    shared = fit_all([task for tasks in groups.values() for task in tasks])
    of_shared = {name: found["accuracy"] for name, found in shared.record["checked"]["tasks"].items()}
    of_own = {name: _held_out(model) for model in apart.values() for name in model.tasks}
    gains = [of_shared[name] - of_own[name] for name in of_own]
    for model in apart.values():
        (name,) = model.tasks
        model.record["race"] = [*model.record["race"], _entrant(shared.record["fitted_method"], of_shared[name])]
    if fmean(gains) <= stdev(gains) / len(gains) ** 0.5 or shared.record["fell_back"]:
        yield from apart.items()
        return
    shared.record["race"] = [
        _entrant("auto, task by task", fmean(of_own.values())),
        _entrant(shared.record["fitted_method"], fmean(of_shared.values())),
    ]
    yield place, shared


def _held_out(model: Model) -> float:
    """The accuracy on held-out images of what is saved."""
    checked = model.record["checked"]
    return float(checked["zero_shot_accuracy" if model.record["fell_back"] else "accuracy"])


def _entrant(method: str, accuracy: float) -> dict[str, Any]:
    return {"method": method, "accuracy": accuracy, "score": None, "chosen": {}}


def scored(model: Model, tasks: Sequence[Task], place: Path) -> Fitted:
    """Score the model and zero-shot on the test parts that the tasks have, and note it in the model's record."""
    judged = [task for task in tasks if task.test]
    plain, fitted = TaskScores({}), TaskScores({})
    if judged:
        plain, fitted = evaluate_tasks(zero_shot_of(model), judged), evaluate_tasks(model, judged)
    scores: dict[str, Any] = _accuracies(plain, fitted)
    if len(tasks) > 1:
        scores["tasks"] = {
            name: {
                "test_images": own.images,
                "zero_shot_accuracy": plain.tasks[name].accuracy,
                "accuracy": own.accuracy,
            }
            for name, own in fitted.tasks.items()
        }
    model.record["scores"] = scores
    return Fitted(model, place, plain, fitted)


def overview(results: Sequence[Fitted], out: Path) -> dict[str, Any]:
    """One object for all models of a command."""
    if len(results) == 1:
        return results[0].as_json()
    plain, fitted = merged([result.plain for result in results]), merged([result.fitted for result in results])
    models = {name: result.as_json() for result in results for name in result.model.tasks}
    return {"model": str(out)} | _accuracies(plain, fitted) | {"models": models}


def merged(scores: Sequence[TaskScores]) -> TaskScores:
    """The scores of all tasks as one."""
    tasks = {name: own for one in scores for name, own in one.tasks.items()}
    return TaskScores(tasks, tuple(name for one in scores for name in one.new))


def table(columns: dict[str, TaskScores]) -> list[str]:
    """Accuracies in percent, a task a line and the mean over the tasks last."""
    (first, *_) = columns.values()
    names = [f"{name} (new)" if name in first.new else name for name in first.tasks]
    width = max(len(name) for name in (*names, "mean"))
    lines = [f"{'task':{width}}  " + "  ".join(f"{title:>9}" for title in columns)]
    for label, name in zip(names, first.tasks, strict=True):
        lines.append(_line(label, width, {title: own.tasks[name].accuracy for title, own in columns.items()}))
    if len(names) > 1:
        lines.append(_line("mean", width, {title: own.accuracy for title, own in columns.items()}))
    return lines


def models_of(
    folder: str | Path,
    tasks: Sequence[Task],
    backbone: str | None,
    method: str | None = None,
    precision: Precision | None = None,
    device: str = "auto",
    store: Store | MemoryStore | None = None,
    trust_backbone: bool = False,
) -> list[tuple[Model, list[Task]]]:
    """The model in the folder with all tasks, or the models below it, one for each task. folder: as in `load_task`.

    Raises ShotfitError where neither is there.
    """
    folder = local_folder(folder)
    if _is_model(folder) or not folder.is_dir():
        return [(load(folder, backbone, store, method, precision, device, trust_backbone), list(tasks))]
    found = [(_place(folder, task.name), task) for task in tasks]
    missing = [task.name for place, task in found if not _is_model(place)]
    if missing:
        raise ShotfitError(
            f"{folder} holds no model, and none of the task {missing[0]!r} below it: name a folder that `shotfit fit` "
            "wrote."
        )
    models: list[tuple[Model, list[Task]]] = []
    loaded: dict[tuple[str, str], Backbone] = {}  # one stands for all models that were fitted on it
    for place, task in found:
        record = read_record(standing(place))
        kind = record["backbone"]["fingerprint"], record["precision"]
        model = load(place, loaded.get(kind, backbone), store, method, precision, device, trust_backbone)
        loaded[kind] = model.frozen.backbone
        models.append((model, [task]))
    return models


def _is_model(folder: Path) -> bool:
    return (standing(folder) / RECORD).is_file()


def _below(folder: Path) -> list[str]:
    """The tasks whose models are directly below a folder, each in one of its own."""
    places = sorted(folder.iterdir()) if folder.is_dir() else []
    lists = [read_record(place)["classes"] for place in places if place.name[0] != "." and _is_model(place)]
    return [classes[0]["task"] for classes in lists if len(classes) == 1]


def _place(out: Path, task: str) -> Path:
    return out / (re.sub(r"[^\w.-]+", "_", composed(task)).strip("._") or "task")


def _accuracies(plain: TaskScores, fitted: TaskScores) -> dict[str, Any]:
    return {
        "test_images": fitted.images,
        "zero_shot_accuracy": plain.accuracy if plain.tasks else None,
        "accuracy": fitted.accuracy if fitted.tasks else None,
    }


def _line(label: str, width: int, values: dict[str, float]) -> str:
    cells = [f"{100 * value:.1f} %".rjust(max(9, len(title))) for title, value in values.items()]
    return f"{label:{width}}  " + "  ".join(cells)
