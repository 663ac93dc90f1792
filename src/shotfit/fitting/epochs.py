"""In which batches an epoch goes through the support images: which images stand together, and how many steps that is.

    plain               a random order, cut into batches; what is left over is dropped, or is a batch with `keep_last`
    tasks_per_batch=K   the images of each task in random order, in pieces of nearly equal size of at most batch / K;
                        each task's pieces at equal distances over the epoch, moved by chance as far as the tasks of
                        one batch stay different ones; K pieces a batch

So a batch shows at most K tasks, every image comes once in an epoch, and the number of batches is known beforehand,
which a schedule needs. Batches of small tasks are smaller than the recipe's.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor

from shotfit.methods.base import Support
from shotfit.methods.numbering import tasks_of
from shotfit.methods.recipe import Recipe

__all__ = ["Epochs"]


class Epochs:
    """The batches of a recipe on labels [images] that count the classes of all tasks; sizes: classes of each task.

    Example:
        >>> from shotfit.methods.recipe import Optimizer
        >>> recipe = Recipe(Optimizer("sgd", 0.1), batch=4, tasks_per_batch=2)
        >>> epochs = Epochs(recipe, torch.tensor([0, 1, 2, 3, 4, 5]), (2, 2, 2))
        >>> [len(batch) for batch in epochs.drawn(torch.Generator().manual_seed(0))], epochs.steps
        ([4, 2], 2)
    """

    def __init__(self, recipe: Recipe, labels: Tensor, sizes: Sequence[int]) -> None:
        self.images, self.batch = len(labels), min(recipe.batch, len(labels))
        self.steps = recipe.steps_for(len(labels))
        self.pieces: list[Tensor] | None = None  # places in the order by task that stand together
        self.together = min(recipe.tasks_per_batch, self.batch)
        if not 0 < recipe.tasks_per_batch < len(sizes):
            return
        self.tasks = tasks_of(labels, sizes)  # [images]
        counts, most = torch.bincount(self.tasks, minlength=len(sizes)), max(1, self.batch // self.together)
        lengths, places = list[int](), list[tuple[int, int, int]]()
        for task, count in enumerate(counts.tolist()):
            number = ceil(count / most)
            lengths += [count // number + (place < count % number) for place in range(number)]
            places += [(task, place, number) for place in range(number)]
        self.pieces = list(torch.arange(self.images).split(lengths))
        self.owner, self.place, self.number = torch.tensor(places).unbind(dim=1)  # task, which one of how many
        self.apart = (len(sizes) - self.together) / (2 * len(sizes))
        self.steps = ceil(len(self.pieces) / self.together)

    @classmethod
    def of(cls, recipe: Recipe, support: Support, sizes: Sequence[int]) -> Epochs:
        """Of a fit's support."""
        return cls(recipe, support.labels, sizes)

    def drawn(self, generator: torch.Generator, steps: int | None = None) -> list[Tensor]:
        """The next epoch's batches, or its first `steps`: numbers of images."""
        steps = self.steps if steps is None else min(steps, self.steps)
        order = torch.randperm(self.images, generator=generator)
        if self.pieces is None:
            return list(order[: steps * self.batch].split(self.batch))
        order = order[self.tasks[order].argsort(stable=True)]  # by task, each task's in random order
        begins, moved = (torch.rand(len(self.pieces), generator=generator, dtype=torch.double) for _ in range(2))
        when = (self.place + begins[self.owner] + self.apart * (2 * moved - 1)) / self.number
        dealt = when.argsort().split(self.together)[:steps]
        return [order[torch.cat([self.pieces[piece] for piece in some.tolist()])] for some in dealt]
