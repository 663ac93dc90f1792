"""What a class is, and what it is not: how alike images are to both, and what each half of DualAdapter decides alone.

Zhang et al., "Negative Yields Positive: Unified Dual-Path Adapter for Vision-Language Models", arXiv 2403.12964; SimNL,
WACV 2025. `methods/dualadapter` has the formulas; here its parts are looked at before anything is trained.

    found = pairs_of(frozen, task, shots=16, seeds=(1, 2, 3))
    found.kinds["negative text"].own.mean           # cosine of an image and the negative text of its class
    found.halves["negative"].mean                   # accuracy of the negative half alone

Training images alone are looked at. Of the shots of each seed, every image is compared once with caches that were made
without it (as many folds as a fit has), so that no image is found in its own cache, nor among its class's opposites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, cast

import torch
from torch import Tensor

from shotfit.analysis.similarities import Distribution, Summary, in_order
from shotfit.data.pictures import Picture
from shotfit.data.tasks import Item, Task
from shotfit.engine.frozen import Frozen, ImagePool, normalize
from shotfit.errors import ShotfitError
from shotfit.evaluation.paired import mcnemar
from shotfit.fitting.fitter import Fitter
from shotfit.fitting.heldout import best_temperature
from shotfit.methods import find
from shotfit.methods.base import Fold, Support
from shotfit.methods.dualadapter import DualAdapter
from shotfit.methods.dualadapter.options import given_templates
from shotfit.methods.dualadapter.paired_templates import negated
from shotfit.progress import track

__all__ = ["KINDS", "Disagreement", "Kind", "Overlap", "Pairs", "Share", "pairs_of"]

KINDS = ("positive text", "negative text", "image", "negative cache")
HALVES = ("positive text", "negative text", "positive", "negative", "both")
"""What decides: texts of one half alone, a half with its cache, both halves."""
ROWS = 512  # images that are compared with a cache at once


@dataclass(frozen=True)
class Kind:
    """Images against one kind of thing: that of their own class, and those of others.

    order: the share of (own, other) pairs of an image in which the own one is nearer, mean and standard deviation over
    the seeds (None for one). 0.5 says nothing; below 0.5 the thing of one's own class is the farther one.
    """

    own: Summary
    other: Summary
    order: float
    order_spread: float | None


@dataclass(frozen=True)
class Share:
    """A share of images by seed: mean, and standard deviation over the seeds (None for one)."""

    by_seed: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.by_seed)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds."""
        return stdev(self.by_seed) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class Overlap:
    """Both halves on the images of one seed: how many each puts into their class; p of McNemar's exact test."""

    seed: int
    images: int
    alike: int
    both_right: int
    only_positive: int
    only_negative: int
    neither: int
    p: float


@dataclass(frozen=True)
class Disagreement:
    """An image of which the halves say different things, and how sure each is (probability of what it says)."""

    picture: Picture
    label: str
    positive: str
    positive_share: float
    negative: str
    negative_share: float

    @property
    def right(self) -> str:
        """Which half is right: positive, negative or neither."""
        return {self.positive: "positive", self.negative: "negative"}.get(self.label, "neither")

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        said = {"positive": self.positive, "positive_share": self.positive_share}
        said |= {"negative": self.negative, "negative_share": self.negative_share}
        return {"image": str(self.picture), "label": self.label} | said | {"right": self.right}


@dataclass(frozen=True)
class Pairs:
    """What was found.

    kinds: by KINDS. halves: accuracy by HALVES. disagreements: of the first seed, the surest first.
    """

    task: str
    classes: int
    shots: int
    seeds: tuple[int, ...]
    positive_templates: tuple[str, ...]
    negative_templates: tuple[str, ...]
    kinds: dict[str, Kind]
    halves: dict[str, Share]
    overlaps: tuple[Overlap, ...]
    disagreements: tuple[Disagreement, ...] = field(repr=False)

    def sentence(self) -> str:
        """What follows, in one line."""
        positive, negative = self.kinds["positive text"], self.kinds["negative text"]
        near = f"{positive.own.mean:.3f} to the positive text of the own class, {negative.own.mean:.3f} to the negative"
        gap = positive.own.mean - negative.own.mean
        if gap <= 0.5 * positive.own.deviation:
            said = "the negative texts are as near as the positive ones: this text tower does not read the negation"
            if negative.order > 0.5:
                said += ", and 'not' counts against the own class"
            return f"images have a cosine of {near}; {said}"
        return f"images have a cosine of {near}: the text tower tells the two apart"

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        kinds = {
            name: {
                "own": kind.own.as_json(), "other": kind.other.as_json(), "order": kind.order,
                "order_spread": kind.order_spread,
            }
            for name, kind in self.kinds.items()
        }  # fmt: skip
        halves = {
            name: {"accuracy": share.mean, "spread": share.spread, "by_seed": list(share.by_seed)}
            for name, share in self.halves.items()
        }
        templates = {"positive": list(self.positive_templates), "negative": list(self.negative_templates)}
        return {
            "task": self.task, "classes": self.classes, "shots": self.shots, "seeds": list(self.seeds),
            "templates": templates, "pairs": kinds, "halves": halves,
            "overlaps": [vars(overlap) for overlap in self.overlaps],
            "disagreements": [one.as_json() for one in self.disagreements], "summary": self.sentence(),
        }  # fmt: skip


def pairs_of(
    frozen: Frozen,
    task: Task,
    shots: int = 16,
    seeds: Sequence[int] = (1,),
    negative_templates: Sequence[str] = (),
) -> Pairs:
    """Compare training images of a task with what they are and are not.

    shots: images of a class that are drawn for each seed; 0: all. negative_templates: in place of those that are made
    of the task's own.

    Raises ShotfitError for a single class, for classes with a single image each, and for negative templates that are
    the positive ones; UsageError for a template without {} once.
    """
    if len(task.classes.names) < 2:
        raise ShotfitError(f"{task.name} has a single class, so that nothing is what an image is not.")
    if not seeds:
        raise ShotfitError("There are no seeds to draw images by: give at least one.")
    positive = task.classes.templates
    negative = given_templates("|".join(negative_templates)) or negated(positive)
    if set(negative) <= set(positive):
        raise ShotfitError(
            f"the negative template {negative[0]!r} is a positive one too: give --negative-template another, such as "
            "'a photo without {}.'"
        )
    seen = [_Seed(frozen, task, shots, seed, negative) for seed in track(seeds, "Comparing pairs")]
    return Pairs(
        task=task.name,
        classes=len(task.classes.names),
        shots=shots,
        seeds=tuple(seeds),
        positive_templates=positive,
        negative_templates=negative,
        kinds={name: _kind(seen, place) for place, name in enumerate(KINDS)},
        halves={name: Share(tuple(float(one.right(name).double().mean()) for one in seen)) for name in HALVES},
        overlaps=tuple(one.overlap() for one in seen),
        disagreements=seen[0].disagreements(),
    )


class _Seed:
    """The images of one seed, each compared with caches that were made without it."""

    def __init__(self, frozen: Frozen, task: Task, shots: int, seed: int, negative: Sequence[str]) -> None:
        self.names, self.seed = task.classes.names, seed
        items = task.support(shots or None, seed).train
        folds = Fitter(frozen, (task.classes,), seed, None).folds(items).folds
        if not folds:
            raise ShotfitError(
                f"{task.name} has a single image of most classes, so that none can be compared with others of its "
                "class: expected two or more of at least half of the classes."
            )
        self.distributions = [(Distribution(), Distribution()) for _ in KINDS]
        self.orders: list[list[Tensor]] = [[] for _ in KINDS]
        self.logits: dict[str, list[Tensor]] = {name: [] for name in HALVES}
        self.items: list[Item] = []
        self.labels = torch.cat([fold.labels for fold in folds])
        for fold in folds:
            self._compare(frozen, task, items, fold, negative)

    @torch.no_grad()
    def _compare(self, frozen: Frozen, task: Task, items: Sequence[Item], fold: Fold, negative: Sequence[str]) -> None:
        """Count the cosines of a fold's held images, and keep what each half says of them."""
        cache = ImagePool([items[index] for index in fold.train.tolist()])
        options = {"training_free": "true", "search": "false", "negative_templates": "|".join(negative)}
        method = cast(DualAdapter, find("dualadapter").with_options(options))
        method.attach(frozen, [task.classes])
        method.check()
        method.prepare(Support(cache, cache, int(torch.bincount(cache.labels).max())))
        method.build(frozen, [task.classes])
        features = normalize(frozen.image(fold.held))
        classes, rows = torch.arange(len(self.names)), cache.labels
        for part, labels in zip(features.split(ROWS), fold.labels.split(ROWS), strict=True):
            texts = [part @ method.get_buffer(name).T for name in ("template", "negative")]  # [images, classes]
            caches = method.cosines(part)  # [images, cached] of both
            owners = [classes, classes, rows, rows]
            for place, (cosines, owner) in enumerate(zip((*texts, *caches), owners, strict=True)):
                self._count(place, cosines.cpu(), labels[:, None] == owner)
            for name in HALVES:
                method.paths = name.partition(" ")[0]
                method.cache = not name.endswith("text")
                self.logits[name].append(method.logits_of(part).float().cpu())
        assert fold.held.pool is not None
        self.items += [items[index] for index in fold.held.rows.tolist()]

    def _count(self, place: int, cosines: Tensor, own: Tensor) -> None:
        """Add cosines [images, m] to a kind; own: [images, m], which are of the image's class."""
        ours, theirs = self.distributions[place]
        ours.add(cosines[own])
        theirs.add(cosines[~own])
        some = own.any(dim=1)  # the cache of a fold may hold no other image of a class
        self.orders[place].append(in_order(cosines[some], own[some]))

    def order(self, place: int) -> float:
        """Mean over the images of how often the own thing is nearer."""
        return float(torch.cat(self.orders[place]).mean())

    def right(self, name: str) -> Tensor:
        """Whether an image is put into its class by a half: [images]."""
        return torch.cat(self.logits[name]).argmax(dim=1) == self.labels

    def overlap(self) -> Overlap:
        """Both halves side by side."""
        positive, negative = self.right("positive"), self.right("negative")
        said = [torch.cat(self.logits[name]).argmax(dim=1) for name in ("positive", "negative")]
        only_positive, only_negative = int((positive & ~negative).sum()), int((negative & ~positive).sum())
        return Overlap(
            seed=self.seed,
            images=len(self.labels),
            alike=int((said[0] == said[1]).sum()),
            both_right=int((positive & negative).sum()),
            only_positive=only_positive,
            only_negative=only_negative,
            neither=int((~positive & ~negative).sum()),
            p=mcnemar(only_positive, only_negative),
        )

    def disagreements(self) -> tuple[Disagreement, ...]:
        """Images of which the halves say different things, the surest first: both shares multiplied."""
        shares = [_shares(torch.cat(self.logits[name]), self.labels) for name in ("positive", "negative")]
        (ours, said), (theirs, answered) = (share.max(dim=1) for share in shares)
        order = (ours * theirs).argsort(descending=True, stable=True)
        return tuple(
            Disagreement(
                self.items[index].picture,
                self.names[self.items[index].label],
                self.names[said[index]],
                float(ours[index]),
                self.names[answered[index]],
                float(theirs[index]),
            )
            for index in order[(said != answered)[order]].tolist()
        )


def _shares(logits: Tensor, labels: Tensor) -> Tensor:
    """Probabilities [images, classes] at the temperature that suits these images best.

    The two halves have other scales, and are as sure as they deserve only then.
    """
    return (logits.double() / best_temperature(logits, labels, [logits.shape[1]])).softmax(dim=1)


def _kind(seen: Sequence[_Seed], place: int) -> Kind:
    """One kind over all seeds."""
    whole = (Distribution(), Distribution())
    for one in seen:
        for both, part in zip(whole, one.distributions[place], strict=True):
            both.take(part)
    orders = [one.order(place) for one in seen]
    return Kind(whole[0].summary(), whole[1].summary(), fmean(orders), stdev(orders) if len(orders) > 1 else None)
