"""How many labels `suggest` saves, and how many wrong labels `clean` finds: the figures of docs/labels.md.

    python -m benchmarks.labels --data data/caltech101 data/dtd --seeds 1,2,3,4,5

Prints a JSON line for each data set and question.

suggest: from two labelled train images a class (CoOp's draw), each round labels as many more as there are classes:
those that `choose` names, random ones of the rest, or as many of each class, which needs the labels that are asked for.
Each round fits a linear probe (C as given, not searched) and scores it on the test part. Every way runs REPEATS times
from the same start, because what random choice meets varies. `labels` is how many each way needs for the accuracy that
random ones reach with eight a class, on the mean curve; `value` is that of `suggest` in percent of random's.

clean: of wrong labels planted in 5 % of 16 shots, how many are among twice as many that are ranked first; `alike`: the
wrong label is one of the two classes whose mean is most like the right one's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shotfit.checkpoints.weights import load_in
from shotfit.commands.arguments import as_numbers
from shotfit.data.readers import read_task
from shotfit.data.shots import draw
from shotfit.data.tasks import Task
from shotfit.engine.frozen import Frozen
from shotfit.engine.store import cache_folder, open_store
from shotfit.evaluation.confident import judge_labels
from shotfit.evaluation.evaluate import evaluate
from shotfit.evaluation.suggest import choose
from shotfit.fitting.embedding import features_of
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model

__all__ = ["found", "needed"]

START, END, SHARE, SHOTS, REPEATS = 2, 8, 0.05, 16, 4
Way = Literal["suggest", "random", "balanced"]
WAYS: tuple[Way, ...] = ("random", "balanced", "suggest")
Matrix = NDArray[Any]


def needed(task: Task, frozen: Frozen, seeds: Sequence[int]) -> dict[str, Any]:
    """Labels that each way needs, and its mean accuracy at each number of labels."""
    features = features_of(frozen, [item.picture for item in task.train])
    classes = len(task.classes.names)
    counts = [shots * classes for shots in range(START, END + 1)]
    curves = {
        way: np.mean(
            [_curve(task, frozen, features, way, seed, repeat) for seed in seeds for repeat in range(REPEATS)], axis=0
        )
        for way in WAYS
    }
    goal = curves["random"][-1]
    labels = {way: _reached(curve, counts, goal) for way, curve in curves.items()}
    ours, theirs = labels["suggest"], labels["random"] or counts[-1]
    return {
        "name": "suggest",
        "data": task.name,
        "value": None if ours is None else round(100 * ours / theirs, 1),
        "unit": "% of the labels that random choice needs",
        "labels": labels,
        "accuracies": {way: [round(100 * one, 2) for one in curve.tolist()] for way, curve in curves.items()},
        "labelled": counts,
        "seeds": list(seeds),
        "repeats": REPEATS,
        "test_images": len(task.test),
    }


def _curve(task: Task, frozen: Frozen, features: Matrix, way: Way, seed: int, repeat: int) -> list[float]:
    """Test accuracy at START, START + 1, ... END labels a class on average."""
    classes, random = len(task.classes.names), np.random.default_rng([seed, repeat])
    own = np.array([item.label for item in task.train])
    labelled, _ = draw(own.tolist(), [], START, seed)
    found = []
    for shots in range(START, END + 1):
        support = replace(task, train=tuple(task.train[row] for row in labelled), val=(), held_out=None)
        model = fit(
            support, "linear_probe", options={"search": False}, backbone=frozen.backbone, store=frozen.store,
            check=False, views="center",
        )  # fmt: skip
        found.append(evaluate(model, task.test).accuracy)
        if shots < END:
            pool = np.setdiff1d(np.arange(len(own)), labelled)
            labelled += pool[_chosen(way, model, task, features, labelled, pool, classes, random)].tolist()
    return found


def _chosen(
    way: Way, model: Model, task: Task, features: Matrix, labelled: Sequence[int], pool: Matrix, count: int,
    random: np.random.Generator,
) -> Matrix:  # fmt: skip
    """Places in the pool of the `count` images to label next."""
    if way == "random":
        return random.choice(len(pool), count, replace=False)
    if way == "suggest":
        probabilities = model.probabilities([task.train[row] for row in pool]).numpy()
        drawn = int(random.integers(2**31))
        return np.array(
            choose(features[pool], probabilities, count, labelled=features[list(labelled)], seed=drawn).rows
        )
    own = np.array([task.train[row].label for row in pool])
    held = np.bincount([task.train[row].label for row in labelled], minlength=count)
    order, taken = random.permutation(len(pool)), list[int]()
    for _ in range(count):  # one of the class that has the fewest and has some left
        left = [place for place in order if place not in taken]
        fewest = min(left, key=lambda place: held[own[place]])
        held[own[fewest]] += 1
        taken.append(int(fewest))
    return np.array(taken)


def _reached(curve: Matrix, counts: Sequence[int], goal: float) -> float | None:
    """The labels at which a curve first reaches an accuracy, between two rounds along the line; None: it does not."""
    for place, value in enumerate(curve):
        if value >= goal:
            if place == 0:
                return float(counts[0])
            part = (goal - curve[place - 1]) / (value - curve[place - 1])
            return round(float(counts[place - 1] + part * (counts[place] - counts[place - 1])), 1)
    return None


def found(task: Task, frozen: Frozen, seeds: Sequence[int], alike: bool) -> dict[str, Any]:
    """How many of the planted labels are among twice as many that are ranked first."""
    features = features_of(frozen, [item.picture for item in task.train])
    own, classes = np.array([item.label for item in task.train]), len(task.classes.names)
    means = np.stack([features[own == label].mean(axis=0) for label in range(classes)])
    cosines = means @ means.T / np.outer(np.linalg.norm(means, axis=1), np.linalg.norm(means, axis=1))
    np.fill_diagonal(cosines, -1)
    near = np.argsort(-cosines, axis=1)[:, :2]
    first, images, planted = [], 0, 0
    for seed in seeds:
        rows, _ = draw(own.tolist(), [], SHOTS, seed)
        random, labels = np.random.default_rng(seed), own[rows].copy()
        images, planted = len(rows), round(SHARE * len(rows))
        wrong = random.choice(images, planted, replace=False)
        if alike:
            labels[wrong] = near[labels[wrong], random.integers(0, 2, planted)]
        else:
            labels[wrong] = (labels[wrong] + random.integers(1, classes, planted)) % classes
        judged = judge_labels(features[rows], labels, classes)
        first.append(int(np.isin(judged.order[: 2 * planted], wrong).sum()))
    return {
        "name": "clean, alike" if alike else "clean",
        "data": task.name,
        "value": round(float(np.mean(first)), 1),
        "unit": f"of {planted} planted labels among the first {2 * planted} of {images:,}",
        "found": first,
        "seeds": list(seeds),
    }


def labels(folders: Sequence[Path], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """One measurement for each data set and question."""
    frozen = Frozen(load_in("mini", "float32"), open_store())
    for folder in folders:
        task = read_task(folder, cache=cache_folder())
        yield found(task, frozen, seeds, alike=False)
        yield found(task, frozen, seeds, alike=True)
        yield needed(task, frozen, seeds)


def main() -> None:
    """Print the measurements that the arguments ask for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.labels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="folders of images")
    parser.add_argument("--seeds", default="1,2,3,4,5", help="numbers between commas")
    given = parser.parse_args()
    for line in labels(given.data, as_numbers("--seeds", given.seeds)):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
