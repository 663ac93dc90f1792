"""What the checks of the contract are made on: a method at work on a tiny backbone, and how results are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shotfit.data.tasks import Task
from shotfit.engine.frozen import Frozen, ImagePool, Images
from shotfit.engine.store import MemoryStore
from shotfit.methods.base import Method, Support, Validation
from shotfit.testing.tiny import of_sets, three_tasks, tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone
from shotfit.towers.layout import Savings

__all__ = ["Make", "Stage", "same", "some_savings", "surroundings"]

Make = Callable[[], Method]


@lru_cache(maxsize=4)
def surroundings(folder: Path) -> tuple[Task, Backbone]:
    return tiny_task(folder / "images"), tiny_backbone(folder / "backbone")


class Stage:
    """A method at work on a tiny backbone, in float64 unless said."""

    def __init__(
        self,
        make: Make,
        folder: Path,
        savings: Savings = Savings(),
        memory: int | None = None,
        dtype: torch.dtype = torch.float64,
        device: str = "cpu",
        several_labels: bool = False,
    ) -> None:
        self.task, backbone = surroundings(folder)
        self.task = of_sets(self.task) if several_labels else self.task
        self.backbone = deepcopy(backbone).to(device, dtype)
        self.frozen = Frozen(self.backbone, MemoryStore(), savings, memory)
        self.method = make()
        recipe = self.method.training_recipe()
        center = ImagePool(self.task.train, sets=len(self.task.classes.names) if several_labels else 0)
        views = center.in_views(recipe.views) if recipe and recipe.views else center
        self.support = Support(center, views, 4)
        classes = three_tasks(self.task) if self.method.several_tasks and not several_labels else (self.task.classes,)
        self.method.attach(self.frozen, classes)
        torch.manual_seed(0)
        self.method.prepare(self.support)
        self.method.build(self.frozen, classes)
        if recipe is None:
            self.method.solve(self.support, Validation("none", ()))

    def images(self) -> Images:
        return self.support.random.all()

    def outcome(self) -> list[Tensor]:
        """Logits, loss and gradients for all images."""
        images, labels = self.images(), self.support.labels.to(self.backbone.device)
        torch.manual_seed(0)  # a loss may draw
        tensors = [self.method.logits(images)]
        if self.method.training_recipe() is not None:
            loss = self.method.loss(images, labels)
            parameters = [p for group in self.method.parameter_groups() for p in group.parameters]
            tensors += [loss, *torch.autograd.grad(loss, parameters)]
        return [tensor.detach().cpu() for tensor in tensors]


def some_savings(combinations: int = 4) -> Iterator[Savings]:
    """All, each without and each alone, and random combinations."""
    names = [field.name for field in fields(Savings)]
    yield Savings()
    for name in names:
        yield Savings.without([name])
        yield replace(Savings.none(), **{name: True})
    for values in np.random.default_rng(0).integers(2, size=(combinations, len(names)), dtype=bool).tolist():
        yield Savings(*values)


def same(first: Sequence[Tensor], second: Sequence[Tensor], tolerance: float, what: str) -> None:
    for one, other in zip(first, second, strict=True):
        scale = max(float(one.abs().max()), 1e-30)
        error = float((one - other).abs().max()) / scale
        assert error <= tolerance, f"{what}: differs by {error:.1e} of the largest entry, allowed {tolerance:.0e}"
