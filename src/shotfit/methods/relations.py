"""What a task's context is made of beside its own name: the names above it, and tasks of like names.

    f'_t  = mean over the names on t's path (t, its parent, ...) of f_name              hierarchy
    f''_t = (1 - a) f'_t + a sum over its k nearest tasks j of w_tj f'_j                graph
    w_tj  = softmax over the k of exp(s) cos(g_t, g_j)

f is the feature of a name with the learned task context, g that of the bare name in the frozen tower, which finds the
nearest. A context is a linear map of such a feature, so a sum of features is a sum of contexts, and what tasks share on
the way up is one and the same vector. The path's mean, not its sum, keeps the size that the map is made for, and a task
without a parent keeps exactly what it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, normalize

__all__ = ["Relations", "nearest"]

ROWS = 256  # tasks whose likeness to all others is looked at together


@dataclass(frozen=True)
class Relations:
    """names: all that a context is made of, the tasks' own first. parts: of each task, (place in names, weight)."""

    names: tuple[str, ...]
    parts: tuple[tuple[tuple[int, float], ...], ...]

    @classmethod
    def of(
        cls,
        frozen: Frozen,
        classes: Sequence[ClassList],
        known: Sequence[ClassList],
        hierarchy: bool = False,
        neighbours: int = 0,
        mix: float = 0.0,
    ) -> Relations:
        """Of each task its own name, those above it with `hierarchy`, and those of its nearest among the known."""
        places = {own.task: place for place, own in enumerate(classes)}

        def path(own: ClassList, share: float) -> Iterator[tuple[int, float]]:
            names = (own.task, *own.parents) if hierarchy else (own.task,)
            for name in names:
                yield places.setdefault(name, len(places)), share / len(names)

        likely: Iterable[Sequence[tuple[int, float]]] = [()] * len(classes)
        if neighbours and mix:
            likely = nearest(frozen, [own.task for own in classes], [one.task for one in known], neighbours)
        parts = []
        for own, near in zip(classes, likely, strict=True):
            weights: dict[int, float] = {}
            others = [(known[place], mix * weight) for place, weight in near]
            for one, share in [(own, 1 - mix if others else 1.0), *others]:
                for place, weight in path(one, share):
                    weights[place] = weights.get(place, 0.0) + weight
            parts.append(tuple(weights.items()))
        return cls(tuple(places), tuple(parts))

    def needed(self, tasks: Sequence[int]) -> list[int]:
        """The places of the names that some tasks' contexts are made of, ascending."""
        return sorted({place for task in tasks for place, _ in self.parts[task]})

    def mixed(self, features: Tensor, tasks: Sequence[int], needed: Sequence[int]) -> Tensor:
        """Features [tasks, embed] of tasks, from those of the names needed: [names, embed]."""
        column = {place: number for number, place in enumerate(needed)}
        flat = [(row, column[place], share) for row, task in enumerate(tasks) for place, share in self.parts[task]]
        rows, columns, shares = zip(*flat, strict=True)
        weights = features.new_tensor(shares)[:, None]
        taken = features.index_select(0, torch.tensor(columns, device=features.device)) * weights
        return features.new_zeros(len(tasks), features.shape[1]).index_add(
            0, torch.tensor(rows, device=features.device), taken
        )

    @property
    def plain(self) -> bool:
        """Whether every context is made of its task's name alone."""
        return all(len(part) == 1 for part in self.parts)


@torch.no_grad()
def nearest(frozen: Frozen, names: Sequence[str], known: Sequence[str], count: int) -> list[list[tuple[int, float]]]:
    """Of each name the most alike among the known ones, itself left out: (place, weight), the weights adding to 1.

    Alike are names whose features in the frozen text tower have a large cosine; the weights are their softmax at the
    backbone's temperature. Takes memory for a few hundred names by all known ones.
    """

    def features(texts: Sequence[str]) -> Tensor:
        return normalize(frozen.text(frozen.sentences([f"{text.replace('_', ' ')}." for text in texts])))

    others = features(known)  # [known, embed]
    own = others if list(names) == list(known) else features(names)
    place_of: Mapping[str, int] = {name: place for place, name in enumerate(known)}
    found: list[list[tuple[int, float]]] = []
    for first in range(0, len(names), ROWS):
        likeness = own[first : first + ROWS] @ others.T  # [names, known]
        for row, name in enumerate(names[first : first + ROWS]):
            if name in place_of:
                likeness[row, place_of[name]] = -torch.inf
        values, places = likeness.topk(min(count, len(known)), dim=1)
        weights = (frozen.temperature.to(values) * values).softmax(dim=1)
        for value, place, weight in zip(values.tolist(), places.tolist(), weights.tolist(), strict=True):
            found.append([(p, w) for v, p, w in zip(value, place, weight, strict=True) if v > -torch.inf])
    return found
