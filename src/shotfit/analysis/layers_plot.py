"""The layers as a drawing like the paper's: what each level tells, and the gap below."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from shotfit.analysis.layers import Layers, spread
from shotfit.report.page import named_place
from shotfit.report.svg import LINES, MUTED, plot_file

__all__ = ["plot_layers"]


def plot_layers(found: Layers, out: Path) -> None:
    """Write the drawing, SVG or PNG.

    Raises UsageError for another kind of file, or where the extra `report` is not installed.
    """
    levels, places = found.levels, range(len(found.levels))
    with plot_file(out, 6.4, 5.2) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        for side, color, mark in (("image", LINES[0], "o"), ("text", LINES[1], "s")):
            told = [level.image_told if side == "image" else level.text_told for level in levels]
            own = [place for place in places if told[place]]
            means = [100 * fmean(told[place]) for place in own]
            errors = [100 * (spread(told[place]) or 0) for place in own]
            above.errorbar(own, means, yerr=errors, color=color, marker=mark, capsize=3, label=f"{side}s")
        above.axhline(100 * found.chance, color=MUTED, linestyle=":", label="guessing")
        above.set_ylabel("data set recognised, percent")
        above.set_ylim(0, 102)
        above.legend(loc="lower right", ncols=3)
        both = [place for place in places if levels[place].gap is not None]
        below.plot(both, [levels[place].gap for place in both], color=LINES[2], marker="^")
        below.set_ylabel("gap of the towers (1 - CKA)")
        below.set_ylim(0, 1.05)
        below.set_xticks(places, [level.text or level.image for level in levels])
        if len(levels) > 8:
            below.tick_params(axis="x", rotation=45)
        for axes in (above, below):
            axes.axvline(_place(found) - 0.5, color=MUTED, linewidth=1, linestyle="--")
        above.set_title(f"{named_place(found.backbone)}: mma would adapt what is right of the dashed line", fontsize=9)


def _place(found: Layers) -> int:
    """Where the block stands from which on `mma` would adapt."""
    return next(place for place, level in enumerate(found.levels) if level.text == f"block {found.start}")
