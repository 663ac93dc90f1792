"""The plots of difficulty and of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shotfit.analysis.difficulty import PUBLISHED, Difficulty
from shotfit.analysis.gains import ROLES, Gain
from shotfit.analysis.pairs import HALVES, Pairs
from shotfit.analysis.similarities import BINS, Summary
from shotfit.report.svg import LINES, MUTED, plot_file, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PAIRS_SIZE", "draw_pairs", "plot_difficulty", "plot_pairs"]

PAIRS_SIZE = 8.0, 7.4  # inches

MARKS = "os^"
NAMED = 24  # tasks up to which each point has its name
SIZE, LINE = 8, 10  # of a point's name, and of its line: typographic points
BELOW = 0.75  # of the height: distributions; the legend stands above
WIDE = 4  # separability from which on its axis is one of factors


def plot_difficulty(found: Sequence[Difficulty], gains: Sequence[Gain], out: Path) -> None:
    """Write a drawing of separability against rtd, beside the paper's figures; with gains, these against rtd too.

    Raises UsageError for a file that ends neither in .svg nor in .png, or where the extra `report` is not installed.
    """
    with plot_file(out, 11.0 if gains else 6.4, 4.4) as figure:
        left, *right = figure.subplots(1, 2 if gains else 1, squeeze=False)[0]
        _draw_separability(figure, left, found)
        for axes in right:
            _draw_gains(axes, found, gains)


def plot_pairs(found: Pairs, out: Path) -> None:
    """Write a drawing of the distributions and of what each half decides; raises as `plot_difficulty` does."""
    with plot_file(out, *PAIRS_SIZE) as figure:
        draw_pairs(figure, found)


def _draw_separability(figure: Figure, axes: Axes, found: Sequence[Difficulty]) -> None:
    known = [(one.task, one.rtd, one.separability) for one in found if one.rtd and one.separability]
    axes.plot(*zip(*PUBLISHED.values(), strict=True), "x", color=MUTED, label="the paper's sets, ViT-B/16")
    axes.plot([rtd for _, rtd, _ in known], [ratio for *_, ratio in known], "o", color=LINES[0], label="here")
    _log(axes, [rtd for _, rtd, _ in known] + [rtd for rtd, _ in PUBLISHED.values()])
    axes.set_xlabel("rtd: accuracy of guessing / of zero-shot (1: chance)")
    axes.set_ylabel("separability: cosine within classes / between")
    if any(ratio > WIDE for *_, ratio in known):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.legend(loc="upper right", fontsize=8)
    if len(known) <= NAMED:
        _name_points(figure, axes, known)


def _name_points(figure: Figure, axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """A name to the right of each point, above or below those that are there already."""
    figure.draw_without_rendering()  # the layout gives the axes their size
    there: list[tuple[float, float, float]] = []  # left, right and middle of a name, in typographic points
    for task, x, y in points:
        name, place = shortened(task, 20), (x, y)
        left, bottom = axes.transData.transform(place) * 72 / figure.dpi
        right = left + 0.65 * SIZE * len(name)
        for step in range(2 * len(points)):
            shift = LINE * ((step + 1) // 2) * (-1) ** step
            middle = bottom + shift
            if not any(a < right and left < b and abs(middle - c) < LINE for a, b, c in there):
                break
        there.append((left, right, middle))
        axes.annotate(name, place, xytext=(5, 4 + shift), textcoords="offset points", fontsize=SIZE)


def _draw_gains(axes: Axes, found: Sequence[Difficulty], gains: Sequence[Gain]) -> None:
    rtd = {one.task: one.rtd for one in found}
    for place, role in enumerate(ROLES):
        own = [gain for gain in gains if gain.role == role and rtd[gain.task]]
        own.sort(key=lambda gain: rtd[gain.task] or 0)
        if own:
            axes.errorbar(
                [rtd[gain.task] or 0 for gain in own], [100 * gain.mean for gain in own],
                [100 * (gain.spread or 0) for gain in own], fmt=MARKS[place], color=LINES[place], markersize=5,
                label=f"{role}: {shortened(own[0].method, 30)}",
            )  # fmt: skip
    _log(axes, [value for value in rtd.values() if value])
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xlabel("rtd")
    axes.set_ylabel("gain over zero-shot in points")
    axes.legend(loc="upper left", fontsize=8)


def _log(axes: Axes, values: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(min(values, default=0.01) / 2, max([1.2, *values]) * 3)  # names stand to the right


def draw_pairs(figure: Figure, found: Pairs) -> None:
    """How alike images are to each kind of thing, of their own class and of others; what each half decides alone."""
    grid = figure.add_gridspec(3, 2, height_ratios=(3, 3, 2.4))
    for place, (name, kind) in enumerate(found.kinds.items()):
        axes = figure.add_subplot(grid[place // 2, place % 2])
        for color, label, summary in ((LINES[0], "own class", kind.own), (LINES[1], "other classes", kind.other)):
            _draw_distribution(axes, summary, color, f"{label}: {summary.mean:.3f}")
        axes.set_title(f"{name}: own one nearer in {100 * kind.nearer.mean:.0f} %", fontsize=9)
        axes.set_yticks([])
        axes.set_ylim(0, axes.get_ylim()[1] / BELOW)
        axes.set_xlabel("cosine")
        axes.legend(loc="upper right", fontsize=7)
    axes = figure.add_subplot(grid[2, :])
    for place, name in enumerate(HALVES):
        share = found.halves[name]
        axes.barh(place, 100 * share.mean, xerr=100 * (share.spread or 0), color=LINES[place], height=0.6)
    axes.axvline(100 / found.classes, color=MUTED, linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(HALVES)), [f"{name} alone" if name != "both" else name for name in HALVES])
    axes.set_ylim(len(HALVES) - 0.4, -0.6)
    axes.set_xlabel("training images put into their class, in percent (dashed: chance)")
    axes.grid(False, axis="y")


def _draw_distribution(axes: Axes, summary: Summary, color: str, label: str) -> None:
    counts = np.asarray(summary.counts, dtype=float)
    (there,) = np.nonzero(counts)
    some = slice(int(there[0]), int(there[-1]) + 1)
    edges = np.linspace(-1, 1, BINS + 1)[some.start : some.stop + 1]
    axes.stairs(counts[some] / counts.sum(), edges, color=color, fill=True, alpha=0.35)
    axes.stairs(counts[some] / counts.sum(), edges, color=color, label=label)
    axes.axvline(summary.mean, ymax=BELOW, color=color, linewidth=1)
