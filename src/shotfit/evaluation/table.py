"""The table of a comparison: mean and spread over seeds, a method a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from shotfit.evaluation.protocols import Summary

__all__ = ["Row", "selections", "summarize", "table"]


@dataclass(frozen=True)
class Row:
    """One cell of the table: a method with a number of shots in one column, over the seeds.

    accuracies: fractions from 0 to 1, one for each seed. mean: their mean; that of the column H is the harmonic mean of
    the means of base and new, as papers print it. spread: the standard deviation over seeds (n - 1), None for one seed.
    seconds: mean time of the fits. images: how many were judged; 0 in a column made of others. selection: what the
    method chose anything by, as the runs say; where they differ, that of each once.
    """

    method: str
    shots: int
    column: str
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    mean: float
    spread: float | None
    seconds: float
    images: int
    selection: str = ""

    def as_json(self) -> dict[str, Any]:
        """The row as plain data."""
        return asdict(self)


def summarize(runs: Iterable[Mapping[str, Any]], summaries: Sequence[Summary] = ()) -> list[Row]:
    """Rows of the table, in the order in which method, shots and columns first appear, the summaries last."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["method"], run["shots"]), []).append(run)
    return [row for (method, number), group in groups.items() for row in _rows(method, number, group, summaries)]


def table(rows: Sequence[Row], columns: Sequence[str] = ()) -> list[str]:
    """The rows as lines: a method a line, accuracies in percent, "-" where there is none.

    One column of scores: a number of shots a column. Several: one table for each number of shots. columns: all that are
    to stand there, in order; else those that have rows.
    """
    methods = list(dict.fromkeys(row.method for row in rows))
    shots = list(dict.fromkeys(row.shots for row in rows))
    titles = list(columns or dict.fromkeys(row.column for row in rows))
    cells = {(row.method, row.shots, row.column): f"{100 * row.mean:.1f}" + _plus_minus(row.spread) for row in rows}
    if len(titles) == 1:
        head = ["method", *(_shots(number) for number in shots)]
        return _aligned(
            [head, *([name, *(cells.get((name, number, titles[0]), "-") for number in shots)] for name in methods)]
        )
    lines = []
    for number in shots:
        head = [_shots(number), *titles]
        lines += _aligned(
            [head, *([name, *(cells.get((name, number, title), "-") for title in titles)] for name in methods)]
        )
        lines.append("")
    return lines[:-1]


def selections(rows: Sequence[Row]) -> list[str]:
    """What each method chose anything by, a line for each way, of the methods that choose at all."""
    several = len({row.shots for row in rows}) > 1
    ways: dict[str, list[str]] = {}
    for row in rows:
        if row.selection:
            ways.setdefault(row.selection, []).append(row.method + (f" ({_shots(row.shots)})" if several else ""))
    return [f"selection of {', '.join(dict.fromkeys(methods))}: {way}" for way, methods in ways.items()]


def _chosen(selection: str) -> bool:
    return bool(selection) and not selection.startswith("nothing was chosen")


def _rows(method: str, shots: int, runs: Sequence[Mapping[str, Any]], summaries: Sequence[Summary]) -> Iterator[Row]:
    seeds = tuple(dict.fromkeys(run["seed"] for run in runs))
    columns: dict[str, dict[int, Mapping[str, Any]]] = {}
    for run in runs:
        for column, scores in run["scores"].items():
            if scores is not None:
                columns.setdefault(column, {})[run["seed"]] = scores
    seconds = sum(run["seconds"] for run in runs) / len(seeds)
    selection = "; ".join(dict.fromkeys(filter(_chosen, (run.get("selection", "") for run in runs))))
    columns = {column: found for column, found in columns.items() if len(found) == len(seeds)}
    values: dict[str, tuple[float, ...]] = {}
    means: dict[str, float] = {}
    for column, found in columns.items():
        values[column] = tuple(float(found[seed]["accuracy"]) for seed in seeds)
        means[column], images = fmean(values[column]), next(iter(found.values()))["images"]
        spread = _spread(values[column])
        yield Row(method, shots, column, seeds, values[column], means[column], spread, seconds, images, selection)
    for summary in summaries:
        if not all(column in values for column in summary.over):
            continue
        name, parts = summary.column, [values[column] for column in summary.over]
        values[name] = tuple(summary.of(of_seed) for of_seed in zip(*parts, strict=True))
        means[name] = summary.of([means[column] for column in summary.over])
        yield Row(method, shots, name, seeds, values[name], means[name], _spread(values[name]), seconds, 0, selection)


def _spread(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _plus_minus(spread: float | None) -> str:
    return "" if spread is None else f" ± {100 * spread:.1f}"


def _shots(number: int) -> str:
    return f"{number} shot{'s' if number > 1 else ''}"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(
            [f"{line[0]:{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
