"""The drawings of a report on one model, each as SVG text that stands within a page.

    page_part = reliability(facts.answers)

A function takes what was measured and gives SVG; `charts.py` has those of comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shotfit.evaluation.evaluate import BINS, Answers, Scores
from shotfit.report.svg import HALO, INK, LINES, MUTED, drawing, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["HEAT", "accuracies", "confusion", "confusion_order", "map_plot", "reliability", "reliability_of"]

HEAT = 120
"""Classes of a heat map; of more, those that most mistakes are made with."""
NUMBERED = 25  # classes up to which each cell has its number
COLORED = 8  # classes up to which each has a color on the map
MARKS = "os^DvP*X"
VECTORS = 400  # points up to which each is drawn; more become one picture within the drawing
BLUE = "#0072b2"
ORANGE = "#d55e00"
RED = "#c0392b"


def accuracies(
    rows: Sequence[tuple[str, float, tuple[float, float]]], name: str = "accuracy", title: str = "accuracy"
) -> str:
    """Accuracies, or what `title` says, a line each: (what, value, interval), as fractions.

    An interval from the value to itself says that none is known.
    """
    known = any(low < high for _, _, (low, high) in rows)
    said = [(shortened(what), f"{100 * value:.1f} %", low, high) for what, value, (low, high) in rows]
    told = "; ".join(
        f"{what} {value}" + (f" ({100 * low:.1f} to {100 * high:.1f})" if known else "")
        for what, value, low, high in said
    )
    beside = " with its 95 % interval" if known else ""
    with drawing(4.8, 0.65 + 0.34 * len(rows), f"{title[:1].upper()}{title[1:]}{beside}: {told}.", name) as drawn:
        axes = drawn.figure.subplots()
        for place, (_, value, (low, high)) in enumerate(rows):
            color = LINES[place % len(LINES)]
            axes.hlines(place, 100 * low, 100 * high, color=color, linewidth=5, alpha=0.45)
            axes.plot([100 * value], [place], "o", color=color, markersize=7)
        axes.set_yticks(range(len(rows)), [shortened(what, 30) for what, _, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel(f"{title} in percent" + ("," + beside if known else ""))
        axes.grid(False, axis="y")
    return drawn.svg


def reliability(answers: Answers, name: str = "reliability") -> str:
    """How often answers of each confidence are right, beside how often they should be; below, how many there are."""
    axis = "confidence in percent: the probability of the answer"
    confidence = answers.probabilities.max(axis=1)
    return reliability_of(confidence, answers.right, ("right", "right answers", "images"), axis, name)


def reliability_of(
    confidence: NDArray[Any], right: NDArray[Any], words: tuple[str, str, str], axis: str, name: str = "reliability"
) -> str:
    """How often what has each probability is so. confidence, right: [n].

    words: how it is called that it is so, what is so, and what is counted.
    """
    true, bars, counted = words
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    shares = np.divide(np.bincount(bins, right, BINS), counts, out=np.full(BINS, np.nan), where=counts > 0)
    sure = np.divide(np.bincount(bins, confidence, BINS), counts, out=np.full(BINS, np.nan), where=counts > 0)
    told = ", ".join(
        f"{100 * share:.0f} % of {count:,} {true} at {100 * said:.0f} %"
        for share, said, count in zip(shares, sure, counts, strict=True)
        if count
    )
    with drawing(5.2, 5.0, f"Reliability: share of {bars} by probability. {told}.", name) as drawn:
        above, below = drawn.figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        centers, width = (np.arange(BINS) + 0.5) / BINS * 100, 100 / BINS
        there = counts > 0
        above.bar(centers[there], 100 * shares[there], width * 0.92, color=BLUE, alpha=0.75, label=bars)
        above.plot([0, 100], [0, 100], "--", color=INK, linewidth=1, label="as sure as right")
        above.plot(100 * sure[there], 100 * shares[there], "o", color=ORANGE, markersize=4, label="mean confidence")
        above.set_ylabel(f"{true}, in percent")
        above.set_ylim(0, 103)
        above.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.0, handlelength=1.2)
        below.bar(centers, counts, width * 0.92, color=MUTED, alpha=0.6)
        below.set_ylabel(counted)
        below.set_xlabel(axis)
        below.set_xlim(0, 100)
    return drawn.svg


def confusion_order(counts: NDArray[Any]) -> list[int]:
    """Classes so that those that are taken for one another stand side by side. counts: [true, predicted].

    By average linkage of how much two classes are confused, each way, as shares of their pictures.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    if len(counts) < 3:
        return list(range(len(counts)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    far = 1 - (shares + shares.T) / 2
    np.fill_diagonal(far, 0.0)
    flat = squareform(np.clip(far, 0, None), checks=False)
    return [int(one) for one in leaves_list(optimal_leaf_ordering(linkage(flat, "average"), flat))]


def confusion(scores: Scores, name: str = "confusion") -> tuple[str, int]:
    """The heat map of true against predicted classes, and how many classes it has.

    The darker a cell, the larger the share of the true class's pictures; the diagonal is right. Beyond HEAT classes,
    those with the most mistakes.
    """
    counts = np.array(scores.confusion)  # [true, predicted]
    wrong = counts - np.diag(counts.diagonal())
    involved = wrong.sum(axis=0) + wrong.sum(axis=1)
    kept = np.sort(np.argsort(-involved, kind="stable")[:HEAT])
    counts = counts[np.ix_(kept, kept)]
    order = confusion_order(counts)
    counts, places = counts[np.ix_(order, order)], kept[order]
    names = [shortened(scores.class_names[one], 26) for one in places]
    total = np.array(scores.confusion).sum(axis=1)[places]
    shares = counts / np.maximum(total[:, None], 1)
    size, longest = len(names), max(map(len, names))
    cell = 0.36 if size <= 12 else 0.27 if size <= NUMBERED else 0.2 if size <= 50 else 0.13
    letters = 9.0 if size <= NUMBERED else 8.0 if size <= 50 else 7.0
    room = 0.5 + longest * letters * 0.0088
    title = f"Confusion of {size} classes: true classes down, predicted ones across. The table below has the pairs."
    with drawing(size * cell + room, size * cell + room, title, name) as drawn:
        axes = drawn.figure.subplots()
        pixels = np.zeros((size, size, 4))
        right = np.eye(size, dtype=bool)
        pixels[right, :3], pixels[~right, :3] = _rgb(BLUE), _rgb(ORANGE)
        darkest = 0.62 if size <= NUMBERED else 0.95  # what stands on it is read in light and dark
        pixels[..., 3] = np.where(counts > 0, 0.12 + (darkest - 0.12) * np.sqrt(shares), 0)
        axes.imshow(pixels, interpolation="none", aspect="equal")
        axes.set_xticks(range(size), names, rotation=90, fontsize=letters)
        axes.set_yticks(range(size), names, fontsize=letters)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true class")
        axes.grid(False)
        axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
        axes.grid(True, which="minor", linewidth=0.3)
        axes.tick_params(which="minor", length=0)
        axes.tick_params(which="major", length=0)
        if size <= NUMBERED:
            for row, column in zip(*np.nonzero(counts), strict=True):
                axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=7)
    heat = drawn.svg.replace("<svg ", f'<svg class="heat{" large" if size > 50 else ""}" ', 1)
    return heat, size


def map_plot(
    places: NDArray[Any],
    labels: NDArray[Any],
    right: NDArray[Any],
    class_names: Sequence[str],
    title: str,
    name: str,
) -> str:
    """Pictures in two dimensions: by class where there are few, and whether the answer is right.

    places [n, 2]; labels [n]; right [n].
    """
    there = np.unique(labels)
    how = f"{len(places):,} images, {int((~right).sum()):,} of them wrong"
    with drawing(7.0, 5.6, f"{title}: {how}.", name) as drawn:
        axes = drawn.figure.subplots()
        flat = len(places) > VECTORS
        if len(there) <= COLORED:
            rim: dict[str, Any] = {"linewidths": 1.3, "edgecolors": RED, "s": 34}
            for number, label in enumerate(there):
                look = {"marker": MARKS[number % len(MARKS)], "c": LINES[number % len(LINES)], "rasterized": flat}
                own, named = labels == label, shortened(class_names[label], 28)
                _scatter(axes, places[own & right], s=18, alpha=0.75, linewidths=0, label=named, **look)
                _scatter(axes, places[own & ~right], **look | rim)
            axes.scatter([], [], c="none", marker="o", label="red rim: wrong", **rim)
        else:
            _scatter(axes, places[right], s=12, c=BLUE, alpha=0.55, linewidths=0, label="right", rasterized=flat)
            _scatter(axes, places[~right], s=20, c=ORANGE, marker="X", linewidths=0, label="wrong", rasterized=flat)
            _name_groups(axes, places, labels, class_names)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
    return drawn.svg


def _scatter(axes: Axes, places: NDArray[Any], **look: Any) -> None:
    axes.scatter(places[:, 0], places[:, 1], **look)


def _name_groups(axes: Axes, places: NDArray[Any], labels: NDArray[Any], class_names: Sequence[str]) -> None:
    """The names of classes at the middle of their pictures, the largest first, where no other name stands."""
    low, high = places.min(axis=0), places.max(axis=0)
    width, height = (high - low) / (7.0 * 14, 5.6 * 8)  # of a letter, about
    taken: list[tuple[float, float, float]] = []
    counts = np.bincount(labels)
    for label in np.argsort(-counts, kind="stable"):
        if not counts[label]:
            break
        x, y = np.median(places[labels == label], axis=0)
        text = shortened(class_names[label], 18)
        reach = len(text) * width / 2
        if any(abs(x - left) < reach + other and abs(y - top) < height for left, top, other in taken):
            continue
        taken.append((x, y, reach))
        axes.text(x, y, text, fontsize=7, ha="center", va="center", gid=f"{HALO}{label}")


def _rgb(color: str) -> tuple[float, float, float]:
    red, green, blue = (int(color[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return red, green, blue
