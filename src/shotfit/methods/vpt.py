"""VPT: deep visual prompts, and nothing else.

Jia et al., "Visual Prompt Tuning", ECCV 2022, arXiv 2203.12119, as MaPLe's program runs it on CLIP ("deep vision
prompting"): Khattak et al., CVPR 2023, arXiv 2210.03117.

    z_j    = image([tokens, V_0]), V_i in place of V_{i-1} before block i + 1      V_i [tokens, width]
    logits = exp(s) * norm(z) @ norm(text(words, name, ".")).T                     [images, classes]

What is frozen: both towers, and with the text tower all class features. What is learned: V, Normal(0, 0.02) at the
start. `depth=1` is VPT-shallow. The image tower must be a transformer.

# differs: the depth follows the tower, all blocks (12 of 12).
# differs: views are drawn once, of half an image at least (`--views fresh` draws a new crop at every step, of 8 % at
least, as the official program does).
Published: see docs/methods.md#vpt.
"""

from __future__ import annotations

from typing import ClassVar

from shotfit.methods.base import option
from shotfit.methods.prompted import Prompted
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule

__all__ = ["VPT"]


class VPT(Prompted):
    """Prompt tokens in the blocks of the image tower."""

    name: ClassVar[str] = "vpt"
    title: ClassVar[str] = "VPT"
    paper: ClassVar[str] = "Jia et al., ECCV 2022, arXiv 2203.12119, as run by Khattak et al., CVPR 2023"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("sgd", lr=0.0025, weight_decay=5e-4),
        Schedule("cosine", warmup=1, warmup_lr=1e-5),
        epochs={1: 5},
        batch=4,
        replayable=True,
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis("lr", (2.5e-3, 2e-2, 0.1), "prompts far from the initial ones are out of reach at the published rate"),
            Axis("steps", (400,), "five epochs are 240 steps for a dozen classes"),
        ),
        robust={"lr": 2e-2, "steps": 200},
    )

    tokens: int = option(8, "prompt tokens in a block", at_least=1)
    depth: int = option(-1, "blocks with prompts of their own; -1: all", at_least=-1)

    def visual_asked(self) -> tuple[int, int]:
        """Tokens and blocks of the image tower."""
        return self.tokens, self.share(self.depth, self.image_blocks.layers)
