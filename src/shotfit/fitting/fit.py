"""Fit a method to a task, and check the fit against zero-shot without a test image.

    model = shotfit.fit("photos/", method="tip_adapter_f", shots=16)
    model = shotfit.fit("tasks.toml", method="softcpt", shots=4)            # several tasks at once

What a method receives has no test part. Whether the fitted model is better than zero-shot is judged on the validation
part, or by cross-validation of the support images; where it is not, zero-shot is what the user gets, in plain words,
unless he keeps the fit. Of several tasks, the mean over the tasks is what is judged.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor

from shotfit.checkpoints.weights import load_in
from shotfit.data.reading import Reading
from shotfit.data.shots import deal
from shotfit.data.tasklist import check_names
from shotfit.data.tasks import ClassList, Item, Task, joined
from shotfit.engine.allocator import kept_memory
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.store import MemoryStore, Store, cache_folder
from shotfit.errors import DivergedError, ShotfitError, UsageError
from shotfit.fitting.heldout import HeldOut, frozen_features, held_logits, held_out, joined_folds
from shotfit.fitting.model import Model, record_of
from shotfit.fitting.train import right_of, train
from shotfit.fitting.trust import trust_of
from shotfit.methods import find
from shotfit.methods.base import Fold, Method, Support, Validation, check_prompts
from shotfit.methods.numbering import tasks_of
from shotfit.methods.recipe import Recipe
from shotfit.towers.backbone import Backbone
from shotfit.towers.layout import Savings
from shotfit.towers.precision import Precision

__all__ = ["check_numbers", "fit", "zero_shot"]

FOLDS = 4  # at most, for a cross-validation of the support images
MOST_VIEWS = 1000  # of an image
Views = int | Literal["center", "fresh"]


@kept_memory()
def fit(
    data: Task | str | Path | Sequence[Task],
    method: str | Method = "tip_adapter_f",
    *,
    shots: int | None = 16,
    seed: int = 1,
    backbone: str | Backbone = "mini",
    options: Mapping[str, str] | None = None,
    templates: Sequence[str] = (),
    epochs: int | None = None,
    lr: float | None = None,
    views: Views | None = None,
    validation: Literal["few", "full"] = "few",
    check: bool = True,
    keep: bool = False,
    store: Store | MemoryStore | None = None,
    memory: int | None = None,
    skip_broken: bool = False,
    precision: Precision = "auto",
    savings: Savings = Savings(),
) -> Model:
    """Fit a method to the images of a task, or of several at once, and give back the fitted model.

    data: anything `read_task` reads or a task list (.toml), of which the doctor sees everything first; or a task or
    tasks, which are taken as they are. Test parts are not touched. skip_broken: leave out the files of a path that
    cannot be read.
    shots: images a class, drawn from each task's training part by CoOp's rule, as if it stood alone (None: all).
    epochs, lr: in place of the recipe's. views: random views of each image, "center" for the center view alone, "fresh"
    for new random crops at every step. validation: "few" selects on at most four images a class of a validation part,
    by CoOp's rule, "full" on all of them. check: compare with zero-shot on the validation part or by cross-validation;
    a worse fit is replaced by zero-shot unless `keep`. memory: bytes for the activations of a training step. precision:
    in which the towers compute; "auto" is the one that the processor is fast at, or that of a backbone that is given.
    A backbone that is named runs on a GPU if there is one; one that is given, where it is. savings: which are in use;
    without an exact one the time alone changes.

    Raises ShotfitError or UsageError, in one sentence, for data, options or a backbone that cannot be used, and
    DivergedError for a training whose numbers do not stay finite.

    Example (needs images):
        model = fit("examples/clipart", shots=4)
        model.predict("drawing.png")[0].labels
    """
    started = time.perf_counter()
    prototype = _prototype(method, options or {})
    check_numbers(prototype, shots, seed, epochs, lr, views)
    store = Store(cache_folder() / "streams") if store is None else store
    tasks = [task.support(shots or None, seed, validation) for task in _tasks(data, templates, skip_broken)]
    classes = tuple(task.classes for task in tasks)
    for task in tasks:
        if not task.train:
            raise ShotfitError(f"{task.name} has no train images to fit to: name a folder or manifest that has some.")
    loaded = load_in(backbone, precision)
    check_prompts(loaded, classes)
    frozen = Frozen(loaded, store, savings, memory)
    fitting = _Fitting(frozen, classes, seed, epochs, views, lr)
    support = joined([(task.classes, task.train) for task in tasks])
    selection = replace(fitting.validation(tasks, support), full=validation == "full")
    learns = prototype.name != "zero_shot"
    check, all_held_out = check and learns, check and not learns
    again = len(selection.folds) if check and selection.source == "cross-validation" else 0
    fitted = fitting.fit(prototype, support, selection, f"Fitting {prototype.name}", trainings=1 + again)
    checked, ours, theirs = fitting.compare(prototype, support, selection, fitted) if check else ({}, None, None)
    worse = bool(checked) and checked["accuracy"] < checked["zero_shot_accuracy"]
    result, held = (zero_shot(frozen, classes), theirs) if worse and not keep else (fitted, ours)
    if all_held_out:
        held = held_out(fitted, support, "the support images, which zero-shot does not learn from")
    trust = None if held is None else trust_of(held, result.sizes)
    record = record_of(result, loaded) | {
        "fitted_method": prototype.name,
        "shots": shots,
        "seed": seed,
        "support_images": len(support),
        "selection": fitted.selection(selection),
        "checked": checked,
        "fell_back": worse and not keep,
        "trust": {} if trust is None else trust.summary,
        "seconds": round(time.perf_counter() - started, 3),
    }
    return Model(result, frozen, record, trust=trust)


def check_numbers(
    method: Method, shots: int | None, seed: int, epochs: int | None, lr: float | None, views: Views | None
) -> None:
    """Refuse numbers that `fit` cannot use, before anything is read.

    Raises UsageError.
    """
    _check_count("shots", shots, 0)
    _check_count("seed", seed, 0)
    _check_count("epochs", epochs, 1)
    if views not in ("center", "fresh"):
        _check_count("views", views, 0, MOST_VIEWS, ", center or fresh")
    if lr is not None and not 0 < lr < math.inf:
        raise UsageError(f"The learning rate must be a number above 0, but is {lr:g}.")
    for name, value in (("epochs", epochs), ("lr", lr)):
        if value is not None and method.training_recipe() is None:
            raise UsageError(f"{name} is given, but {method.name} takes no gradient steps: leave it out.")


def _check_count(name: str, count: object, least: int, most: int = 2**32 - 1, words: str = "") -> None:
    """Refuse what is no count; numpy's seeds, and so all counts, have 32 bits."""
    if count is not None and not (isinstance(count, int) and least <= count <= most):
        raise UsageError(f"{name} is {count!r}; expected a whole number from {least} to {most:,}{words}.")


def zero_shot(frozen: Frozen, classes: Sequence[ClassList]) -> Method:
    """The zero-shot classifier of a class list."""
    method = find("zero_shot")()
    method.attach(frozen, classes)
    method.build(frozen, classes)
    method.bake()
    return method


def _tasks(data: Task | str | Path | Sequence[Task], templates: Sequence[str], skip_broken: bool) -> Sequence[Task]:
    if isinstance(templates, str):
        raise UsageError(f"templates is the text {templates!r}; expected a list of templates: [{templates!r}].")
    if templates and (not isinstance(data, (str, Path)) or Path(data).suffix == ".toml"):
        raise UsageError("Templates go with a path to a task's images; a task, and a task list, have their own.")
    if isinstance(data, (str, Path)):
        return Reading(templates=templates, skip_broken=skip_broken).tasks(Path(data), cache_folder())
    tasks = [data] if isinstance(data, Task) else data
    check_names(tasks)
    return tasks


def _prototype(method: str | Method, options: Mapping[str, str]) -> Method:
    if isinstance(method, Method):
        if options:
            raise UsageError("Give options either to the method object or as `options`, not both.")
        return method
    return find(method).with_options(options)


@dataclass(frozen=True)
class _Fitting:
    """What the fits of one call share."""

    frozen: Frozen
    classes: tuple[ClassList, ...]
    seed: int
    epochs: int | None
    views: Views | None
    lr: float | None

    def fit(
        self, prototype: Method, items: Sequence[Item], validation: Validation, what: str, trainings: int = 0
    ) -> Method:
        """A new method of the prototype's kind and options, fitted to the items.

        trainings: how many of the same length it is the first of, for the forecast.
        """
        method = type(prototype)(**prototype.options())
        recipe = self.recipe(method)
        method.attach(self.frozen, self.classes)
        method.check()
        support = self.support(items, recipe)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            method.prepare(support)
            method.build(self.frozen, self.classes)
            if recipe is not None:
                epochs = self.epochs or recipe.epochs_for(support.shots)
                generator = torch.Generator().manual_seed(self.seed)
                fresh = self.views == "fresh"
                train(method, support, recipe, epochs, generator, validation, fresh, what, trainings)
            with torch.no_grad():
                method.solve(support, validation)
        method.requires_grad_(False)
        method.bake()
        if not all(tensor.isfinite().all() for tensor in method.state().values()):
            step = "choose a lower learning rate" if recipe is not None else "look at the images with `shotfit doctor`"
            raise DivergedError(f"{method.name} did not converge: what it learned is not finite; {step}.")
        return method

    def recipe(self, method: Method) -> Recipe | None:
        """The method's recipe at the learning rate that was asked for."""
        recipe = method.training_recipe()
        if recipe is None or self.lr is None:
            return recipe
        return replace(recipe, optimizer=replace(recipe.optimizer, lr=self.lr))

    def support(self, items: Sequence[Item], recipe: Recipe | None) -> Support:
        """The items in the views that the recipe asks for."""
        center = ImagePool(items)
        views = (recipe.views if recipe else 0) if self.views in (None, "fresh") else self.views
        count = 0 if views == "center" else int(views or 0)
        random = ImagePool(items, count) if count else center
        return Support(center, random, int(torch.bincount(center.labels).max()))

    def validation(self, tasks: Sequence[Task], support: Sequence[Item]) -> Validation:
        """What selection may judge by: the validation parts where every task has one, else folds of the support."""
        if all(task.val for task in tasks):
            pool = ImagePool(joined([(task.classes, task.val) for task in tasks]))
            return Validation("validation part", (Fold(torch.arange(len(support)), pool.all(), pool.labels),))
        return self.folds(support)

    def folds(self, items: Sequence[Item]) -> Validation:
        """Stratified folds of the support; none where a class has a single image."""
        pool = ImagePool(items)
        fewest = int(torch.bincount(pool.labels)[pool.labels.unique()].min())
        if fewest < 2:
            return Validation("none", ())
        dealt = torch.tensor(deal(pool.labels.tolist(), min(FOLDS, fewest), self.seed))  # [images]
        folds = []
        for number in range(min(FOLDS, fewest)):
            held = (dealt == number).nonzero().flatten()
            folds.append(Fold((dealt != number).nonzero().flatten(), pool.take(held), pool.labels[held]))
        return Validation("cross-validation", tuple(folds))

    def compare(
        self, prototype: Method, items: Sequence[Item], validation: Validation, fitted: Method
    ) -> tuple[dict[str, Any], HeldOut | None, HeldOut | None]:
        """Accuracy of the fit and of zero-shot on what neither was fitted to; empty where nothing can be held out.

        Of several tasks, images are judged among the classes of their own, and the accuracies are means over the tasks.
        With it, the held-out logits of both: none of a fit that diverged on a fold.
        """
        reference = zero_shot(self.frozen, self.classes)
        labels, features, ours_of, theirs_of = [], [], [], []  # of each fold
        for fold, method in self._judged(prototype, items, validation, fitted):
            labels.append(fold.labels)
            features.append(frozen_features(self.frozen, fold.held))
            ours_of.append(None if method is None else held_logits(method, fold.held))
            theirs_of.append(held_logits(reference, fold.held))
        if not labels:
            return {}, None, None
        ours_held, theirs_held = (
            joined_folds(found, labels, features, validation.description) for found in (ours_of, theirs_of)
        )
        right, plain = (
            [
                torch.zeros(len(own), dtype=torch.bool) if logits is None else right_of(logits, own, reference.sizes)
                for logits, own in zip(found, labels, strict=True)
            ]
            for found in (ours_of, theirs_of)
        )
        task = tasks_of(torch.cat(labels), reference.sizes)  # [images]
        ours, theirs = (_means(torch.cat(found), task) for found in (right, plain))
        checked: dict[str, Any] = {
            "on": validation.description,
            "images": len(task),
            "accuracy": fmean(ours),
            "zero_shot_accuracy": fmean(theirs),
        }
        if len(self.classes) > 1:
            checked["tasks"] = {
                classes.task: {"accuracy": one, "zero_shot_accuracy": other}
                for classes, one, other in zip(self.classes, ours, theirs, strict=True)
            }
        return checked, ours_held, theirs_held

    def _judged(
        self, prototype: Method, items: Sequence[Item], validation: Validation, fitted: Method
    ) -> Iterator[tuple[Fold, Method | None]]:
        """Each fold with what was fitted to the rest; None where that diverged."""
        if validation.source == "validation part":
            yield validation.folds[0], fitted
            return
        prototype = type(prototype)(**prototype.options() | fitted.chosen())
        for number, fold in enumerate(validation.folds, start=1):
            part = [items[index] for index in fold.train.tolist()]
            what = f"Checking, fold {number} of {len(validation.folds)}"
            try:
                yield fold, self.fit(prototype, part, self.folds(part), what)
            except DivergedError:
                yield fold, None


def _means(right: Tensor, task: Tensor) -> list[float]:
    """The share of images that are right, of each task; every task has some."""
    return [float(right[task == number].double().mean()) for number in range(int(task.max()) + 1)]
