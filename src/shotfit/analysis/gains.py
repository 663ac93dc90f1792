"""What methods gain over zero-shot on easy and on hard tasks, and whether APEX's claim holds there.

Yang et al., EMNLP 2024, arXiv 2311.15569: the harder the transfer, the more is gained by visual prompts and a text
adapter, and the less by text prompts.

    roles = {"text": "coop", "image": "vpt", "combined": "apex"}
    seconds_of(frozen, tasks, roles, shots=16, seeds=(1, 2, 3))         # before anything is fitted
    gains = gains_of(tasks, roles, shots=16, seeds=(1, 2, 3), backbone=backbone)
    claims_of(found, gains)                                              # rank correlations with the difficulty

Fits, exams and the file of finished runs are those of `compare`; test images are looked at here, and here alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from shotfit.analysis.difficulty import Difficulty
from shotfit.data.tasks import Task, joined
from shotfit.engine.frozen import Frozen
from shotfit.engine.store import MemoryStore, Store
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.compare import compare, plan_of, read_variants
from shotfit.evaluation.rows import Rows
from shotfit.evaluation.variants import Variant, read_variant
from shotfit.fitting.fitter import Fitter, Setting, Views
from shotfit.fitting.selection import Candidate, Judge, points_of
from shotfit.methods.base import Validation
from shotfit.towers.backbone import Backbone

__all__ = ["ROLES", "Claim", "Gain", "advice_of", "claims_of", "gains_of", "rank_test", "roles_of", "seconds_of"]

ROLES = ("text", "image", "combined")
FEWEST = 4
"""Data sets that a rank correlation is asked of; of three, chance alone orders them so in one case of six."""
SHOWN = 0.05
PERMUTED = 8  # tasks up to which every order is counted


@dataclass(frozen=True)
class Gain:
    """What a method gains over zero-shot on the test part of a task: accuracy less accuracy, by seed and in the mean.

    role: text, image or combined. spread: the standard deviation over the seeds, None for one.
    """

    task: str
    role: str
    method: str
    zero_shot: float
    accuracy: float
    by_seed: tuple[float, ...]
    mean: float
    spread: float | None

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Claim:
    """Whether something grows with rtd: Spearman's rank correlation over the tasks, and how likely chance is as large.

    p: one-sided, by permutations. holds: p is at most 0.05; None where there are too few tasks to tell.
    """

    what: str
    correlation: float
    p: float
    tasks: int
    holds: bool | None

    def sentence(self) -> str:
        """For people."""
        said = {True: "holds here", False: "does not show here", None: f"cannot be told of fewer than {FEWEST} sets"}
        figures = f"rank correlation with rtd {self.correlation:+.2f}, p = {self.p:.2g}, {self.tasks} sets"
        return f"{self.what}: {said[self.holds]} ({figures})"


def roles_of(
    methods: Sequence[str],
    shots: int,
    seeds: Sequence[int],
    views: Views | None = None,
) -> dict[str, str]:
    """The text-side, image-side and combined method, which stand in this order, if they can be fitted so.

    Raises UsageError for another number of methods, the race `auto`, and what `compare` refuses.
    """
    if len(methods) != len(ROLES):
        raise UsageError(
            f"--methods names {len(methods)}; expected three: a text-side, an image-side and a combined one, in this "
            "order, as in coop,vpt,apex."
        )
    for variant in read_variants(methods, [shots], seeds, None, None, views):
        if variant.prototype is None or variant.method == "zero_shot":
            raise UsageError(f"--methods names {variant.name}, which is of no side: name a method that is.")
    return dict(zip(ROLES, methods, strict=True))


def gains_of(
    tasks: Sequence[Task],
    roles: Mapping[str, str],
    shots: int,
    seeds: Sequence[int],
    *,
    backbone: Backbone,
    views: Views | None = None,
    store: Store | MemoryStore | None = None,
    out: str | Path | None = None,
    report: Callable[[Mapping[str, Any]], None] | None = None,
) -> list[Gain]:
    """Fit each method to each task with each seed, as `compare` does, and judge it on the task's test part.

    views, out, report: as in `compare`. Raises as `compare` does, and ShotfitError for a fit that did not converge.
    """
    several = len(tasks) > 1
    columns = _columns(tasks)
    rows = compare(
        list(tasks) if several else tasks[0],
        ["zero_shot", *roles.values()],
        [shots],
        list(seeds),
        apart=several,
        backbone=backbone,
        views=views,
        store=store,
        out=out,
        report=report,
    )
    return [
        _gain(rows, task.name, column, role, method)
        for task, column in zip(tasks, columns, strict=True)
        for role, method in roles.items()
    ]


def _columns(tasks: Sequence[Task]) -> tuple[str, ...]:
    """The column of each task in the table of `compare`, which refuses a task without a test part."""
    several = len(tasks) > 1
    return plan_of(list(tasks) if several else tasks[0], apart=several).columns[: len(tasks)]


def _gain(rows: Rows, task: str, column: str, role: str, method: str) -> Gain:
    of = {row.method: row for row in rows if row.column == column}
    plain = of["zero_shot"]
    own = of.get(method)
    if own is None or own.seeds != plain.seeds:
        raise ShotfitError(
            f"{method} did not converge on {task} with every seed, so that its gain is not known: name another method, "
            f"or a lower rate, as in {method}+lr=0.001."
        )
    by_seed = tuple(one - other for one, other in zip(own.accuracies, plain.accuracies, strict=True))
    spread = stdev(by_seed) if len(by_seed) > 1 else None
    return Gain(task, role, method, plain.mean, own.mean, by_seed, fmean(by_seed), spread)


def advice_of(one: Difficulty, gains: Sequence[Gain] = ()) -> str:
    """What follows for the choice of a method, in one line: by what was measured, else by the paper's scale."""
    own = [gain for gain in gains if gain.task == one.task]
    if not own:
        return one.advice()
    best = max(own, key=lambda gain: gain.mean)
    if best.mean <= 0:
        return "none of the three gained anything: zero_shot"
    spread = max((gain.spread or 0.0) for gain in own)
    alike = [gain.method for gain in own if best.mean - gain.mean <= spread]
    return f"measured: {', '.join(alike)} ({100 * best.mean:+.1f} points over zero-shot)"


def claims_of(found: Sequence[Difficulty], gains: Sequence[Gain] = ()) -> list[Claim]:
    """What the paper says of hard tasks, asked of these.

    Without gains: classes lie closer together. With gains: other sides lead the text side by more. A gain alone grows
    with rtd for the mere reason that zero-shot leaves more to gain there; a lead does not, and is what is judged by.
    """
    hard = [np.inf if one.rtd is None else one.rtd for one in found]
    claims = list[Claim]()
    if all(one.separability is not None for one in found):
        close = [-(one.separability or 0) for one in found]
        claims.append(_claim("classes are less separable on harder sets", hard, close))
    if not gains:
        return claims
    mean = {(gain.task, gain.role): gain.mean for gain in gains}
    for role, what in (("image", "the image side leads"), ("combined", "the combined method leads")):
        leads = [mean[one.task, role] - mean[one.task, "text"] for one in found]
        claims.append(_claim(f"{what} the text side by more on harder sets", hard, leads))
    for role, what in zip(ROLES, ("the text side", "the image side", "the combined method"), strict=True):
        claims.append(_claim(f"{what} gains more on harder sets", hard, [mean[one.task, role] for one in found]))
    return claims


def _claim(what: str, hard: Sequence[float], values: Sequence[float]) -> Claim:
    correlation, p = rank_test(hard, values)
    return Claim(what, correlation, p, len(hard), p <= SHOWN if len(hard) >= FEWEST else None)


def rank_test(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Spearman's rank correlation, and the share of orders in which it is as large; both 0 and 1 where nothing varies.

    Of more than eight values the share is the one that scipy gives.

    >>> rank_test([1, 2, 3, 4], [10, 20, 30, 40])
    (1.0, 0.041666666666666664)
    """
    from scipy.stats import rankdata, spearmanr

    if len(set(first)) < 2 or len(set(second)) < 2:
        return 0.0, 1.0
    if len(first) > PERMUTED:
        tested = spearmanr(first, second, alternative="greater")
        return float(tested.statistic), float(tested.pvalue)
    ours, theirs = (rankdata(values) - (len(values) + 1) / 2 for values in (first, second))
    orders = np.array([*itertools.permutations(theirs)]) @ ours  # [orders]
    whole = float(np.sqrt((ours @ ours) * (theirs @ theirs)))
    seen = float(ours @ theirs)
    return round(seen / whole, 12), float((orders >= seen - 1e-9).mean())


def seconds_of(
    frozen: Frozen,
    tasks: Sequence[Task],
    roles: Mapping[str, str],
    shots: int,
    seeds: Sequence[int],
    views: Views | None = None,
) -> float:
    """How long `gains_of` will take, about: a few steps of each method on each task are timed.

    What these steps read is stored, so that the time is not lost. A method that is not trained counts as nothing.

    Raises ShotfitError for a task without a test part.
    """
    _columns(tasks)  # refused before anything is timed
    total = 0.0
    for task in tasks:
        items = joined([(task.classes, task.support(shots, seeds[0]).train)])
        for method in roles.values():
            variant = read_variant(method)
            steps = _steps(variant, shots, len(items))
            if variant.prototype is not None and steps:
                judge = Judge(Fitter(frozen, (task.classes,), seeds[0], views), items, Validation("none", ()))
                judge.measure(Candidate(variant.prototype, Setting(variant.lr), {}, 0))
                total += judge.speed * steps * len(seeds)
    return total


def _steps(variant: Variant, shots: int, images: int) -> float:
    """Steps of a fit: of the longest candidate once, and as many again where one is chosen; 0 where none is trained."""
    prototype = variant.prototype
    recipe = None if prototype is None else prototype.training_recipe()
    if prototype is None or recipe is None:
        return 0
    own = (variant.epochs or recipe.epochs_for(shots)) * recipe.steps_for(images)
    own = variant.steps or recipe.length_for(shots) or own
    if variant.recipe == "paper" or prototype.grid is None or variant.steps:
        return own
    return 2 * max(point.setting.steps or own for point in points_of(prototype, prototype.grid, Setting()))
