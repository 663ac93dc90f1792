"""How alike pairs are: the distribution of their cosines, counted in bins as they come, and in which order they stand.

seen = Distribution()
seen.add(cosines)
seen.summary()
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["BINS", "Distribution", "Summary", "in_order"]

BINS = 400
"""Of cosines from -1 to 1; a quantile is known to one of them, 0.005."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Summary:
    """A distribution of cosines: how many, mean, standard deviation, QUANTILES, and the counts of BINS."""

    pairs: int
    mean: float
    deviation: float
    quantiles: tuple[float, ...]
    counts: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data, the counts from the first bin that has any to the last."""
        there = [place for place, count in enumerate(self.counts) if count]
        first, last = there[0], there[-1]
        named = {f"q{round(100 * at):02d}": value for at, value in zip(QUANTILES, self.quantiles, strict=True)}
        bins = {"from": round(-1 + 2 * first / BINS, 6), "width": 2 / BINS, "counts": self.counts[first : last + 1]}
        return {"pairs": self.pairs, "mean": self.mean, "deviation": self.deviation} | named | {"histogram": bins}


class Distribution:
    """Cosines that come in parts and are not kept."""

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.long)
        self.sum = self.squares = 0.0

    def add(self, cosines: Tensor) -> None:
        """Count cosines of any shape."""
        values = cosines.detach().double().flatten().cpu()
        places = ((values + 1) / 2 * BINS).long().clamp(0, BINS - 1)
        self.counts += torch.bincount(places, minlength=BINS)
        self.sum += float(values.sum())
        self.squares += float(values.square().sum())

    def take(self, other: Distribution) -> None:
        """Count what another one has counted, too."""
        self.counts += other.counts
        self.sum += other.sum
        self.squares += other.squares

    def summary(self) -> Summary:
        """What was counted, which is at least one."""
        pairs = int(self.counts.sum())
        mean = self.sum / pairs
        below = self.counts.cumsum(0).double() / pairs
        places = torch.searchsorted(below, torch.tensor(QUANTILES, dtype=torch.double))
        middles = -1 + 2 * (places.double() + 0.5) / BINS
        deviation = max(self.squares / pairs - mean**2, 0.0) ** 0.5
        return Summary(pairs, mean, deviation, tuple(middles.tolist()), tuple(self.counts.tolist()))


def in_order(cosines: Tensor, own: Tensor) -> Tensor:
    """Of each image, the share of pairs of an own and another that stand in order: the own one is nearer.

    0.5 is chance, below it the own ones are farther away than others. Equal ones count half.

    cosines: [images, m]; own: [images, m], bool, with both kinds in each row. Gives [images], float64.

    >>> in_order(torch.tensor([[0.9, 0.1, 0.5]]), torch.tensor([[True, False, False]])).tolist()
    [1.0]
    """
    ordered, order = cosines.double().sort(dim=1)
    kind = own.gather(1, order)
    others = (~kind).double().cumsum(dim=1)  # up to each place, itself included
    low = torch.searchsorted(ordered, ordered, right=False)  # where values equal to it begin, and end
    high = torch.searchsorted(ordered, ordered, right=True)
    before = torch.cat([torch.zeros_like(others[:, :1]), others], dim=1)  # others among the first k
    beaten = (before.gather(1, low) + before.gather(1, high)) / 2
    count = kind.sum(dim=1)
    return (beaten * kind).sum(dim=1) / (count * (cosines.shape[1] - count))
