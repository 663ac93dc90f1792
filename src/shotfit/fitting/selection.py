"""What `auto` chooses for a method, by successive halving on images that a candidate has not learned from.

Candidates are the points of the grid that the method's file declares. Each is trained for a part of its length and
judged on held-out images; the better ones go on to the next rung, longer and on other images. Work is counted in
training steps, so that the same seed chooses the same on every machine: rungs that choose cost as much as one training
of the longest candidate, and what holds out every image once with the chosen one, and asks what half of the labels
would do, as much as two. `budget` bounds seconds.

A candidate's score is the mean log probability of the true class at the best temperature for all of them. It moves
where the count of right images does not, and two candidates whose logits differ in scale alone are equal by it. Of
candidates within one standard error of the best, by the differences image by image, the one nearest the paper's wins.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any

import torch
from torch import Tensor

from shotfit.data.tasks import Item
from shotfit.engine.ranks import agreed_rows, world
from shotfit.errors import DivergedError
from shotfit.files import LIST_BYTES, sha256
from shotfit.fitting.fitter import Fitter, Setting, held_out_by
from shotfit.fitting.heldout import HeldOut, frozen_features, log_likelihoods, pooled, standard_error
from shotfit.fitting.program import program_of
from shotfit.fitting.spared import can_spare, logits_with_spared
from shotfit.methods import address
from shotfit.methods.base import AUTO, Fold, Method, Validation
from shotfit.methods.recipe import Grid
from shotfit.progress import track

__all__ = ["Candidate", "Choice", "Judge", "Trial", "as_found", "candidate_at", "choose", "hold_out", "points_of"]

KEPT = 4  # one in so many candidates goes on from the first rung, two at least
CHOOSING = (1, 2)  # rungs
HELD_OUT = 1.5  # trainings of the chosen candidate that holding out every image once may cost
PROBED = 20  # steps of a training that is timed
FEWEST_STEPS = 4  # of a training that is judged


@dataclass(frozen=True, eq=False)
class Candidate:
    """A method at options and a setting. point: what of it was chosen; rank: its distance from the paper's."""

    prototype: Method
    setting: Setting
    point: Mapping[str, Any]
    rank: int

    @property
    def length(self) -> int:
        """Steps of its training; 1 where there is none."""
        return self.setting.steps or 1


@dataclass(frozen=True)
class Trial:
    """One candidate on one rung: how long it trained, on how many held-out images it was judged, and how.

    accuracy: of several labels a picture the mean average precision.
    """

    rung: int
    point: Mapping[str, Any]
    steps: int | None
    images: int
    accuracy: float
    score: float | None  # mean log probability; None where it diverged


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen, and by which trials. rungs: what became of each."""

    candidate: Candidate
    trials: tuple[Trial, ...] = ()
    rungs: tuple[str, ...] = ()

    def said(self, validation: Validation) -> str:
        """How a result names the choice; nothing where none was to be made."""
        point = ", ".join(
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self.candidate.point.items()
        )
        if not point:
            return ""
        if not self.trials and self.rungs:
            return f"{point}, beside which nothing was tried ({', '.join(self.rungs)})"
        return f"{point} by {validation.description}"

    def record(self) -> dict[str, Any]:
        """For `adapter.json` and --json."""
        return {
            "chosen": dict(self.candidate.point),
            "setting": asdict(self.candidate.setting),
            "rungs": list(self.rungs),
            "tried": [asdict(trial) for trial in self.trials],
        }


def points_of(prototype: Method, grid: Grid, setting: Setting) -> list[Candidate]:
    """Every point of a grid as a candidate, those nearest the paper's first."""
    return [candidate_at(prototype, point, setting, rank) for rank, point in enumerate(grid.points())]


def candidate_at(prototype: Method, point: Mapping[str, Any], setting: Setting, rank: int = 0) -> Candidate:
    """A method at a point: its options, rate and steps; what the point leaves open is the prototype's or setting's."""
    options = {name: value for name, value in point.items() if name not in ("lr", "steps")}
    own = type(prototype)(**prototype.options() | options)
    rate, steps = point.get("lr", setting.lr), point.get("steps", setting.steps)
    return Candidate(own, Setting(rate, setting.epochs, steps), point, rank)


def choose(judge: Judge, candidates: Sequence[Candidate], together: bool = False) -> Choice:
    """The best of the candidates, which are given nearest the paper's first.

    together: they train as one batch, which makes rungs on all folds as cheap as on one.
    """
    every, longest = judge.validation.folds, max(one.length for one in candidates)
    alive = list(candidates)
    if judge.budget is not None and len(alive) > 1:
        judge.measure(alive[0])
    for number in CHOOSING:
        folds = every if together else every[(number - 1) % len(every) :][:1]
        steps, work = sum(one.length for one in alive), len(every) / 2 if together else 0.5
        share = min(0.5, work * longest / steps / len(folds))
        if len(alive) == 1 or not judge.affords(steps * share * len(folds), f"rung {number}"):
            break
        found = [judge.trials(alive, fold, share, number) for fold in track(folds, f"Choosing, rung {number} of 2")]
        held = {one.rank: pooled([trials[one.rank] for trials in found]) for one in alive}
        judge.tell(number, alive, share, sum(len(fold.labels) for fold in folds), held)
        alive = _ranked(alive, held, judge.fitter.sizes)[: max(2, ceil(len(alive) / KEPT)) if number == 1 else 1]
    return Choice(alive[0], tuple(judge.told), tuple(judge.rungs))


def hold_out(judge: Judge, candidate: Candidate, fitted: Method) -> list[tuple[Fold, HeldOut | None]]:
    """What is said of every image that can be held out by a fit that has not learned from it; None where it diverged.

    fitted: the candidate, fitted to all; what it found out about itself (`Method.chosen`) is not searched anew.
    """
    validation = judge.validation
    if fitted.name == "zero_shot" and not validation.folds:  # it learns from no image, so that none need be spared
        pool = judge.fitter.pool(judge.items)
        whole = Fold(torch.arange(len(judge.items)), pool.all(), pool.labels)
        source = f"the {len(judge.items):,} support images, which zero-shot does not learn from"
        return [(whole, replace(judge.known(held_out_by(fitted, whole), whole), source=source))]
    if validation.source == "validation part" or fitted.name == "zero_shot":
        return [(fold, judge.known(held_out_by(fitted, fold), fold)) for fold in validation.folds]
    own, parts = as_found(candidate, fitted), []
    for number, fold in enumerate(validation.folds, start=1):
        what = f"Checking, fold {number} of {len(validation.folds)}"
        parts.append((fold, judge.trials([own], fold, judge.share, 3, what)[own.rank]))
    return parts


def as_found(candidate: Candidate, fitted: Method) -> Candidate:
    """The candidate with what its fit to all images has found out about itself, so that it is not searched anew."""
    again = dict.fromkeys(fitted.found_options, AUTO)  # each fold finds them by its own images
    return replace(candidate, prototype=type(fitted)(**fitted.options() | again | fitted.chosen()))


def _ranked(alive: Sequence[Candidate], held: Mapping[int, HeldOut | None], sizes: Sequence[int]) -> list[Candidate]:
    """Best first; of those within one standard error of the best, the one nearest the paper's is first."""
    scores = {
        rank: log_likelihoods(found.logits, found.labels, sizes) for rank, found in held.items() if found is not None
    }
    if not scores:
        return list(alive)
    order = sorted(scores, key=lambda rank: -float(scores[rank].mean()))
    best = scores[order[0]]

    def near(rank: int) -> bool:
        lost = best - scores[rank]
        return float(lost.mean()) <= standard_error(lost)

    first = min(rank for rank in order if rank == order[0] or near(rank))
    return [next(one for one in alive if one.rank == rank) for rank in dict.fromkeys([first, *order])]


class Judge:
    """Trials: each is made once, kept in the store under all that it depends on, and counted."""

    def __init__(
        self,
        fitter: Fitter,
        items: Sequence[Item],
        validation: Validation,
        budget: float | None = None,
        spare: bool = False,
    ) -> None:
        self.fitter, self.items, self.validation, self.budget = fitter, items, validation, budget
        self.spare = spare  # choose by classes, too, that a candidate has not been fitted to
        self.began, self.speed = time.perf_counter(), 0.0  # seconds a step, measured where there is a budget
        self.told: list[Trial] = []
        self.rungs: list[str] = []

    @property
    def share(self) -> float:
        """Of its length, what the chosen candidate trains for in each fold; of a length in epochs, all."""
        return min(1.0, HELD_OUT / max(len(self.validation.folds), 1))

    def measure(self, candidate: Candidate) -> None:
        """Find out what a step takes, by two short trainings: the first also encodes what the second reads."""
        for steps in (FEWEST_STEPS, PROBED):
            began, setting = time.perf_counter(), replace(candidate.setting, epochs=None, steps=steps)
            with suppress(DivergedError):
                self.fitter.fit(candidate.prototype, self.items, Validation("none", ()), "Measuring", setting)
            self.speed = (time.perf_counter() - began) / steps

    def affords(self, steps: float, rung: str) -> bool:
        """Whether a rung of so many steps ends within the budget, by what a step was measured to take."""
        ends = time.perf_counter() - self.began + steps * self.speed
        fits = self.budget is None or ends <= self.budget
        self.rungs.append(f"{rung}: {'done' if fits else 'left out, it would overrun the budget'}")
        return fits

    def trials(
        self, candidates: Sequence[Candidate], fold: Fold, share: float, rung: int, what: str = ""
    ) -> dict[int, HeldOut | None]:
        """What candidates say of a fold after a share of their length, by rank; None of one that diverged."""
        sizes, part = self.fitter.sizes, [self.items[index] for index in fold.train.tolist()]
        settings = [_for_share(one.setting, share) for one in candidates]
        spared = self.spare and rung in CHOOSING and can_spare(candidates[0].prototype, self.fitter.classes)
        keys = [self._key(one, setting, part, fold, spared) for one, setting in zip(candidates, settings, strict=True)]

        def compute(missing: list[int]) -> Iterator[Tensor]:
            if spared:
                for k in missing:
                    yield self._with_spared(candidates[k], settings[k], part, fold)
                return
            for method in self._fitted([candidates[k] for k in missing], [settings[k] for k in missing], part, what):
                if method is None:
                    yield torch.full((1, len(fold.labels), sum(sizes)), torch.nan)
                else:
                    yield held_out_by(method, fold)[None]

        kind: dict[str, str | int | float | bool] = {
            "tower": "held out", "images": len(fold.labels), "classes": sum(sizes)
        }  # fmt: skip
        rows = agreed_rows(self.fitter.frozen.store, kind, keys, compute)
        held: dict[int, HeldOut | None] = {}
        for one, logits in zip(candidates, rows, strict=True):
            held[one.rank] = None if logits.isnan().any() else self.known(logits, fold)
        return held

    def tell(
        self, rung: int, candidates: Sequence[Candidate], share: float, images: int, held: Mapping[int, HeldOut | None]
    ) -> None:
        """Note what became of the candidates on a rung, by rank."""
        for one in candidates:
            found, steps = held[one.rank], _for_share(one.setting, share).steps
            score = right = None
            if found is not None:
                score = float(log_likelihoods(found.logits, found.labels, self.fitter.sizes).mean())
                right = found.quality(self.fitter.sizes)
            self.told.append(Trial(rung, dict(one.point), steps, images, right or 0.0, score))

    def _fitted(
        self, candidates: Sequence[Candidate], settings: Sequence[Setting], part: Sequence[Item], what: str
    ) -> Iterator[Method | None]:
        """The candidates, each fitted to a part of the images; None for one that diverged."""
        inner = self._inner(part)
        kind = type(candidates[0].prototype)
        if len(candidates) > 1 and kind.grid is not None and kind.grid.together:
            yield from self.fitter.fit_together([one.prototype for one in candidates], part, inner, settings)
            return
        for one, setting in zip(candidates, settings, strict=True):
            try:
                yield self.fitter.fit(one.prototype, part, inner, what or f"Trying {one.prototype.name}", setting)
            except DivergedError:
                yield None

    def _inner(self, part: Sequence[Item]) -> Validation:
        """What a fit to a part of the images may choose its coefficients by: the validation part, else folds of it."""
        if self.validation.source != "validation part":
            return self.fitter.folds(part)
        folds = tuple(replace(fold, train=torch.arange(len(part))) for fold in self.validation.folds)
        return replace(self.validation, folds=folds)

    def spared(self, candidate: Candidate, fitted: Method) -> HeldOut | None:
        """What the candidate says of a fold where a third of the classes was spared; None unless that is asked for."""
        if not (self.spare and self.validation.folds and can_spare(fitted, self.fitter.classes)):
            return None
        fold = self.validation.folds[0]
        return self.trials([as_found(candidate, fitted)], fold, self.share, CHOOSING[-1])[candidate.rank]

    def known(self, logits: Tensor, fold: Fold) -> HeldOut:
        """Logits of a fold with what else is known of its images."""
        features = frozen_features(self.fitter.frozen, fold.held)
        return HeldOut(logits, fold.labels, features, self.validation.description)

    def _with_spared(self, candidate: Candidate, setting: Setting, part: Sequence[Item], fold: Fold) -> Tensor:
        """Logits [1, images, classes] by a fit that has not seen some of the classes."""
        number = next(index for index, one in enumerate(self.validation.folds) if one.held is fold.held)
        try:
            return logits_with_spared(self.fitter, candidate.prototype, setting, part, fold, number)[None]
        except DivergedError:
            return torch.full((1, len(fold.labels), sum(self.fitter.sizes)), torch.nan)

    def _key(
        self, candidate: Candidate, setting: Setting, part: Sequence[Item], fold: Fold, spared: bool = False
    ) -> str:
        """Of all that a trial depends on."""
        backbone, method, held = self.fitter.frozen.backbone, candidate.prototype, fold.held
        assert held.pool is not None
        content = {
            "backbone": [backbone.fingerprint, f"torch.{backbone.precision}", str(backbone.device.type)],
            "method": [address(type(method)), program_of(method), method.options(), asdict(setting)],
            "files": [sha256(file, LIST_BYTES, "a file of an option") for file in method.files()],
            "savings": asdict(self.fitter.frozen.savings),  # one of them is not exact
            "classes": [one.as_json() for one in self.fitter.classes],
            "train": [(item.digest or str(item.picture), item.label, item.group, *item.also) for item in part],
            "held": [*zip(held.pool.keys(), held.pool.labels.tolist(), strict=True)],
            "rows": held.rows.tolist(),
            "spared": spared,
            "seed": [self.fitter.seed, self.fitter.views, torch.get_num_threads(), *([world()] if world() > 1 else [])],
        }
        return hashlib.sha256(json.dumps(content, default=str).encode(errors="surrogateescape")).hexdigest()


def _for_share(setting: Setting, share: float) -> Setting:
    """A share of the length that is counted in steps; one in epochs stays."""
    return setting if setting.steps is None else replace(setting, steps=max(FEWEST_STEPS, round(setting.steps * share)))
