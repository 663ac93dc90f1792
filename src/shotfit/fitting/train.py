"""The training loop of all methods: batches of views, the recipe's optimizer and schedule."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from shotfit.data.images import image_size
from shotfit.data.pictures import Picture
from shotfit.data.views import Box, draw_box
from shotfit.engine import ranks
from shotfit.engine.allocator import peak_memory
from shotfit.engine.decoding import cut, read_ahead
from shotfit.engine.frozen import Frozen, Images
from shotfit.fitting.epochs import Epochs
from shotfit.fitting.replay import Replay
from shotfit.methods.base import Method, Support, Validation
from shotfit.methods.numbering import MANY, among_own, labels_among, parts_of, shown_in, step_labels
from shotfit.methods.recipe import Recipe
from shotfit.methods.several_labels import are_sets, mean_average_precision
from shotfit.progress import lasting, say, track

__all__ = ["Average", "Forecast", "Stepper", "drawn_batches", "hits", "quality", "quality_of", "right_of", "train"]

SHORT = 10  # steps of a training that is not worth a recording
LONG = 20.0  # seconds from which on a forecast is worth a line


class Stepper:
    """A recipe at work on a method: each call is one batch.

    epochs, steps: the planned length and the batches of an epoch, which the schedule counts by. planned: all steps,
    where the last epoch is not a whole one.
    """

    def __init__(self, method: Method, recipe: Recipe, epochs: int, steps: int, planned: int | None = None) -> None:
        self.method, self.recipe, self.epochs, self.steps = method, recipe, epochs, steps
        self.planned = epochs * steps if planned is None else planned
        self.optimizer = recipe.optimizer.over(method.parameter_groups())
        self.replay: Replay | None = None
        self.taken = 0

    def __call__(self, images: Images, labels: Tensor) -> Tensor:
        """Take a step on a batch; gives the loss before it, []."""
        rate = self.rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        loss = self._gradients(images, labels) if ranks.world() == 1 else self._shared_out(images, labels)
        self.method.adjust_gradients()
        for _ in range(self.recipe.updates):
            self.optimizer.step()
        self.taken += 1
        return loss

    def _gradients(self, images: Images, labels: Tensor) -> Tensor:
        """Set the parameters' gradients, and give the loss, []: on a GPU from a recording, once streams are read."""
        frozen, worth = self.method.frozen, self.recipe.replayable and self.planned > SHORT
        worth = worth and not self.method.leaves_out_absent(len(labels))  # a step that is another for each batch
        if self.taken == 1 and worth and frozen.savings.replayed and frozen.resident(images):
            parameters = [one for group in self.optimizer.param_groups for one in group["params"]]
            self.replay = Replay(self.method, parameters, images, labels)
        if self.replay is not None and self.replay.fits(images, labels):
            return self.replay(images, labels)
        loss = self.method.loss(images, labels)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        return loss.detach()

    def _shared_out(self, images: Images, labels: Tensor) -> Tensor:
        """The same where several processes train together, each with its share of the batch."""
        weight = 1 / ranks.world()
        if self.method.takes_shares():
            mine, weight = ranks.share(len(images)), ranks.weight(len(images))
            images, labels = Images(images.pool, images.rows[mine]), labels[mine]
        self.optimizer.zero_grad()
        with ranks.stepping():
            loss = weight * self.method.loss(images, labels)
            torch.autograd.backward(loss)
        parameters = [one for group in self.optimizer.param_groups for one in group["params"]]
        return ranks.sum_gradients(parameters, loss.detach().clone())

    def rate(self) -> float:
        """The learning rate of the next step, for a group of rate 1."""
        schedule = self.recipe.schedule
        u, period = self.taken, self.planned
        if schedule.unit == "epoch":
            u, period = u // self.steps, self.epochs
        return schedule.rate(self.recipe.optimizer.lr, u, period)


class Average:
    """The mean of a method's parameters over the ends of epochs, by the recipe's weights: one running sum."""

    def __init__(self, method: Method, recipe: Recipe, epochs: int) -> None:
        self.parameters, self.weights = [*method.parameters()], recipe.average_weights(epochs)
        self.sums = [torch.zeros_like(one) for one in self.parameters]
        self.taken = 0

    @torch.no_grad()
    def add(self) -> None:
        """An epoch has ended."""
        for total, parameter in zip(self.sums, self.parameters, strict=True):
            total.add_(parameter, alpha=self.weights[self.taken])
        self.taken += 1

    @torch.no_grad()
    def keep(self) -> None:
        """All epochs have ended: the mean takes the parameters' place."""
        for total, parameter in zip(self.sums, self.parameters, strict=True):
            parameter.copy_(total)


class Forecast:
    """Says on standard error how long a training takes and what memory, once its third step is done, if it is long.

    The first step reads streams and warms up, so that the next two are the measure. trainings: how many of the same
    length follow one another, the first of them announcing all.
    """

    def __init__(self, what: str, steps: int, device: torch.device, trainings: int = 1) -> None:
        self.what, self.steps, self.device, self.trainings = what, steps, device, trainings
        self.taken, self.began = 0, 0.0

    def step(self) -> None:
        """A step is done."""
        self.taken += 1
        if self.taken not in (1, 3):
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if self.taken == 1:
            self.began = time.perf_counter()
            return
        seconds = (time.perf_counter() - self.began) / 2 * (self.steps - 3 + (self.trainings - 1) * self.steps)
        if seconds > LONG:
            say(self.line(seconds))

    def line(self, seconds: float) -> str:
        """The sentence."""
        checks = "" if self.trainings == 1 else f" and {self.trainings - 1} more such fits to check it"
        memory = peak_memory(self.device)
        taking = "" if memory is None else f", {memory / 1e9:.1f} GB of memory"
        return f"{self.what}: about {lasting(seconds)} for {self.steps:,} steps{checks}{taking}"


def train(
    method: Method,
    support: Support,
    recipe: Recipe,
    epochs: int,
    generator: torch.Generator,
    validation: Validation | None = None,
    fresh: bool = False,
    what: str | None = None,
    trainings: int = 1,
    steps: int | None = None,
) -> list[float]:
    """Train in shuffled batches, and give each epoch's mean loss.

    The last batch of an epoch is dropped if it is not full, unless it is the only one or the recipe keeps it. fresh:
    new random crops at every step. validation: what a recipe with `best_epoch` chooses the epoch by. what: how
    progress is called. trainings: of the same length, this one the first, for the forecast; 0 makes none.

    steps: end after so many, wherever the epoch is then; `epochs` is not looked at.

    Order and views of an epoch are drawn and moved to the device together, and losses are read at the end: on a GPU no
    step waits.
    """
    device, what = method.frozen.backbone.device, what or f"Training {method.name}"
    sampler = Epochs.of(recipe, support, method.sizes)
    labels, each = support.labels, sampler.steps
    if device.type == "cuda" and not method.leaves_out_absent(sampler.batch):
        labels = step_labels(labels, method.sizes)  # what a recording is given
    labels = labels.to(device)
    epochs = epochs if steps is None else math.ceil(steps / each)
    if ranks.world() > 1 and trainings and not method.takes_shares():
        say(f"note: {method.name} looks at a batch as a whole, so that every process takes all of its images.")
    stepper = Stepper(method, recipe, epochs, each, steps)
    judge = validation if recipe.best_epoch and validation and validation.source == "validation part" else None
    history, best, kept = [], -1.0, method.state_dict()
    average = Average(method, recipe, epochs) if recipe.average else None
    forecast = Forecast(what, stepper.planned, device, trainings) if trainings else None
    for _ in track(range(epochs), what):
        left = min(each, stepper.planned - stepper.taken)
        chosen = sampler.drawn(generator, left)
        total = torch.zeros((), dtype=torch.double, device=device)
        targets = labels.index_select(0, torch.cat(chosen).to(device)).split([len(some) for some in chosen])
        batches: Iterable[Images] = (
            _crops(method.frozen, support, recipe, chosen, generator)
            if fresh
            else _views(support, chosen, generator, device)
        )
        for drawn, target in zip(batches, targets, strict=True):
            total += stepper(drawn, target)
            if forecast is not None:
                forecast.step()
        history.append(total / left)
        if average is not None:
            average.add()
        right = quality(method, judge.folds[0].held, judge.folds[0].labels) if judge else 0.0
        if judge and (right > best or (recipe.latest and right == best)):
            best, kept = right, {name: value.clone() for name, value in method.state_dict().items()}
    if judge:
        method.load_state_dict(kept)
    if average is not None:
        average.keep()
    ranks.agree([*method.parameters()])
    return [float(value) for value in history]


@torch.no_grad()
def quality(method: Method, images: Images, labels: Tensor) -> float:
    """The share of the images that the method puts into their class, or of sets their mean average precision."""
    if are_sets(labels):
        return mean_average_precision(method.logits(images).cpu(), labels)
    return float(hits(method, images, labels).double().mean())


def quality_of(logits: Tensor, labels: Tensor, sizes: Sequence[int]) -> float:
    """The same of logits [images, classes]."""
    if are_sets(labels):
        return mean_average_precision(logits, labels)
    return float(right_of(logits, labels, sizes).double().mean())


@torch.no_grad()
def hits(method: Method, images: Images, labels: Tensor) -> Tensor:
    """Whether the method puts each image into its class, among the classes of its task: [images].

    Of many tasks those that the images show are looked at, a few at a time.
    """
    sizes = method.sizes
    if len(sizes) < MANY or not method.knows_tasks:
        return right_of(method.logits(images).cpu(), labels, sizes)
    shown, right = shown_in(labels, sizes), torch.zeros(len(labels), dtype=torch.bool)
    for part in parts_of([sizes[task] for task in shown]):
        tasks = [shown[number] for number in part]
        within = labels_among(labels, sizes, tasks)  # [images, tasks of the part]
        own = (within >= 0).any(dim=1)
        counts = torch.tensor([sizes[task] for task in tasks])
        numbered = (within + counts.cumsum(0) - counts)[own].where(within[own] >= 0, -1).amax(dim=1)
        logits = method.task_logits(Images(images.pool, images.rows[own.to(images.rows.device)]), tasks).cpu()
        right[own] = right_of(logits, numbered, counts.tolist())
    return right


def right_of(logits: Tensor, labels: Tensor, sizes: Sequence[int]) -> Tensor:
    """Whether logits [images, classes] put each image into its class, among the classes of its task: [images]."""
    return among_own(logits, labels, sizes).argmax(dim=-1) == labels


def drawn_batches(
    support: Support, recipe: Recipe, labels: Tensor, generator: torch.Generator, steps: int
) -> Iterator[tuple[Images, Tensor]]:
    """So many batches of stored views with their labels, epoch after epoch, drawn as `train` draws them."""
    sampler, device = Epochs(recipe, support.labels, ()), labels.device
    while steps > 0:
        chosen = sampler.drawn(generator, steps)
        targets = labels.index_select(0, torch.cat(chosen).to(device)).split([len(some) for some in chosen])
        yield from zip(_views(support, chosen, generator, device), targets, strict=True)
        steps -= sampler.steps


def _views(
    support: Support, chosen: Sequence[Tensor], generator: torch.Generator, device: torch.device
) -> Sequence[Images]:
    """An epoch's batches, of one of the stored random views of each image."""
    pool = support.random
    views = [torch.randint(max(pool.views, 1), (len(some),), generator=generator) for some in chosen]
    rows = pool.take(torch.cat(list(chosen)), torch.cat(views)).rows.to(device)
    return [Images(pool, some) for some in rows.split([len(some) for some in chosen])]


def _crops(
    frozen: Frozen, support: Support, recipe: Recipe, chosen: Sequence[Tensor], generator: torch.Generator
) -> Iterator[Images]:
    """An epoch's batches, of new random crops; the next batch's files are read while one is trained on."""
    rule, reduced = frozen.backbone.config.preprocessing, frozen.savings.reduced_images

    def drawn(picture: Picture) -> tuple[Picture, tuple[int, int], list[Box]]:
        size = image_size(picture)
        return picture, size, [draw_box(*size, recipe.crop_scale, generator)]

    batches = [[drawn(support.random.pictures[index]) for index in some.tolist()] for some in chosen]
    for found in read_ahead(batches, lambda view: cut(*view, rule, reduced)):
        yield Images.of(torch.stack([pixels for (pixels,) in found]).to(frozen.backbone.dtype))
