"""CLIP-SVD: the singular values of the blocks' matrices.

Koleilat, Rivaz and Xiao, "Singular Value Few-shot Adaptation of Vision-Language Models", arXiv 2509.03740.

    W  = U diag(s0) V                                once, r = min(out, in) values in falling order
    W' = U diag(s) V                                 s [r], s0 at the start
    logits = exp(s_clip) * norm(image) @ norm(text).T

for queries, keys, values, output and both maps of the MLP, in all blocks of both towers. What is frozen: U, V, biases,
norms, all else. What is learned and saved: s alone; U and V follow from the backbone. Nothing belongs to a class. Few
tokens are multiplied by V, s and U one after the other, many by the matrix, whichever takes fewer operations. Prompts
are those of the task's first template.

# differs: the rate of base-to-new falls by one cosine; the program's has the number of epochs as period but moves at
every step, so that it swings to the end (`swinging`).
# differs: every block of a tower is tuned; the program numbers 12, of a deeper tower the lower ones.
# differs: the temperature is the backbone's; the program has 100, CLIP's own (`temperature=100`).
# differs: views are drawn once, of half an image at least (`--views fresh` draws a new crop at every step, of 8 % at
least, as the official program does).
Published: see docs/methods.md#clip_svd.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen
from shotfit.errors import UsageError
from shotfit.methods.base import option
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule
from shotfit.methods.tuned import Site, TunedWeights, grouped, named
from shotfit.towers.changed import weight_of
from shotfit.towers.edits import Factors, Weights

__all__ = ["ClipSVD"]

MATRICES = {
    "q": ("attention.query.weight",), "k": ("attention.key.weight",), "v": ("attention.value.weight",),
    "o": ("attention.out.weight",), "m": ("mlp.gate.weight", "mlp.up.weight", "mlp.down.weight"),
}  # fmt: skip


class ClipSVD(TunedWeights):
    """Other singular values of the blocks' matrices."""

    name: ClassVar[str] = "clip_svd"
    title: ClassVar[str] = "CLIP-SVD"
    paper: ClassVar[str] = "Koleilat et al., arXiv 2509.03740"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("adamw", lr=5e-4, weight_decay=0.01),
        Schedule("cosine", "step", final=1e-6),
        steps_per_shot=200,
        replayable=True,
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis("lr", (5e-4, 2e-3, 8e-3), "the published rate is for 3,200 steps, of which few are affordable"),
            Axis("steps", (300,), "a step runs all of both towers"),
        ),
        robust={"lr": 2e-3, "steps": 200},
    )

    matrices: str = option("qkvom", "matrices: any of q, k, v, o (output) and m (those of the MLP)")
    rank_ratio: float = option(1.0, "share of the singular values that is kept", above=0, at_most=1)
    protocol: str = option("few-shot", "setting of the paper for rate and length", choices=("few-shot", "base-to-new"))
    epochs: int = option(10, "of base-to-new; 20 on Caltech101, Pets, Aircraft, DTD and EuroSAT", at_least=1)
    swinging: bool = option(False, "a rate that falls and rises with a period of `epochs` steps, as the program's does")

    def _check(self) -> None:
        super()._check()
        if not self.matrices or set(self.matrices) - MATRICES.keys():
            raise UsageError(f"{self.name}: matrices must be some of the letters qkvom, but is {self.matrices!r}.")

    def training_recipe(self) -> Recipe | None:
        """Of the protocol."""
        assert self.recipe is not None
        if self.protocol == "few-shot":
            return self.recipe
        optimizer = replace(self.recipe.optimizer, lr=4e-4)
        schedule = replace(self.recipe.schedule, period=self.epochs if self.swinging else 0)
        return replace(self.recipe, optimizer=optimizer, schedule=schedule, steps_per_shot=0, epochs={1: self.epochs})

    def sites(self) -> dict[Site, tuple[int, int]]:
        """The shape of every chosen matrix."""
        names = [name for letter in "qkvom" if letter in self.matrices for name in MATRICES[letter]]
        found: dict[Site, tuple[int, int]] = {}
        for tower, (blocks, chosen) in self.tuned().items():
            shapes = {
                "mlp.up.weight": (blocks.mlp_width, blocks.width),
                "mlp.down.weight": (blocks.width, blocks.mlp_width),
            }
            shapes["mlp.gate.weight"] = shapes["mlp.up.weight"]
            for block in chosen:
                for name in names if blocks.gated else [name for name in names if "gate" not in name]:
                    found[tower, block, name] = shapes.get(name, (blocks.width, blocks.width))
        return found

    def kept(self, shape: tuple[int, int]) -> int:
        """How many singular values of a matrix are kept: all, or a multiple of 4 as the program has it."""
        rank = min(shape)
        return rank if self.rank_ratio == 1 else max(1, int(rank * self.rank_ratio) // 4 * 4)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The singular values of every matrix."""
        return {named(site): (self.kept(shape),) for site, shape in self.sites().items()}

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """Decompose."""
        for site, (_, values, _) in self.decomposed().items():
            self.register_parameter(named(site), nn.Parameter(values.clone()))

    def decomposed(self) -> dict[Site, tuple[Tensor, Tensor, Tensor]]:
        """U [out, r], s0 [r] and V [r, in] of every matrix, from the store."""
        if not hasattr(self, "_decomposed"):
            with torch.inference_mode(False):  # they are kept, and may serve a training next
                self._decomposed = self._decompose()
        return self._decomposed

    def _decompose(self) -> dict[Site, tuple[Tensor, Tensor, Tensor]]:
        frozen, sites = self.frozen, self.sites()
        backbone, dtype, found = frozen.backbone, frozen.parameter_dtype, {}
        for shape in sorted(set(sites.values())):
            alike, rank = [site for site, own in sites.items() if own == shape], min(shape)

            def compute(missing: list[int], alike: list[Site] = alike) -> Iterator[Tensor]:
                for tower, block, name in (alike[number] for number in missing):
                    weight = weight_of(backbone.image if tower == "image" else backbone.text, block, name)
                    left, values, right = torch.linalg.svd(weight.cpu().to(dtype), full_matrices=False)
                    yield torch.cat([left.T, values[:, None], right], dim=1)[None]

            kind = {"singular values": str(dtype), "backbone": backbone.fingerprint, "shape": str(shape)}
            rows = frozen.store.rows(kind, [named(site) for site in alike], compute, "Decomposing matrices")
            for site, row in zip(alike, rows.to(backbone.device), strict=True):
                left, values, right = row[: self.kept(shape)].split([shape[0], 1, shape[1]], dim=1)
                found[site] = left.T.contiguous(), values.flatten(), right.contiguous()
            assert rows.shape[1] == rank
        return {site: found[site] for site in sites}

    def edits(self) -> list[Weights]:
        """U diag(s) V in place of every matrix."""
        return grouped(
            {
                site: Factors(left, right, self.get_parameter(named(site)), beside=False)
                for site, (left, _, right) in self.decomposed().items()
            }
        )
