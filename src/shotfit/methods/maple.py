"""MaPLe: prompts in both towers, those of the image tower made of those of the text tower.

Khattak et al., "MaPLe: Multi-modal Prompt Learning", CVPR 2023, arXiv 2210.03117.

    t_c    = text(start, v_1 .. v_n, the rest of the words, name_c, ".", end),
             T_i in place of v (of T_{i-1}) before block i + 1                     v = T_0, T_i [tokens, width]
    V_i    = T_i F_i^T + b_i                                                       [tokens, width of the image tower]
    z_j    = image([tokens, V_0]), V_i in place of V_{i-1} before block i + 1
    logits = exp(s) * norm(z) @ norm(t).T                                          [images, classes]

What is frozen: both towers. What is learned: v, which starts as the words' first tokens, T, Normal(0, 0.02) at the
start, and the maps F with their biases: F_0 one draw, F_1, F_2, .. another, the same for all. Both towers' gradients
reach T. Nothing belongs to a class. The image tower must be a transformer.

With `protocol=transfer` the first quarter of the blocks has prompts, for two epochs at a lower rate: the paper's
setting for other data sets and shifted domains.

# differs: the depth follows the deeper tower, three quarters of its blocks (9 of 12), or a quarter with
`protocol=transfer` (3 of 12). Of prompts for blocks that a tower lacks it takes none, as in the official program.
# differs: more than four words are learned as words; the official program ignores words there (`words=` for a random
context).
# differs: float32 throughout; the official program keeps F_0 and v in float16.
# differs: views are drawn once, of half an image at least (`--views fresh` draws a new crop at every step, of 8 % at
least, as the official program does).
Published: see docs/methods.md#maple.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from shotfit.methods.base import option
from shotfit.methods.prompted import Prompted, linear_start
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule

__all__ = ["MaPLe"]


class MaPLe(Prompted):
    """Prompt tokens in both towers, coupled by linear maps."""

    name: ClassVar[str] = "maple"
    title: ClassVar[str] = "MaPLe"
    paper: ClassVar[str] = "Khattak et al., CVPR 2023, arXiv 2210.03117"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("sgd", lr=0.0035, weight_decay=5e-4),
        Schedule("cosine", warmup=1, warmup_lr=1e-5),
        epochs={1: 5},
        batch=4,
        replayable=True,
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis(
                "lr", (3.5e-3, 1.4e-2, 5e-2), "prompts far from the initial ones are out of reach at the published rate"
            ),
            Axis("steps", (400,), "five epochs are 240 steps for a dozen classes"),
        ),
        robust={"lr": 1.4e-2, "steps": 200},
    )

    tokens: int = option(2, "tokens of the words that are learned, and prompt tokens in a block", at_least=1)
    depth: int = option(-1, "blocks with prompts of their own, the input counted; -1: by depth, 9 of 12", at_least=-1)
    protocol: str = option(
        "base-to-new", "setting of the paper for depth and recipe", choices=("base-to-new", "transfer")
    )

    def twelfths(self) -> int:
        """Of the blocks that have prompts."""
        return 9 if self.protocol == "base-to-new" else 3

    def training_recipe(self) -> Recipe | None:
        """The paper's, by protocol."""
        assert self.recipe is not None
        if self.protocol == "base-to-new":
            return self.recipe
        return replace(self.recipe, optimizer=replace(self.recipe.optimizer, lr=0.0026), epochs={1: 2})

    def text_asked(self) -> tuple[int, int]:
        """Tokens, and blocks of the deeper tower."""
        return self.tokens, self.share(self.depth, max(self.text_blocks.layers, self.image_blocks.layers))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Prompts, and a map for every image block that takes some."""
        maps = min(self.text_asked()[1], self.image_blocks.layers)
        weight = maps, self.image_blocks.width, self.text_blocks.width
        return super().shapes() | {"map_weights": weight, "map_biases": weight[:2]}

    def start(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Maps start as linear layers do, all but the first alike."""
        if not name.startswith("map"):
            return super().start(name, shape)
        first, other = linear_start(self.frozen, (2, *shape[1:]), self.text_blocks.width)
        return torch.stack([first, *[other] * (shape[0] - 1)])

    def visual_rows(self) -> Sequence[Tensor]:
        """V, one block's after another's."""
        weights, biases = self.get_parameter("map_weights"), self.get_parameter("map_biases")
        prompts = torch.stack([self.get_parameter("context"), *self.rows("text_prompts")])[: len(weights)]
        return tuple(prompts @ weights.transpose(1, 2) + biases[:, None])
