"""How alike tasks are: by their names, by the contexts that SoftCPT makes of them, and by what one gains from another.

    found = likenesses(frozen, tasks, model)
    found.groups()                                  # which tasks belong together
    transfer(frozen, tasks, "coop")                 # fit on one, judge on another

After Ding et al., "Prompt Tuning with Soft Context Sharing for Vision-Language Models", Neurocomputing 2024, which says
that tasks of like meaning have like contexts, and that such tasks help each other.

    names_ij    = cos(f_i, f_j),  f_i the frozen text tower's feature of "NAME OF TASK i."
    contexts_ij = cos(S_i, S_j),  S_i the context [L, width] that a fitted SoftCPT makes for task i
    gain_ij     = accuracy on task j of a method fitted on task i, less that of zero-shot with j's templates

All are measured without a test image: gains are judged on training images that no fit has seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shotfit.analysis.layers import evenly_drawn
from shotfit.data.tasks import Item, Task
from shotfit.engine.frozen import Frozen, normalize
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.evaluate import answers, model_for
from shotfit.evaluation.intervals import Interval, interval_by_image
from shotfit.fitting.fit import fit
from shotfit.fitting.fitter import zero_shot
from shotfit.fitting.model import Model
from shotfit.methods import find
from shotfit.methods.softcpt import SoftCPT

__all__ = ["Gains", "Likeness", "grouped", "likenesses", "linked", "transfer"]

MOST_TASKS = 500  # whose matrix is drawn and grouped
SEEDS = (1, 2, 3)
SHOTS = 4
JUDGED = 200  # images of a task, at most
STEPS = 200  # of a fit, where the method is trained


@dataclass(frozen=True, eq=False)
class Gains:
    """What is gained by fitting on a task (row) and judging on another (column): values [seeds, tasks, tasks].

    own [seeds, tasks]: on held-out images of the task itself. zero_shot [tasks]: accuracies. intervals [tasks][tasks]:
    95 % by image, of the mean over seeds. negative: pairs that lose, with an interval below 0, the worst first.
    """

    method: str
    shots: int
    seeds: tuple[int, ...]
    values: NDArray[Any]
    zero_shot: NDArray[Any]
    intervals: tuple[tuple[Interval, ...], ...]
    names: tuple[str, ...]

    @property
    def mean(self) -> NDArray[Any]:
        """The mean over seeds, [tasks, tasks]."""
        found: NDArray[Any] = self.values.mean(axis=0)
        return found

    @property
    def deviation(self) -> NDArray[Any] | None:
        """The standard deviation over seeds, [tasks, tasks]; None of one."""
        return self.values.std(axis=0, ddof=1) if len(self.seeds) > 1 else None

    def negative(self) -> list[tuple[str, str, float, Interval]]:
        """Fitted on, judged on, gain and its interval, of pairs that lose for sure; the worst first."""
        places = [(i, j) for i in range(len(self.names)) for j in range(len(self.names)) if i != j]
        lost = [(i, j) for i, j in places if self.intervals[i][j][1] < 0]
        lost.sort(key=lambda pair: self.mean[pair])
        return [(self.names[i], self.names[j], float(self.mean[i, j]), self.intervals[i][j]) for i, j in lost]

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        deviation = None if self.deviation is None else self.deviation.tolist()
        lost = [
            {"fitted_on": one, "judged_on": other, "gain": gain, "interval": interval}
            for one, other, gain, interval in self.negative()
        ]
        return {
            "method": self.method, "shots": self.shots, "seeds": self.seeds, "zero_shot": self.zero_shot.tolist(),
            "mean": self.mean.tolist(), "deviation": deviation, "intervals": self.intervals, "negative": lost,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Likeness:
    """Matrices [tasks, tasks] of cosines: of names, and of the contexts of a fitted SoftCPT (None: there is none).

    classes: how many each task has. shared: the share of the contexts' squared length that is their mean's, which all
    tasks have in common.
    """

    backbone: str
    names: tuple[str, ...]
    classes: tuple[int, ...]
    by_name: NDArray[Any]
    by_context: NDArray[Any] | None = None
    shared: float | None = None
    gains: Gains | None = None

    @property
    def basis(self) -> str:
        """What groups are made by: gains, contexts or names, the first that there is."""
        return "gains" if self.gains is not None else "contexts" if self.by_context is not None else "names"

    @property
    def distances(self) -> NDArray[Any]:
        """What groups are made by, [tasks, tasks]: 1 - cosine; of gains both ways how much less it is than the best."""
        if self.gains is None:
            return 1 - (self.by_name if self.by_context is None else self.by_context)
        both = (self.gains.mean + self.gains.mean.T) / 2
        return float(both[~np.eye(len(both), dtype=bool)].max()) - both

    def groups(self) -> list[list[str]]:
        """Tasks that belong together, in the order of the list; one that stands alone is a group of its own."""
        return [[self.names[place] for place in group] for group in grouped(self.distances)]

    def findings(self) -> dict[str, float | None]:
        """Spearman's rank correlations between the measures, over pairs of different tasks; None where one is missing.

        A gain is that of fitting on the one and judging on the other, both ways.
        """
        gain = None if self.gains is None else self.gains.mean
        return {
            "names and contexts": _correlation(self.by_name, self.by_context),
            "names and gains": _correlation(self.by_name, gain),
            "contexts and gains": _correlation(self.by_context, gain),
        }

    def within_and_between(self) -> tuple[float, float] | None:
        """The mean gain among tasks of one group by name or context, and among others; None without gains or groups."""
        if self.gains is None:
            return None
        groups = grouped(replace(self, gains=None).distances)
        group_of = {place: number for number, group in enumerate(groups) for place in group}
        pairs = [(i, j) for i in group_of for j in group_of if i != j]
        same = [self.gains.mean[i, j] for i, j in pairs if group_of[i] == group_of[j]]
        other = [self.gains.mean[i, j] for i, j in pairs if group_of[i] != group_of[j]]
        return (float(np.mean(same)), float(np.mean(other))) if same and other else None

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        contexts = None if self.by_context is None else self.by_context.tolist()
        return {
            "backbone": self.backbone, "tasks": self.names, "classes": self.classes, "by_name": self.by_name.tolist(),
            "by_context": contexts, "shared_context": self.shared, "correlations": self.findings(),
            "grouped_by": self.basis, "groups": self.groups(), "within_and_between": self.within_and_between(),
            "gains": None if self.gains is None else self.gains.as_json(),
        }  # fmt: skip


@torch.no_grad()
def likenesses(frozen: Frozen, tasks: Sequence[Task], model: Model | None = None) -> Likeness:
    """How alike tasks are by name, and by the contexts of a fitted SoftCPT, which makes them for new tasks too.

    Raises UsageError for fewer than three tasks, more than MOST_TASKS, and a model of another method.
    """
    names = tuple(task.name for task in tasks)
    if not 3 <= len(names) <= MOST_TASKS:
        raise UsageError(f"there are {len(names)} tasks; likeness is asked of 3 to {MOST_TASKS}.")
    features = normalize(frozen.text(frozen.sentences([f"{name.replace('_', ' ')}." for name in names])))
    found = Likeness(
        frozen.backbone.name,
        names,
        tuple(len(task.classes.names) for task in tasks),
        _cosines(features.double().cpu().numpy()),
    )
    if model is None:
        return found
    contexts = np.stack([_context(model, task) for task in tasks])  # [tasks, L * width]
    shared = float((contexts.mean(axis=0) ** 2).sum() / (contexts**2).sum(axis=1).mean())
    return replace(found, by_context=_cosines(contexts), shared=shared)


def _context(model: Model, task: Task) -> NDArray[Any]:
    """The context that SoftCPT makes for a task, [L * width]; the mean over its classes where each has its own."""
    method = model.method
    if not isinstance(method, SoftCPT):
        raise UsageError(f"--model was fitted by {method.name}, which makes no contexts of names: name one of softcpt.")
    if task.name in model.tasks:
        place, own = model.tasks.index(task.name), method
        if not hasattr(own, "relations"):  # opened from a folder, which keeps what was learned and no prompts
            again = method.for_classes(method.classes)
            assert isinstance(again, SoftCPT)
            own = again
    else:
        other = model_for(model, task).method
        assert isinstance(other, SoftCPT)
        place, own = 0, other
    contexts = own.contexts()
    rows = (own.task_of == place).nonzero().flatten() if own.conditioned else torch.tensor([place])
    found: NDArray[Any] = contexts[rows.to(contexts.device)].mean(dim=0).flatten().double().cpu().numpy()
    return found


def transfer(
    frozen: Frozen,
    tasks: Sequence[Task],
    method: str = "coop",
    shots: int = SHOTS,
    seeds: Sequence[int] = SEEDS,
    images: int = JUDGED,
    steps: int = STEPS,
    told: Callable[[str], None] = lambda _: None,
) -> Gains:
    """Fit a method on each task, and judge it on each other one among that one's classes.

    images: at most so many training images of a task are judged, none of them a shot of any seed; those of the task
    itself too. told: told after the first fit how long the rest will take.

    Raises UsageError for a method that predicts no classes but its own, ShotfitError for a task without an image left.
    """
    if not find(method)().accepts_new_classes:
        raise UsageError(
            f"{method} predicts no classes but its own, so nothing is transferred: name another, such as coop."
        )
    judged = [_judged(task, shots, seeds, images) for task in tasks]
    plain = [
        answers(Model(zero_shot(frozen, (task.classes,)), frozen, {}), items).right
        for task, items in zip(tasks, judged, strict=True)
    ]
    right: dict[tuple[int, int], list[NDArray[Any]]] = {}
    begun, done, total = time.perf_counter(), 0, len(tasks) * len(seeds)
    for seed in seeds:
        for i, task in enumerate(tasks):
            trained = find(method)().training_recipe() is not None
            fitted = fit(
                task.sealed(), method, shots=shots, seed=seed, backbone=frozen.backbone, store=frozen.store,
                recipe="paper", views="center", check=False,
                steps=steps if trained else None,
            )  # fmt: skip
            for j, other in enumerate(tasks):
                own = fitted if i == j else fitted.for_classes(other.classes)
                right.setdefault((i, j), []).append(answers(own, judged[j]).right)
            done += 1
            if done == 1 and total > 1:
                taken = time.perf_counter() - begun
                told(f"the first of {total} fits took {taken:,.0f} s, all: about {total * taken / 60:,.1f} minutes")
    count = range(len(tasks))
    values = np.array(
        [[[right[i, j][s].mean() - plain[j].mean() for j in count] for i in count] for s in range(len(seeds))]
    )
    intervals = tuple(
        tuple(interval_by_image(np.mean(right[i, j], axis=0) - plain[j].astype(float)) for j in count) for i in count
    )
    names = tuple(task.name for task in tasks)
    return Gains(method, shots, tuple(seeds), values, np.array([one.mean() for one in plain]), intervals, names)


def _judged(task: Task, shots: int, seeds: Sequence[int], most: int) -> list[Item]:
    """Training images that are a shot of no seed, evenly over the classes."""
    drawn = {item.picture for seed in seeds for item in task.shots(shots, seed).train}
    rest = [item for item in task.train if item.picture not in drawn]
    if not rest:
        raise ShotfitError(f"{task.name} has no training image beside the shots to judge on: ask for fewer --shots.")
    return evenly_drawn(rest, most)


def grouped(distances: NDArray[Any]) -> list[list[int]]:
    """Places of what belongs together: average linkage, cut where the mean silhouette is largest.

    >>> grouped(np.array([[0, 1, 9, 9], [1, 0, 9, 9], [9, 9, 0, 1], [9, 9, 1, 0]]))
    [[0, 1], [2, 3]]
    """
    from scipy.cluster.hierarchy import fcluster
    from sklearn.metrics import silhouette_score

    tree, best, count = linked(distances), (-2.0, np.ones(len(distances), dtype=int)), len(distances)
    for groups in range(2, count):
        labels = fcluster(tree, groups, "maxclust")
        if 1 < len(set(labels)) < count:
            score = float(silhouette_score(_plain(distances), labels, metric="precomputed"))
            best = max(best, (score, labels), key=lambda pair: pair[0])
    found: dict[int, list[int]] = {}
    for place, label in enumerate(best[1].tolist()):
        found.setdefault(label, []).append(place)
    return list(found.values())


def linked(distances: NDArray[Any]) -> NDArray[Any]:
    """The tree of average linkage, as scipy has it, [tasks - 1, 4]."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    found: NDArray[Any] = linkage(squareform(_plain(distances), checks=False), "average")
    return found


def _plain(distances: NDArray[Any]) -> NDArray[Any]:
    """The same both ways, 0 to itself, never below 0."""
    both = np.clip((distances + distances.T) / 2, 0, None)
    np.fill_diagonal(both, 0)
    return both


def _cosines(rows: NDArray[Any]) -> NDArray[Any]:
    lengths = np.linalg.norm(rows, axis=1)
    found: NDArray[Any] = (rows @ rows.T) / np.outer(lengths, lengths)
    return found


def _correlation(one: NDArray[Any] | None, other: NDArray[Any] | None) -> float | None:
    """Spearman's over pairs of different tasks; None without a matrix, or where one is the same everywhere."""
    from scipy.stats import spearmanr

    if one is None or other is None:
        return None
    apart = ~np.eye(len(one), dtype=bool)
    if np.ptp(one[apart]) == 0 or np.ptp(other[apart]) == 0:
        return None
    return float(spearmanr(one[apart], other[apart]).statistic)
