"""CLIP-LoRA: low-rank updates of attention matrices in both towers.

Zanella and Ben Ayed, "Low-Rank Few-Shot Adaptation of Vision-Language Models", CVPR Workshops 2024, arXiv 2405.18541.

    W'     = W + alpha / sqrt(r) * B A               A [r, width], B [width, r], B zero at the start
    logits = exp(s) * norm(image) @ norm(text).T     [images, classes]

for the matrices of queries, keys and values (`matrices`; o: the output) of the chosen blocks. What is frozen: W and all
else. What is learned: A and B. Nothing belongs to a class. Training multiplies A and B by tokens; a fitted model adds
their product to W. Prompts are those of the task's first template.

# differs: dropout draws one mask of A's inputs for each matrix and step, the same for all tokens; the program's draws
each token's own, which no two ways of running the same tokens would share (`dropout=0` for neither).
# differs: `bottom`, `mid` and `up` are thirds of any depth; the program lists the blocks of towers of 12 and 24.
# differs: the temperature is the backbone's; the program has 100, CLIP's own (`temperature=100`).
# differs: views are drawn once, of half an image at least (`--views fresh` draws a new crop at every step, of 8 % at
least, as the official program does).
Published: see docs/methods.md#clip_lora.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images
from shotfit.errors import UsageError
from shotfit.methods.base import option
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule
from shotfit.methods.tuned import Tower, TunedWeights
from shotfit.towers.edits import Factors, Weights

__all__ = ["ClipLora"]

MATRICES = {"q": "query", "k": "key", "v": "value", "o": "out"}


class ClipLora(TunedWeights):
    """Low-rank matrices beside those of attention."""

    name: ClassVar[str] = "clip_lora"
    title: ClassVar[str] = "CLIP-LoRA"
    paper: ClassVar[str] = "Zanella and Ben Ayed, CVPR Workshops 2024, arXiv 2405.18541"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("adamw", lr=2e-4, weight_decay=0.01),
        Schedule("cosine", "step", final=1e-6),
        steps_per_shot=500,
        replayable=True,
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis("lr", (2e-4, 1e-3, 4e-3), "the published rate is for 8,000 steps, of which few are affordable"),
            Axis("steps", (300,), "a step runs all of both towers"),
        ),
        robust={"lr": 1e-3, "steps": 200},
    )

    rank: int = option(2, "rank r of the updates", at_least=1)
    alpha: float = option(1.0, "scale of the updates, over the root of their rank", above=0)
    dropout: float = option(0.25, "share of A's inputs that a training step leaves out", at_least=0, at_most=0.9)
    matrices: str = option("qkv", "matrices of attention that are updated: any of q, k, v, o")

    def _check(self) -> None:
        super()._check()
        if not self.matrices or set(self.matrices) - MATRICES.keys():
            raise UsageError(f"{self.name}: matrices must be some of the letters qkvo, but is {self.matrices!r}.")

    def training_recipe(self) -> Recipe | None:
        """A step that draws cannot be replayed."""
        assert self.recipe is not None
        return replace(self.recipe, replayable=not self.dropout)

    def sites(self) -> dict[tuple[Tower, int], int]:
        """The width of every chosen block."""
        return {(tower, block): own.width for tower, (own, chosen) in self.tuned().items() for block in chosen}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """A as `down` and B as `up` of every matrix."""
        found: dict[str, tuple[int, ...]] = {}
        for (tower, block), width in self.sites().items():
            for letter in sorted(set(self.matrices)):
                found[f"{tower}_{block}_{MATRICES[letter]}_down"] = self.rank, width
                found[f"{tower}_{block}_{MATRICES[letter]}_up"] = width, self.rank
        return found

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """A uniform in +-1 / sqrt(width), B zero."""
        for name, shape in self.shapes().items():
            value = torch.zeros(shape)
            if name.endswith("down"):
                value = (2 * torch.rand(shape) - 1) / math.sqrt(shape[1])
            self.register_parameter(name, nn.Parameter(value.to(frozen.backbone.device, frozen.parameter_dtype)))

    def edits(self, masks: Mapping[str, Tensor] | None = None) -> list[Weights]:
        """Both factors beside every matrix. masks: of A's inputs, by A's name."""
        scale, found = self.alpha / math.sqrt(self.rank), list[Weights]()
        for tower, block in self.sites():
            values: dict[str, Tensor | Factors] = {}
            for letter in sorted(set(self.matrices)):
                name = f"{tower}_{block}_{MATRICES[letter]}"
                down: Tensor = self.get_parameter(f"{name}_down")
                down = down if masks is None else down * masks[f"{name}_down"]
                values[f"attention.{MATRICES[letter]}.weight"] = Factors(scale * self.get_parameter(f"{name}_up"), down)
            found.append(Weights(tower, block, values))
        return found

    def loss(self, images: Images, labels: Tensor) -> Tensor:
        """Mean cross-entropy with masks drawn for this step, []."""
        if not self.dropout:
            return super().loss(images, labels)
        edits = self.edits(self._masks())
        features = self.frozen.image(images, edits), self.frozen.text(self.prompts, edits)
        return F.cross_entropy(self.cosines(*features), labels)

    def _masks(self) -> dict[str, Tensor]:
        widths = {name: shape[1] for name, shape in self.shapes().items() if name.endswith("down")}
        drawn = (torch.rand(sum(widths.values())) >= self.dropout) / (1 - self.dropout)
        parts = drawn.to(self.frozen.backbone.device, self.frozen.parameter_dtype).split([*widths.values()])
        return dict(zip(widths, parts, strict=True))
