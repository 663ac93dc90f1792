"""Images compared with what they are and are not (`pairs.py`), before anything is trained.

Training images alone are looked at. Of the shots of each seed, every image is compared once with caches that were made
without it, in as many folds as a fit has, so that no image is found in its own cache, nor among its class's opposites.
The parts and the formulas are those of `methods/dualadapter` with all residuals at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from shotfit.analysis.pairs import HALVES, KINDS, Disagreement, Kind, Overlap, Pairs, Share
from shotfit.analysis.similarities import Distribution, in_order
from shotfit.data.tasks import Item, Task
from shotfit.engine.frozen import Frozen, ImagePool, normalize
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.paired import mcnemar
from shotfit.fitting.fitter import Fitter
from shotfit.fitting.heldout import best_temperature
from shotfit.methods import find
from shotfit.methods.base import Fold, Support
from shotfit.methods.dualadapter import DualAdapter
from shotfit.methods.dualadapter.options import given_templates
from shotfit.methods.dualadapter.paired_templates import negated
from shotfit.progress import track

__all__ = ["pairs_of"]

ROWS = 512  # images that are compared with a cache at once


def pairs_of(
    frozen: Frozen, task: Task, shots: int = 16, seeds: Sequence[int] = (1,), negative_templates: Sequence[str] = ()
) -> Pairs:
    """Compare training images of a task with what they are and are not.

    shots: images of a class that are drawn for each seed; 0: all. negative_templates: in place of those that are made
    of the task's own.

    Raises ShotfitError for a single class and for classes with a single image each; UsageError for a template without
    {} once, negative templates that are the positive ones, and no seeds.
    """
    if len(task.classes.names) < 2:
        raise ShotfitError(
            f"{task.name} has a single class, so that there is nothing that its images are not: name a folder with two "
            "classes or more."
        )
    if not seeds:
        raise UsageError("There are no seeds to draw images by: give at least one.")
    positive = task.classes.templates
    negative = given_templates("|".join(negative_templates)) or negated(positive)
    if set(negative) <= set(positive):
        raise UsageError(
            f"The negative template {negative[0]!r} is a positive one too, so that there is nothing to compare: give "
            "another, such as 'a photo without {}.'"
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
            for paths in ("positive", "negative", "both"):
                method.paths, method.cache = paths, True
                logits = method.logits_of(part).float().cpu()
                self.logits[paths].append(logits)
                if paths != "both":
                    method.cache = False
                    texts_alone = method.logits_of(part).float().cpu()
                    self.logits[f"{paths} text"].append(texts_alone)
                    self.logits[f"{paths} cache"].append(logits - texts_alone)
        assert fold.held.pool is not None
        self.items += [items[index] for index in fold.held.rows.tolist()]

    def _count(self, place: int, cosines: Tensor, own: Tensor) -> None:
        """Add cosines [images, m] to a kind; own: [images, m], which are of the image's class."""
        ours, theirs = self.distributions[place]
        ours.add(cosines[own])
        theirs.add(cosines[~own])
        some = own.any(dim=1)  # the cache of a fold may hold no other image of a class
        self.orders[place].append(in_order(cosines[some], own[some]))

    def nearer(self, place: int) -> float:
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
    return Kind(whole[0].summary(), whole[1].summary(), Share(tuple(one.nearer(place) for one in seen)))
