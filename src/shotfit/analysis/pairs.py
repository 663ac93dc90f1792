"""What a class is, and what it is not: how alike images are to both, and what each half of DualAdapter decides alone.

Zhang et al., "Negative Yields Positive: Unified Dual-Path Adapter for Vision-Language Models", arXiv 2403.12964; SimNL,
WACV 2025.

    found = pairs_of(frozen, task, shots=16, seeds=(1, 2, 3))       # comparing.py
    found.kinds["negative text"].own.mean           # cosine of an image and the negative text of its class
    found.halves["negative"].mean                   # accuracy of the negative half alone

This file holds what is found, as data and as tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from shotfit.analysis.similarities import Summary
from shotfit.data.pictures import Picture
from shotfit.errors import plural
from shotfit.evaluation.printed import p_value

__all__ = ["HALVES", "KINDS", "Disagreement", "Kind", "Overlap", "Pairs", "Share", "half_cells", "kind_cells"]

KINDS = ("positive text", "negative text", "image", "negative cache")
"""What images are compared with, of their own class and of others."""
HALVES = ("positive text", "positive cache", "positive", "negative text", "negative cache", "negative", "both")
"""What decides: the texts of one half alone, its cache alone, a half with both, both halves."""
NEAR = 0.5  # deviations of the cosines by which the positive text must be nearer than the negative one


@dataclass(frozen=True)
class Share:
    """A share by seed: mean, and standard deviation over the seeds (None for one)."""

    by_seed: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.by_seed)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds."""
        return stdev(self.by_seed) if len(self.by_seed) > 1 else None

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {"mean": self.mean, "spread": self.spread, "by_seed": list(self.by_seed)}

    def cell(self) -> str:
        """For a table, in percent."""
        return f"{100 * self.mean:.1f}" + ("" if self.spread is None else f" ± {100 * self.spread:.1f}")


@dataclass(frozen=True)
class Kind:
    """Images against one kind of thing: that of their own class, and those of others.

    nearer: the share of (own, other) pairs of an image of which the own one is nearer. 0.5 says nothing; below it the
    thing of the own class is the farther one, as it is meant for negatives.
    """

    own: Summary
    other: Summary
    nearer: Share

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {"own": self.own.as_json(), "other": self.other.as_json(), "nearer": self.nearer.as_json()}


@dataclass(frozen=True)
class Overlap:
    """Both halves on the images of one seed: how many each puts into their class; p of McNemar's exact test."""

    seed: int
    images: int
    alike: int
    both_right: int
    only_positive: int
    only_negative: int
    neither: int
    p: float

    def sentence(self) -> str:
        """For people."""
        return (
            f"seed {self.seed}: the halves say the same of {self.alike:,} of {plural(self.images, 'image')}; right: "
            f"both {self.both_right:,}, the positive half alone {self.only_positive:,}, the negative half alone "
            f"{self.only_negative:,}, neither {self.neither:,} (McNemar's exact test: p {p_value(self.p)})"
        )


@dataclass(frozen=True)
class Disagreement:
    """An image of which the halves say different things, and how sure each is (probability of what it says)."""

    picture: Picture
    label: str
    positive: str
    positive_share: float
    negative: str
    negative_share: float

    @property
    def right(self) -> str:
        """Which half is right: positive, negative or neither."""
        return {self.positive: "positive", self.negative: "negative"}.get(self.label, "neither")

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return vars(self) | {"picture": str(self.picture), "right": self.right}


@dataclass(frozen=True)
class Pairs:
    """What was found.

    kinds: by KINDS. halves: accuracy by HALVES. disagreements: of the first seed, the surest first.
    """

    task: str
    classes: int
    shots: int
    seeds: tuple[int, ...]
    positive_templates: tuple[str, ...]
    negative_templates: tuple[str, ...]
    kinds: Mapping[str, Kind]
    halves: Mapping[str, Share]
    overlaps: tuple[Overlap, ...]
    disagreements: tuple[Disagreement, ...]

    def sentence(self) -> str:
        """What follows, in one line."""
        positive, negative = self.kinds["positive text"], self.kinds["negative text"]
        near = f"images have a cosine of {positive.own.mean:.3f} to the positive text of their class and of "
        near += f"{negative.own.mean:.3f} to the negative one"
        if positive.own.mean - negative.own.mean >= NEAR * positive.own.deviation:
            return f"{near}: the text tower tells the two apart"
        said = f"{near}: the text tower does not read the negation"
        if negative.nearer.mean > 0.5:
            said += ", and being far from the negative text of a class speaks against the class that it is"
        return said

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "task": self.task,
            "classes": self.classes,
            "shots": self.shots,
            "seeds": list(self.seeds),
            "templates": {"positive": list(self.positive_templates), "negative": list(self.negative_templates)},
            "pairs": {name: kind.as_json() for name, kind in self.kinds.items()},
            "halves": {name: share.as_json() for name, share in self.halves.items()},
            "overlaps": [vars(overlap) for overlap in self.overlaps],
            "disagreements": [one.as_json() for one in self.disagreements],
            "summary": self.sentence(),
        }


def half_cells(found: Pairs) -> list[list[str]]:
    """What each half decides alone, as cells with their head; percent."""
    titles = {"positive": "positive half alone", "negative": "negative half alone", "both": "both halves"}
    rows = [[titles.get(name, f"{name} alone"), found.halves[name].cell()] for name in HALVES]
    return [["decided by", "right"], *rows, ["chance", f"{100 / found.classes:.1f}"]]


def kind_cells(found: Pairs) -> list[list[str]]:
    """The distributions as cells with their head: cosines, and how often the own one is nearer in percent."""
    rows = [["images against", "own class", "5 to 95 %", "other classes", "5 to 95 %", "own nearer"]]
    for name, kind in found.kinds.items():
        cells = [name]
        for summary in (kind.own, kind.other):
            cells += [f"{summary.mean:.3f}", f"{summary.quantiles[0]:.2f} to {summary.quantiles[-1]:.2f}"]
        rows.append([*cells, kind.nearer.cell()])
    return rows
