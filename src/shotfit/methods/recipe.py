"""How a method is trained, as data: optimizer, schedule, epochs, batch, views; and what `auto` may choose of it."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

__all__ = ["VIEWS", "Axis", "Grid", "Optimizer", "ParameterGroup", "Recipe", "Schedule"]


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are trained at `rate` times the recipe's learning rate."""

    parameters: tuple[nn.Parameter, ...]
    rate: float = 1.0


@dataclass(frozen=True)
class Optimizer:
    """A torch optimizer and its constants. The decay is added to the gradient; `adamw` alone decouples it."""

    name: Literal["sgd", "adam", "adamw", "adadelta"]
    lr: float
    weight_decay: float = 0.0
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    rho: float = 0.9

    def over(self, groups: Iterable[ParameterGroup]) -> torch.optim.Optimizer:
        """The optimizer over groups of parameters; each group keeps its `rate` for schedules.

        Fused, where torch has it: one pass over a parameter in place of one for each operation.
        """
        lr, decay, groups = self.lr, self.weight_decay, list(groups)
        fused = all(one.device.type in ("cpu", "cuda") for group in groups for one in group.parameters)
        given = [{"params": list(group.parameters), "lr": lr * group.rate, "rate": group.rate} for group in groups]
        kind = _plain(_OPTIMIZERS[self.name])
        if self.name == "sgd":
            return kind(given, lr=lr, momentum=self.momentum, weight_decay=decay, fused=fused)
        if self.name == "adadelta":
            return kind(given, lr=lr, rho=self.rho, eps=self.eps, weight_decay=decay)
        return kind(given, lr=lr, betas=self.betas, eps=self.eps, weight_decay=decay, fused=fused)


_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adadelta": torch.optim.Adadelta,
}


def _plain(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """A torch optimizer of which nothing imports torch's compiler.

    Torch wraps these methods to hide them from the compiler, and what they are wrapped in imports it: 1.4 s that every
    command which trains would wait for. Nothing is compiled here.
    """
    bare = {name: inspect.unwrap(getattr(kind, name)) for name in ("add_param_group", "zero_grad", "step")}
    return type(kind.__name__, (kind,), bare | {"step": torch.no_grad()(bare["step"])})


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a function of the epoch or step u from 0.

    While u < `warmup`: `warmup_lr`, or with linear `warming` lr u / warmup from the second unit on. Then
    `final` + (lr - final) (1 + cos(pi (u - warmup) / period)) / 2, where the period is the whole planned length. A
    constant schedule is lr throughout. An epoch or step counts as `stride` units. period: another than the planned
    length, after which the rate rises again.
    """

    name: Literal["cosine", "constant"] = "cosine"
    unit: Literal["epoch", "step"] = "epoch"
    warmup: int = 0
    warmup_lr: float = 0.0
    final: float = 0.0
    warming: Literal["constant", "linear"] = "constant"
    stride: int = 1
    period: int = 0

    def rate(self, lr: float, u: int, period: int) -> float:
        """The learning rate of epoch or step u.

        Example:
            >>> round(Schedule(warmup=1, warmup_lr=1e-5).rate(0.002, 1, 50), 6)
            0.002
        """
        if self.name == "constant":
            return lr
        u, period = u * self.stride, self.period or period
        if u < self.warmup:
            return self.warmup_lr if u == 0 or self.warming == "constant" else lr * u / self.warmup
        return self.final + (lr - self.final) * (1 + math.cos(math.pi * (u - self.warmup) / period)) / 2


# The views that are drawn once are the same for all methods: what one has encoded, the next finds in the store.
VIEWS = 4


@dataclass(frozen=True)
class Recipe:
    """One method's training.

    epochs: by number of shots, the entry of the largest key not above it. views: random views of each image, drawn
    once (0: the center view alone). crop_scale: area of the authors' crops, for new ones at every step. updates: how
    often the optimizer steps on the gradient of a batch. steps_per_shot: of a program that counts steps, in place of
    epochs: so many for each image of a class. keep_last: an epoch ends with a batch of what is left, where others leave
    it out. best_epoch: keep the parameters of the first epoch (`latest`: the last) that is best on the validation part,
    where there is one; else the last epoch's. replayable: every step runs the same
    operations on tensors of the same shapes, and draws nothing, so that a GPU may replay a recording (`replay.py`).
    tasks_per_batch: how many tasks the images of a batch come from at most (0: as many as chance gives). average: keep
    the mean of the parameters after each epoch, weighted by a Gaussian of the epoch, whose mean and deviation are given
    as shares of the training's length.
    """

    optimizer: Optimizer
    schedule: Schedule = field(default_factory=Schedule)
    epochs: Mapping[int, int] = field(default_factory=lambda: {1: 50, 2: 100, 8: 200})
    batch: int = 32
    views: int = VIEWS
    crop_scale: tuple[float, float] = (0.08, 1.0)
    updates: int = 1
    keep_last: bool = False
    best_epoch: bool = False
    latest: bool = False
    replayable: bool = False
    tasks_per_batch: int = 0
    steps_per_shot: float = 0
    average: tuple[float, float] | None = None

    def length_for(self, shots: int) -> int | None:
        """The length in steps for this many shots a class, at least one; None where it is counted in epochs."""
        return max(1, int(self.steps_per_shot * shots)) if self.steps_per_shot else None

    def average_weights(self, epochs: int) -> list[float]:
        """The weight of each epoch's parameters in what is kept, of sum 1; the last one's alone without `average`.

        Example:
            >>> [round(own, 3) for own in Recipe(Optimizer("sgd", 0.002), average=(0.75, 0.25)).average_weights(4)]
            [0.058, 0.258, 0.426, 0.258]
        """
        if self.average is None:
            return [0.0] * (epochs - 1) + [1.0]
        at, width = (share * epochs for share in self.average)
        exponents = [-((epoch - at) ** 2) / (2 * width**2) for epoch in range(1, epochs + 1)]
        own = [math.exp(exponent - max(exponents)) for exponent in exponents]
        return [weight / sum(own) for weight in own]

    def epochs_for(self, shots: int) -> int:
        """Epochs for this many shots a class.

        Example:
            >>> Recipe(Optimizer("sgd", 0.002)).epochs_for(4)
            100
        """
        keys = [key for key in self.epochs if key <= shots]
        return self.epochs[max(keys) if keys else min(self.epochs)]

    def steps_for(self, images: int) -> int:
        """Steps of an epoch of so many images."""
        batch = min(self.batch, images)
        return math.ceil(images / batch) if self.keep_last else images // batch

    def in_steps(self, lr: float | None) -> Recipe:
        """The recipe that `auto` trains with: a cosine by step behind a short linear rise, whatever the length.

        The papers' schedules count epochs, and so do nothing sensible in the few steps of a small folder. lr: in place
        of the recipe's.
        """
        optimizer = self.optimizer if lr is None else replace(self.optimizer, lr=lr)
        schedule = Schedule("cosine", unit="step", warmup=RISE, warming="linear")
        return replace(self, optimizer=optimizer, schedule=schedule, best_epoch=False)


RISE = 5  # steps in which the rate of `auto` rises


@dataclass(frozen=True)
class Axis:
    """One thing that `auto` chooses for a method, and why it is worth choosing.

    name: "lr", "steps" or an option. values: the one nearest the paper's first.
    """

    name: str
    values: tuple[Any, ...]
    reason: str


@dataclass(frozen=True)
class Grid:
    """What `auto` chooses from: every combination of the axes' values.

    robust: the values that hold where no image can be held out to choose by. together: a step looks at stored features
    alone, so that the candidates train as one batch.
    """

    axes: tuple[Axis, ...]
    robust: Mapping[str, Any]
    together: bool = False

    def without(self, names: Collection[str]) -> Grid:
        """The grid of what is not fixed already."""
        axes = tuple(axis for axis in self.axes if axis.name not in names)
        return Grid(axes, {name: value for name, value in self.robust.items() if name not in names}, self.together)

    def points(self) -> list[dict[str, Any]]:
        """Every combination, those nearest the paper's first.

        Example:
            >>> Grid((Axis("lr", (1, 4), ""), Axis("steps", (100, 400), "")), {}).points()[:2]
            [{'lr': 1, 'steps': 100}, {'lr': 1, 'steps': 400}]
        """
        ranked = itertools.product(*(enumerate(axis.values) for axis in self.axes))
        ordered = sorted(ranked, key=lambda point: sum(rank for rank, _ in point))
        names = [axis.name for axis in self.axes]
        return [dict(zip(names, (value for _, value in point), strict=True)) for point in ordered]
