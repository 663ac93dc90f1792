"""One fit of a method to some images, and how images are held out from it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from shotfit.data.shots import cross_validation, folds_of_sets
from shotfit.data.tasks import ClassList, Item, Task, joined
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.errors import DivergedError
from shotfit.fitting.epochs import Epochs
from shotfit.fitting.together import train_together
from shotfit.fitting.train import quality, train
from shotfit.methods import find
from shotfit.methods.base import Fold, Method, Support, Validation
from shotfit.methods.recipe import Recipe
from shotfit.methods.several_labels import offsets

__all__ = ["Fitter", "Setting", "Views", "held_out_by", "zero_shot"]

LOOKED_AT = 256  # support images that a training is described by
FOLDS = 4  # at most, for a cross-validation of the support images
TOGETHER = 2**24  # numbers that are learned side by side; with what Adam and a step keep, each takes some 60 bytes
Views = int | Literal["center", "fresh"]


@dataclass(frozen=True)
class Setting:
    """What stands in place of a recipe's own rate and length. steps: of `auto`, which counts no epochs."""

    lr: float | None = None
    epochs: int | None = None
    steps: int | None = None

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe at this setting."""
        if self.steps is not None:
            return recipe.in_steps(self.lr)
        return recipe if self.lr is None else replace(recipe, optimizer=replace(recipe.optimizer, lr=self.lr))


def zero_shot(frozen: Frozen, classes: Sequence[ClassList]) -> Method:
    """The zero-shot classifier of a class list."""
    method = find("zero_shot")()
    method.attach(frozen, classes)
    method.build(frozen, classes)
    method.bake()
    return method


@dataclass(frozen=True)
class Fitter:
    """What the fits of one call share."""

    frozen: Frozen
    classes: tuple[ClassList, ...]
    seed: int
    views: Views | None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of classes of each task."""
        return tuple(len(task.names) for task in self.classes)

    def fit(
        self,
        prototype: Method,
        items: Sequence[Item],
        validation: Validation,
        what: str,
        setting: Setting = Setting(),
        trainings: int = 0,
    ) -> Method:
        """A new method of the prototype's kind and options, fitted to the items.

        trainings: how many of the same length it is the first of, for the forecast.

        Raises DivergedError for a training whose numbers do not stay finite.
        """
        with torch.random.fork_rng(devices=[]):
            method, recipe, support = self._built(prototype, items, setting)
            if recipe is not None:
                epochs = setting.epochs or recipe.epochs_for(support.shots)
                length = setting.steps if setting.epochs else setting.steps or recipe.length_for(support.shots)
                generator = torch.Generator().manual_seed(self.seed)
                fresh = self.views == "fresh"
                before = self._right(method, support) if trainings else 0.0
                losses = train(method, support, recipe, epochs, generator, validation, fresh, what, trainings, length)
            with torch.no_grad():
                method.solve(support, validation)
                _set_offsets(method, support)
        method.requires_grad_(False)
        method.bake()
        if recipe is not None and trainings:
            steps = length or epochs * Epochs.of(recipe, support, self.sizes).steps
            method.course_of_training = {
                "steps": steps,
                "first_loss": losses[0],
                "last_loss": losses[-1],
                "right_before": before,
                "right_after": self._right(method, support),
                "right_zero_shot": self._right(zero_shot(self.frozen, self.classes), support),
                "looked_at": min(LOOKED_AT, len(items)),
            }
        if not all(tensor.isfinite().all() for tensor in method.state().values()):
            step = "choose a lower learning rate" if recipe is not None else "look at the images with `shotfit doctor`"
            raise DivergedError(f"{method.name} did not converge: what it learned is not finite; {step}.")
        return method

    def fit_together(
        self, prototypes: Sequence[Method], items: Sequence[Item], validation: Validation, settings: Sequence[Setting]
    ) -> Iterator[Method | None]:
        """As `fit` for several candidates of one kind, each for steps of its own; None for one that diverged.

        As many train side by side as TOGETHER allows; the methods come as soon as these are done.
        """
        waiting = deque(zip(prototypes, settings, strict=True))
        while waiting:
            methods: list[Method] = []
            recipes: list[Recipe] = []
            steps: list[int] = []
            with torch.random.fork_rng(devices=[]):
                while waiting and (not methods or (len(methods) + 1) * _learned_numbers(methods[0]) <= TOGETHER):
                    prototype, setting = waiting.popleft()
                    method, recipe, support = self._built(prototype, items, setting)
                    assert recipe is not None
                    methods.append(method)
                    recipes.append(recipe)
                    steps.append(setting.steps or 1)
                train_together(methods, recipes, steps, support, self.seed)
                with torch.no_grad():
                    for method in methods:
                        method.solve(support, validation)
                        _set_offsets(method, support)
            while methods:  # what was looked at is forgotten before the next is asked for
                method = methods.pop(0).requires_grad_(False)
                method.bake()
                yield method if all(value.isfinite().all() for value in method.state().values()) else None

    def _built(
        self, prototype: Method, items: Sequence[Item], setting: Setting
    ) -> tuple[Method, Recipe | None, Support]:
        """A new method of the prototype's kind and options, as its training begins, and what it is trained by and on.

        Draws from PyTorch's random numbers, which begin with the seed.
        """
        method = type(prototype)(**prototype.options())
        recipe = method.training_recipe()
        recipe = None if recipe is None else setting.of(recipe)
        method.attach(self.frozen, self.classes)
        if not method.options_to_find:  # else once they are found, for which images may have to be read
            method.check()
        support = self.support(items, recipe)
        if method.options_to_find:
            method.find_options(support)
            method.check()
        torch.manual_seed(self.seed)
        method.prepare(support)
        method.build(self.frozen, self.classes)
        return method, recipe, support

    def _right(self, method: Method, support: Support) -> float:
        """The share of support images that a method puts into their class, of LOOKED_AT at most; see `quality`."""
        some = torch.arange(len(support.labels))
        some = some[:: max(1, len(some) // LOOKED_AT)][:LOOKED_AT]
        return quality(method, support.center.take(some), support.labels[some])

    def support(self, items: Sequence[Item], recipe: Recipe | None) -> Support:
        """The items in the views that the recipe asks for."""
        center = self.pool(items)
        views = (recipe.views if recipe else 0) if self.views in (None, "fresh") else self.views
        count = 0 if views == "center" else int(views or 0)
        random = center.in_views(count) if count else center
        counts = center.labels.sum(dim=0) if self.sets else torch.bincount(center.labels)
        return Support(center, random, int(counts.max()))

    @property
    def sets(self) -> int:
        """The number of classes, where an image may have several labels; else 0."""
        return len(self.classes[0].names) if self.classes[0].several_labels else 0

    def pool(self, items: Sequence[Item]) -> ImagePool:
        """The items in their center views, with their labels as this task has them."""
        return ImagePool(items, sets=self.sets)

    def validation(self, tasks: Sequence[Task], support: Sequence[Item]) -> Validation:
        """What selection may judge by: the validation parts where every task has one, else folds of the support."""
        if all(task.val for task in tasks):
            pool = self.pool(joined([(task.classes, task.val) for task in tasks]))
            return Validation("validation part", (Fold(torch.arange(len(support)), pool.all(), pool.labels),))
        return self.folds(support)

    def folds(self, items: Sequence[Item]) -> Validation:
        """Stratified folds of the support, in whole groups; none where too few classes have a second image."""
        pool, folds, groups = self.pool(items), [], [item.group for item in items]
        if self.sets:
            held_out = folds_of_sets([item.strata for item in items], groups, FOLDS, self.seed)
        else:
            held_out = cross_validation(pool.labels.tolist(), groups, FOLDS, self.seed)
        for held in map(torch.tensor, held_out):
            learned = torch.ones(len(items), dtype=torch.bool).index_fill(0, held, False)
            folds.append(Fold(learned.nonzero().flatten(), pool.take(held), pool.labels[held]))
        return Validation("cross-validation" if folds else "none", tuple(folds))


@torch.no_grad()
def held_out_by(method: Method, fold: Fold) -> Tensor:
    """What a fitted method says of a fold's held images: logits [images, classes], float32.

    Of several labels with the offsets that it has by the images it learned from: where its logits begin is its own
    affair, and another fit's begin elsewhere.
    """
    logits = method.logits(fold.held).float().cpu()
    return logits if method.own_offsets is None else logits + method.own_offsets


def _set_offsets(method: Method, support: Support) -> None:
    if method.judges_alone:
        method.own_offsets = offsets(method.logits(support.center.all()).float().cpu(), support.labels)


def _learned_numbers(method: Method) -> int:
    return sum(parameter.numel() for parameter in method.parameters())
