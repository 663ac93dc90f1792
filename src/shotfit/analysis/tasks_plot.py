"""Likeness of tasks as drawings: a dendrogram, and a heat map of each measure with tasks in its order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shotfit.analysis.tasks import Likeness, linked
from shotfit.report.page import named_place
from shotfit.report.svg import INK, plot_file, shortened

__all__ = ["plot_tasks"]

NUMBERED = 12  # tasks up to which cells have their number
NAMED = 80  # tasks up to which names stand at the sides


def plot_tasks(found: Likeness, out: Path) -> None:
    """Write the drawing, SVG or PNG.

    Raises UsageError for another kind of file, or where the extra `report` is not installed.
    """
    from scipy.cluster.hierarchy import dendrogram

    maps: list[tuple[str, NDArray[Any], str]] = [("names: cosine", found.by_name, "")]
    if found.by_context is not None:
        maps.append(("contexts: cosine", found.by_context, ""))
    if found.gains is not None:
        points = 100 * found.gains.mean
        maps.append((f"{found.gains.method}, fitted on a row, judged on a column: gain, points", points, "gain"))
    count = len(found.names)
    side = min(max(2.6 + 0.22 * count, 3.6), 9.0)
    names = [shortened(name, 24) for name in found.names]
    with plot_file(out, (len(maps)) * (side + 0.6), side + 1.9) as figure:
        grid = figure.add_gridspec(2, len(maps), height_ratios=[1.7, side])
        above = figure.add_subplot(grid[0, :])
        colors: dict[str, Any] = {"color_threshold": 0, "above_threshold_color": INK}
        drawn = dendrogram(linked(found.distances), ax=above, labels=names, **colors)
        above.grid(False)
        above.set_ylabel("distance")
        above.set_title(f"{named_place(found.backbone)}: {count} tasks by {found.basis}, average linkage", fontsize=9)
        above.tick_params(axis="x", rotation=30 if count <= NUMBERED else 90, labelsize=8 if count <= 40 else 4)
        if count > NAMED:
            above.set_xticks([])
        order = drawn["leaves"]
        for place, (title, values, kind) in enumerate(maps):
            axes = figure.add_subplot(grid[1, place])
            shown = values[np.ix_(order, order)]
            apart = shown[~np.eye(count, dtype=bool)]
            reach = float(np.abs(shown).max()) or 1.0
            low, high = (-reach, reach) if kind else (float(apart.min()), float(apart.max()))
            image = axes.imshow(shown, cmap="RdBu" if kind else "cividis", vmin=low, vmax=max(high, low + 1e-9))
            axes.grid(False)
            axes.set_title(title, fontsize=9)
            figure.colorbar(image, ax=axes, shrink=0.8)
            ticks = [names[number] for number in order] if count <= NAMED else []
            size = 8 if count <= 20 else 5 if count <= 50 else 3.5
            axes.set_xticks(range(len(ticks)), ticks, rotation=90, fontsize=size)
            axes.set_yticks(range(len(ticks)), ticks if place == 0 else [""] * len(ticks), fontsize=size)
            for row in range(count) if count <= NUMBERED else ():
                for column in range(count):
                    value = shown[row, column]
                    dark = abs(value) > 0.6 * reach if kind else value < (low + high) / 2
                    text = f"{value:+.1f}" if kind else f"{value:.2f}"
                    color = "white" if dark else "black"
                    axes.text(column, row, text, ha="center", va="center", fontsize=6, color=color)
