"""What the leaderboard's runs say: each method on each data set, mean ranks, and how far ranks must lie apart to count.

    found = read(RESULTS)                          # by method, recipe and shots, then by data set
    found["mma", "paper", 16]["dtd"].accuracy
    ranked = mean_ranks(accuracies(found, "paper", 16))
    friedman(...), critical_difference(len(ranked), len(SETS))

Ranks are compared as in Demsar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7, 2006:
Friedman's test says whether methods differ at all, and two of them differ by Nemenyi's test where their mean ranks over
N data sets lie further apart than q sqrt(k (k + 1) / 6N), q the 95 % point of the range of k normal values / sqrt(2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from shotfit.evaluation.runs import read_runs
from shotfit.methods import METHODS, find

__all__ = [
    "LEFT_OUT",
    "RACE",
    "RESULTS",
    "SETS",
    "Figure",
    "Standings",
    "accuracies",
    "critical_difference",
    "friedman",
    "key_of",
    "mean_accuracy",
    "mean_ranks",
    "read",
]

RESULTS = Path(__file__).parent / "leaderboard.jsonl"
LEFT_OUT = RESULTS.with_name("leaderboard_left_out.json")  # what was forecast to take too long
SETS = ("caltech101", "dtd", "flowers17", "gtsrb", "rbc_shapes", "grocery")
RACE = "auto"  # the plain command: what `fit` does where no method is named

Key = tuple[str, str, int]  # method, recipe, shots


@dataclass(frozen=True)
class Figure:
    """A method on one data set. accuracies: in percent, by seed; the rest: means over the seeds, of memory the most."""

    accuracies: Mapping[int, float]
    seconds: float
    memory: int | None
    bytes: float | None

    @property
    def accuracy(self) -> float:
        """The mean over the seeds."""
        return fmean(self.accuracies.values())

    @property
    def spread(self) -> float | None:
        """The standard deviation over the seeds; None for one."""
        return stdev(self.accuracies.values()) if len(self.accuracies) > 1 else None


Standings = dict[Key, dict[str, Figure]]


def key_of(run: Mapping[str, Any]) -> tuple[Key, str, int]:
    """What a run is of: its key in the standings, the data set and the seed."""
    method, _, recipe = run["method"].partition("@")
    return (method, recipe or "auto", run["shots"]), Path(run["data"][0]).name, run["seed"]


def read(path: Path = RESULTS) -> Standings:
    """All finished runs. A method that `auto` chooses nothing of has the figures of its paper's recipe for `auto` too.

    Of several runs of one seed the last counts. A fit that diverged has no figure.
    """
    runs: dict[Key, dict[str, dict[int, Mapping[str, Any]]]] = {}
    for run in read_runs(path).values():
        key, data, seed = key_of(run)
        if run["scores"].get(data) is not None:
            runs.setdefault(key, {}).setdefault(data, {})[seed] = run
    found = {key: {data: _figure(data, by_seed) for data, by_seed in own.items()} for key, own in runs.items()}
    alike = [name for name in METHODS if find(name).grid is None]
    return found | {(name, "auto", shots): own for (name, _, shots), own in found.items() if name in alike}


def _figure(data: str, by_seed: Mapping[int, Mapping[str, Any]]) -> Figure:
    runs = list(by_seed.values())
    sizes = [run["model_bytes"] for run in runs if run.get("model_bytes")]
    return Figure(
        {seed: 100 * run["scores"][data]["accuracy"] for seed, run in sorted(by_seed.items())},
        fmean(run["seconds"] for run in runs),
        max((run["peak_memory"] for run in runs if run.get("peak_memory")), default=None),
        fmean(sizes) if sizes else None,
    )


def accuracies(found: Standings, recipe: str, shots: int) -> dict[str, dict[str, float]]:
    """Accuracies in percent by method and data set, in the order of the table of methods, the race last."""
    cells = {name: found.get((name, recipe, shots), {}) for name in (*METHODS, RACE)}
    return {name: {data: own.accuracy for data, own in row.items()} for name, row in cells.items() if row}


def mean_accuracy(own: Mapping[str, Figure]) -> float:
    """The mean over the data sets, each counted once."""
    return fmean(figure.accuracy for figure in own.values())


def mean_ranks(table: Mapping[str, Mapping[str, float]], sets: Sequence[str] = SETS) -> dict[str, float]:
    """The mean rank over the data sets of each method that was run on all of them, the best first; 1 is the best.

    >>> mean_ranks({"a": {"x": 90, "y": 70}, "b": {"x": 80, "y": 70}, "c": {"x": 99}}, ("x", "y"))
    {'a': 1.25, 'b': 1.75}
    """
    from scipy.stats import rankdata

    whole = {name: row for name, row in table.items() if all(data in row for data in sets)}
    if not whole:
        return {}
    values = np.array([[row[data] for data in sets] for row in whole.values()])  # [methods, sets]
    ranks = rankdata(-values, axis=0).mean(axis=1)
    return dict(sorted(zip(whole, map(float, ranks), strict=True), key=lambda pair: pair[1]))


def friedman(table: Mapping[str, Mapping[str, float]], sets: Sequence[str] = SETS) -> float:
    """p of Friedman's test that the ranks are chance, of three or more methods that were run on all data sets."""
    from scipy.stats import friedmanchisquare

    rows = [[row[data] for data in sets] for row in table.values() if all(data in row for data in sets)]
    return float(friedmanchisquare(*rows).pvalue)


def critical_difference(methods: int, sets: int) -> float:
    """How far two mean ranks must lie apart to be told apart at 5 % (Nemenyi).

    >>> round(critical_difference(5, 30), 3)  # q is 2.728, as in Demsar's table 5
    1.114
    """
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(0.95, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * sets))
