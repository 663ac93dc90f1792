"""From finished runs to the rows of a comparison: means, intervals, tests against the best row, and costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from shotfit.evaluation.intervals import Interval, interval_by_image, interval_by_seed
from shotfit.evaluation.paired import favoured, holm, mcnemar
from shotfit.evaluation.protocols import Summary
from shotfit.evaluation.runs import as_bits
from shotfit.fitting.notebook import frame, html_table

if TYPE_CHECKING:
    import pandas

__all__ = ["SIGNIFICANT", "Row", "Rows", "Standing", "summarize"]

SIGNIFICANT = 0.05  # a p-value below it, corrected for the whole table, tells a row from the best

Standing = Literal["best", "alike", "worse", "untested", ""]


@dataclass(frozen=True)
class Row:
    """One cell of the table: a method with a number of shots in one column, over the seeds.

    accuracies: fractions from 0 to 1, one for each seed. mean: their mean; that of the column H is the harmonic mean of
    the means of base and new, as papers print it. spread: the standard deviation over seeds (n - 1), None for one seed.
    seconds: mean time of the fits. images: how many were judged; 0 in a column made of others. selection: what the
    method chose anything by, as the runs say; where they differ, that of each once.

    interval_by_image, interval_by_seed: 95 % intervals of the mean, where they can be had (no images in a column
    made of others; one seed). standing: the best of its column, alike (not told apart from the best), worse, or
    untested for want of answers image by image; empty where nothing of the column was tested. p: of the test
    against the best, after Holm's correction over the table. peak_memory: bytes, the largest of the fits.
    model_bytes: of the saved model or models. images_per_second: of prediction. published: the authors' figure for
    this method, data set and number of shots, and published_by: its backbone and source.
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
    interval_by_image: Interval | None = None
    interval_by_seed: Interval | None = None
    standing: Standing = ""
    p: float | None = None
    peak_memory: int | None = None
    model_bytes: int | None = None
    images_per_second: float | None = None
    published: float | None = None
    published_by: str = ""

    def as_json(self) -> dict[str, Any]:
        """The row as plain data."""
        return asdict(self)


class Rows(list[Row]):
    """The rows of a comparison, which a notebook shows as a table."""

    def to_frame(self) -> pandas.DataFrame:
        """A row for each; see `Row` for the columns. UsageError where pandas is missing."""
        return frame([row.as_json() for row in self])

    def _repr_html_(self) -> str:
        cells = [
            {
                "method": row.method,
                "shots": row.shots,
                "column": row.column,
                "accuracy": f"{100 * row.mean:.1f}" + ("" if row.spread is None else f" ± {100 * row.spread:.1f}"),
                "seconds": f"{row.seconds:.1f}",
                "standing": row.standing,
            }
            for row in self
        ]
        return html_table(cells, title="accuracy in percent")


def summarize(runs: Iterable[Mapping[str, Any]], summaries: Sequence[Summary] = ()) -> list[Row]:
    """Rows of the table, in the order in which method, shots and columns first appear, the summaries last.

    Rows are tested against the best of their column where the runs say which images are right.
    """
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["method"], run["shots"]), []).append(run)
    rows, right = list[Row](), list[NDArray[Any] | None]()
    for (method, number), group in groups.items():
        for row, counts in _rows(method, number, group, summaries):
            rows.append(row)
            right.append(counts)
    return _tested(rows, right)


def _tested(rows: Sequence[Row], right: Sequence[NDArray[Any] | None]) -> list[Row]:
    """The rows with their standing. right: of each row, how many seeds are right on each image, [images]."""
    cells: dict[tuple[int, str], list[int]] = {}
    for place, row in enumerate(rows):
        cells.setdefault((row.shots, row.column), []).append(place)
    found = list(rows)
    tests: list[tuple[int, float]] = []
    for places in cells.values():
        best = max(places, key=lambda place: rows[place].mean)  # the first of several
        ours = right[best]
        if ours is None:
            continue
        for place in places:
            theirs = right[place]
            if place == best:
                continue
            found[best] = replace(found[best], standing="best")
            if theirs is None or (rows[place].seeds, len(theirs)) != (rows[best].seeds, len(ours)):
                found[place] = replace(found[place], standing="untested")
            else:
                tests.append((place, mcnemar(*favoured(ours, theirs))))
    for (place, _), p in zip(tests, holm([value for _, value in tests]), strict=True):
        found[place] = replace(found[place], p=p, standing="worse" if p < SIGNIFICANT else "alike")
    return found


def _rows(
    method: str, shots: int, runs: Sequence[Mapping[str, Any]], summaries: Sequence[Summary]
) -> Iterator[tuple[Row, NDArray[Any] | None]]:
    """The rows of one method and number of shots, each with how many seeds are right on each image."""
    seeds = tuple(dict.fromkeys(run["seed"] for run in runs))
    columns: dict[str, dict[int, Mapping[str, Any]]] = {}
    for run in runs:
        for column, scores in run["scores"].items():
            if scores is not None:
                columns.setdefault(column, {})[run["seed"]] = scores
    selection = "; ".join(dict.fromkeys(filter(_chosen, (run.get("selection", "") for run in runs))))
    columns = {column: found for column, found in columns.items() if len(found) == len(seeds)}
    values: dict[str, tuple[float, ...]] = {}
    means: dict[str, float] = {}

    def row(column: str, images: int = 0) -> Row:
        return Row(
            method, shots, column, seeds, values[column], means[column],
            stdev(values[column]) if len(seeds) > 1 else None,
            seconds=sum(run["seconds"] for run in runs) / len(seeds),
            images=images, selection=selection, interval_by_seed=interval_by_seed(values[column]),
            **_costs(runs, seeds),
        )  # fmt: skip

    for column, found in columns.items():
        values[column] = tuple(float(found[seed]["accuracy"]) for seed in seeds)
        means[column], images = fmean(values[column]), next(iter(found.values()))["images"]
        right = _right([found[seed] for seed in seeds])
        by_image = None if right is None else interval_by_image(right / len(seeds))
        yield replace(row(column, images), interval_by_image=by_image), right
    for summary in summaries:
        if not all(column in values for column in summary.over):
            continue
        name, parts = summary.column, [values[column] for column in summary.over]
        values[name] = tuple(summary.of(of_seed) for of_seed in zip(*parts, strict=True))
        means[name] = summary.of([means[column] for column in summary.over])
        yield row(name), None


def _right(scores: Sequence[Mapping[str, Any]]) -> NDArray[Any] | None:
    """How many of the seeds are right on each image, [images]; None where one of them does not say."""
    bits = [own for own in map(as_bits, scores) if own is not None]
    if len(bits) < len(scores) or len({len(own) for own in bits}) > 1:
        return None
    return np.sum(bits, axis=0)


def _costs(runs: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """What the runs of a row cost; None where one of them does not say. Of the speed, one that says it is enough."""
    peaks, sizes = ([run[name] for run in runs if run.get(name)] for name in ("peak_memory", "model_bytes"))
    speeds = [run["images_per_second"] for run in runs if run.get("images_per_second")]
    return {
        "peak_memory": max(peaks) if len(peaks) == len(runs) else None,
        "model_bytes": round(sum(sizes) / len(seeds)) if len(sizes) == len(runs) else None,
        "images_per_second": round(fmean(speeds), 1) if speeds else None,
    }


def _chosen(selection: str) -> bool:
    return bool(selection) and not selection.startswith("nothing was chosen")
