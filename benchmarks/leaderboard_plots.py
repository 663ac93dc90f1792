"""The drawings of docs/leaderboard.md: mean ranks with the critical difference, and accuracy against seconds."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from benchmarks.standings import RACE, SETS, Standings, accuracies, critical_difference, mean_accuracy, mean_ranks
from shotfit.methods import find
from shotfit.report.svg import INK, LINES, MUTED, drawing

__all__ = ["PLAIN", "cost_drawn", "ranks_drawn"]

PLAIN = "plain command"
SHORTEST = 0.1  # seconds that are drawn
TALL, LINE, WIDE = 290, 7.5, 5  # height of the drawing and of a line in points; a name's width as a factor of seconds


def ranks_drawn(found: Standings, recipe: str, shots: int) -> str:
    """Mean ranks, a line a method, with a band of one critical difference from the best; empty for fewer than three."""
    ranked = mean_ranks(accuracies(found, recipe, shots))
    if len(ranked) < 3:
        return ""
    difference = critical_difference(len(ranked), len(SETS))
    best = next(iter(ranked.values()))
    told = "; ".join(f"{name} {rank:.1f}" for name, rank in ranked.items())
    with drawing(
        6.6, 0.9 + 0.19 * len(ranked), f"Mean ranks over six data sets: {told}.", f"ranks-{recipe}-{shots}"
    ) as drawn:
        axes = drawn.figure.subplots()
        axes.axvspan(best, best + difference, color=LINES[0], alpha=0.12, linewidth=0)
        for place, rank in enumerate(ranked.values()):
            axes.hlines(place, best, rank, color=MUTED, linewidth=0.8)
            axes.plot([rank], [place], "o", color=LINES[0] if rank <= best + difference else LINES[1], markersize=6)
        axes.set_yticks(range(len(ranked)), [PLAIN if name == RACE else name for name in ranked])
        axes.set_ylim(len(ranked) - 0.5, -0.5)
        axes.set_xlim(left=0.5)
        axes.set_xlabel("mean rank; in the band: not told apart from the best")
        axes.grid(False, axis="y")
    return _on_paper(drawn.svg)


def cost_drawn(found: Standings, recipe: str, shots: int) -> str:
    """Mean accuracy against the mean seconds of a fit; empty for fewer than three methods."""
    ranked = mean_ranks(accuracies(found, recipe, shots))
    if len(ranked) < 3:
        return ""
    rows = {name: found[name, recipe, shots] for name in ranked if name != "zero_shot"}  # which is no fit
    points = {
        name: (max(fmean(one.seconds for one in own.values()), SHORTEST), mean_accuracy(own))
        for name, own in rows.items()
    }
    told = "; ".join(f"{name} {accuracy:.1f} % in {seconds:.0f} s" for name, (seconds, accuracy) in points.items())
    title, offsets = f"Mean accuracy against seconds of a fit: {told}.", _offsets(points)
    with drawing(6.6, 5.0, title, f"cost-{recipe}-{shots}") as drawn:
        axes = drawn.figure.subplots()
        for name, (seconds, accuracy) in points.items():
            new = name != RACE and find(name).accepts_new_classes
            axes.plot([seconds], [accuracy], "o" if new else "s", color=LINES[2 if new else 1], markersize=5)
            axes.annotate(
                PLAIN if name == RACE else name, (seconds, accuracy), xytext=(5, offsets[name]),
                textcoords="offset points", fontsize=6.5, color=INK, va="center",
                arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": MUTED} if offsets[name] else None,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
        axes.set_xlabel("seconds of a fit (circles: predicts new classes; squares: does not)")
        axes.set_ylabel("mean accuracy in percent")
        axes.set_xlim(right=4 * max(seconds for seconds, _ in points.values()))  # room for the last one's name
    return _on_paper(drawn.svg)


def _offsets(points: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """How far below its point each name stands, in points, so that names side by side are not on top of each other."""
    values = [accuracy for _, accuracy in points.values()]
    scale = TALL / max(max(values) - min(values), 1.0)
    placed: dict[str, tuple[float, float]] = {}
    for name, (seconds, accuracy) in sorted(points.items(), key=lambda pair: -pair[1][1]):
        height = scale * accuracy
        while any(abs(height - other) < LINE and 1 / WIDE < seconds / at < WIDE for at, other in placed.values()):
            height -= 1
        placed[name] = seconds, height
    return {name: height - scale * points[name][1] for name, (_, height) in placed.items()}


def _on_paper(svg: str) -> str:
    """A drawing that stands on its own, on white."""
    head, end, rest = svg.partition("</title>")
    return f'{head}{end}<rect width="100%" height="100%" fill="#ffffff" />{rest}\n'
