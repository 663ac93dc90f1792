"""How a method is trained, as data: optimizer, schedule, epochs, batch, views, selection."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

__all__ = ["CROP_SCALE", "VIEWS", "Optimizer", "Recipe", "Schedule"]


@dataclass(frozen=True)
class Optimizer:
    """A torch optimizer and its constants. `adam` adds the decay to the gradient, `adamw` decouples it."""

    name: Literal["sgd", "adam", "adamw"]
    lr: float
    weight_decay: float = 0.0
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def over(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The optimizer over the parameters."""
        rate, decay = self.lr, self.weight_decay
        if self.name == "sgd":
            return torch.optim.SGD(parameters, lr=rate, momentum=self.momentum, weight_decay=decay)
        kind = torch.optim.Adam if self.name == "adam" else torch.optim.AdamW
        return kind(parameters, lr=rate, betas=self.betas, eps=self.eps, weight_decay=decay)


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a function of the epoch or step u from 0 (field.md, A.10).

    `warmup_lr` while u < `warmup`, then `final` + (lr - final) (1 + cos(pi (u - warmup) / period)) / 2, where the
    period is the whole planned length. A constant schedule is lr throughout.
    """

    name: Literal["cosine", "constant"] = "cosine"
    unit: Literal["epoch", "step"] = "epoch"
    warmup: int = 0
    warmup_lr: float = 0.0
    final: float = 0.0

    def rate(self, lr: float, u: int, period: int) -> float:
        """The learning rate of unit u.

        Example:
            >>> round(Schedule(warmup=1, warmup_lr=1e-5).rate(0.002, 1, 50), 6)
            0.002
        """
        if self.name == "constant":
            return lr
        if u < self.warmup:
            return self.warmup_lr
        return self.final + (lr - self.final) * (1 + math.cos(math.pi * (u - self.warmup) / period)) / 2


# The views that are drawn once are the same for all methods: what one has encoded, the next finds in the store.
VIEWS = 4
CROP_SCALE = (0.5, 1.0)  # area of their crops


@dataclass(frozen=True)
class Recipe:
    """One method's training.

    epochs: by number of shots, the entry of the largest key not above it. views: random views of each image, drawn
    once (0: the center view alone). crop_scale: area of the authors' crops, for new ones at every step.
    """

    optimizer: Optimizer
    schedule: Schedule = field(default_factory=Schedule)
    epochs: Mapping[int, int] = field(default_factory=lambda: {1: 50, 2: 100, 8: 200})
    batch: int = 32
    views: int = VIEWS
    crop_scale: tuple[float, float] = (0.08, 1.0)

    def epochs_for(self, shots: int) -> int:
        """Epochs for this many shots a class.

        Example:
            >>> Recipe(Optimizer("sgd", 0.002)).epochs_for(4)
            100
        """
        keys = [key for key in self.epochs if key <= shots]
        return self.epochs[max(keys) if keys else min(self.epochs)]
