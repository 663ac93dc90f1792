"""The training loop of all methods: batches of views, the recipe's optimizer and schedule."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shotfit.data.images import image_size
from shotfit.data.views import draw_box
from shotfit.frozen import Frozen, Images
from shotfit.methods.base import Method, Support, Validation
from shotfit.numbering import among_own
from shotfit.progress import track
from shotfit.reading import cut, read_ahead
from shotfit.recipe import Recipe

__all__ = ["Stepper", "correct", "hits", "train"]


class Stepper:
    """A recipe at work on a method: each call is one batch.

    epochs, steps: the planned length and the batches of an epoch, which the schedule counts by.
    """

    def __init__(self, method: Method, recipe: Recipe, epochs: int, steps: int) -> None:
        self.method, self.recipe, self.epochs, self.steps = method, recipe, epochs, steps
        self.optimizer = recipe.optimizer.over(method.parameter_groups())
        self.taken = 0

    def __call__(self, images: Images, labels: Tensor) -> Tensor:
        """Take a step on a batch; gives the loss before it, []."""
        rate = self.rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        loss = self.method.loss(images, labels)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.method.adjust_gradients()
        for _ in range(self.recipe.updates):
            self.optimizer.step()
        self.taken += 1
        return loss.detach()

    def rate(self) -> float:
        """The learning rate of the next step, for a group of rate 1."""
        schedule = self.recipe.schedule
        u, period = self.taken, self.epochs * self.steps
        if schedule.unit == "epoch":
            u, period = u // self.steps, self.epochs
        return schedule.rate(self.recipe.optimizer.lr, u, period)


def train(
    method: Method,
    support: Support,
    recipe: Recipe,
    epochs: int,
    generator: torch.Generator,
    validation: Validation | None = None,
    fresh: bool = False,
) -> list[float]:
    """Train in shuffled batches, and give each epoch's mean loss.

    The last batch of an epoch is dropped if it is not full, unless it is the only one or the recipe keeps it. fresh:
    new random crops at every step. validation: what a recipe with `best_epoch` chooses the epoch by.
    """
    images, batch = len(support.labels), min(recipe.batch, len(support.labels))
    labels = support.labels.to(method.frozen.backbone.device)
    stepper = Stepper(method, recipe, epochs, math.ceil(images / batch) if recipe.keep_last else images // batch)
    judge = validation if recipe.best_epoch and validation and validation.source == "validation part" else None
    history, best, kept = [], -1, method.state_dict()
    for _ in track(range(epochs), f"Training {method.name}"):
        order, total = torch.randperm(images, generator=generator), torch.zeros((), device=labels.device)
        for step in range(stepper.steps):
            chosen = order[step * batch : (step + 1) * batch]
            total += stepper(_draw(method.frozen, support, recipe, chosen, generator, fresh), labels[chosen])
        history.append(total / stepper.steps)
        right = correct(method, judge.folds[0].held, judge.folds[0].labels) if judge else 0
        if judge and right > best:
            best, kept = right, {name: value.clone() for name, value in method.state_dict().items()}
    if judge:
        method.load_state_dict(kept)
    return [float(value) for value in history]


@torch.no_grad()
def correct(method: Method, images: Images, labels: Tensor) -> int:
    """How many of the images the method puts into their class."""
    return int(hits(method, images, labels).sum())


@torch.no_grad()
def hits(method: Method, images: Images, labels: Tensor) -> Tensor:
    """Whether the method puts each image into its class, among the classes of its task: [images]."""
    logits = method.logits(images).cpu()
    return among_own(logits, labels, method.sizes).argmax(dim=-1) == labels


def _draw(
    frozen: Frozen, support: Support, recipe: Recipe, chosen: Tensor, generator: torch.Generator, fresh: bool
) -> Images:
    """A batch: one of the stored random views of each image, or a new random crop."""
    pool = support.random
    if not fresh:
        views = torch.randint(max(pool.views, 1), (len(chosen),), generator=generator)
        return pool.take(chosen, views)
    rule, reduced = frozen.backbone.config.preprocessing, frozen.savings.reduced_images
    drawn = []
    for path in (pool.paths[index] for index in chosen.tolist()):
        size = image_size(path)
        drawn.append((path, size, [draw_box(*size, recipe.crop_scale, generator)]))
    (found,) = read_ahead([drawn], lambda view: cut(*view, rule, reduced))
    return Images.of(torch.stack([pixels for (pixels,) in found]).to(frozen.backbone.dtype))
