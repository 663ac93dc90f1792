"""The drawings of a comparison: accuracy against shots with bands, and what the accuracy costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shotfit.evaluation.intervals import Interval
from shotfit.evaluation.rows import Row
from shotfit.report.svg import LINES, MUTED, drawing, shortened

__all__ = ["against_cost", "against_shots", "band"]

MARKS = "os^DvP*X"
DASHES = ("-", "--", ":", "-.")
FEWEST_SEEDS = 3  # of two, an interval by seed is as wide as the axis
FACTOR = 8  # between costs, from which on the axis is one of factors
NAMED = 24  # points that have their names beside them


def band(row: Row) -> Interval:
    """What a row's mean is known to: its interval by seed where that says something, else by image, else none."""
    by_seed = row.interval_by_seed if len(row.seeds) >= FEWEST_SEEDS else None
    return by_seed or row.interval_by_image or (row.mean, row.mean)


def against_shots(rows: Sequence[Row], column: str, name: str) -> str:
    """Accuracy of each method against the number of shots, with bands; of one number of shots, a line a method."""
    own = [row for row in rows if row.column == column]
    methods, shots = list(dict.fromkeys(row.method for row in own)), sorted({row.shots for row in own})
    told = "; ".join(f"{shortened(row.method)}, {row.shots} shots: {100 * row.mean:.1f} %" for row in own[:50])
    title = f"Accuracy on {shortened(column)} by the number of shots. {told}."
    if len(shots) == 1:
        return _one_number(own, title, name)
    with drawing(6.6, 4.2, title, name) as drawn:
        axes = drawn.figure.subplots()
        for number, method in enumerate(methods):
            line = sorted((row for row in own if row.method == method), key=lambda row: row.shots)
            places = [shots.index(row.shots) for row in line]
            color, mark = LINES[number % len(LINES)], MARKS[number % len(MARKS)]
            dash = DASHES[number // len(LINES) % len(DASHES)]
            axes.plot(
                places, [100 * row.mean for row in line], dash, color=color, marker=mark, markersize=6,
                label=shortened(method, 34),
            )  # fmt: skip
            ends = [band(row) for row in line]
            axes.fill_between(
                places, [100 * low for low, _ in ends], [100 * high for _, high in ends], color=color, alpha=0.16,
                linewidth=0,
            )  # fmt: skip
        axes.set_xticks(range(len(shots)), [f"{number:,}" for number in shots])
        axes.set_xlabel("labelled images a class")
        axes.set_ylabel("accuracy in percent")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return drawn.svg


def _one_number(rows: Sequence[Row], title: str, name: str) -> str:
    with drawing(5.0, 0.7 + 0.32 * len(rows), title, name) as drawn:
        axes = drawn.figure.subplots()
        for place, row in enumerate(rows):
            color, (low, high) = LINES[place % len(LINES)], band(row)
            axes.hlines(place, 100 * low, 100 * high, color=color, linewidth=5, alpha=0.45)
            axes.plot([100 * row.mean], [place], "o", color=color, markersize=7)
        axes.set_yticks(range(len(rows)), [shortened(row.method, 30) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(f"accuracy in percent, {rows[0].shots} shots" if rows else "accuracy in percent")
        axes.grid(False, axis="y")
    return drawn.svg


def against_cost(rows: Sequence[Row], cost: Callable[[Row], float | None], label: str, name: str) -> str | None:
    """Accuracy against what a row costs; None where no row says that.

    rows: of one column. label: of the axis.
    """
    known = [(row, value) for row in rows if (value := cost(row)) is not None and value > 0]
    if not known:
        return None
    methods = list(dict.fromkeys(row.method for row, _ in known))
    several = len({row.shots for row, _ in known}) > 1
    told = "; ".join(f"{shortened(row.method)}, {row.shots} shots: {value:,.3g}" for row, value in known[:50])
    with drawing(6.6, 4.2, f"Accuracy against {label}. {told}.", name) as drawn:
        axes = drawn.figure.subplots()
        for number, method in enumerate(methods):
            own = [(row, value) for row, value in known if row.method == method]
            axes.plot(
                [value for _, value in own], [100 * row.mean for row, _ in own], DASHES[2],
                color=LINES[number % len(LINES)], marker=MARKS[number % len(MARKS)], markersize=7, linewidth=1,
                label=shortened(method, 34),
            )  # fmt: skip
            for row, value in own if several and len(known) <= NAMED else []:
                axes.annotate(
                    f"{row.shots:,}", (value, 100 * row.mean), xytext=(6, 4), textcoords="offset points", fontsize=7,
                    color=MUTED,
                )  # fmt: skip
        values = [value for _, value in known]
        if max(values) > FACTOR * min(values):
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
        axes.set_xlabel(label + (" (numbers: shots)" if several and len(known) <= NAMED else ""))
        axes.set_ylabel("accuracy in percent")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return drawn.svg
