"""Deep language prompting: a context, and prompts in the text tower's blocks.

Khattak et al., "MaPLe: Multi-modal Prompt Learning", CVPR 2023, arXiv 2210.03117, one of its baselines.

    t_c    = text(start, v_1 .. v_n, the rest of the words, name_c, ".", end),
             T_i in place of v (of T_{i-1}) before block i + 1                v, T_i [tokens, width]
    logits = exp(s) * norm(image) @ norm(t).T                                 [images, classes]

What is frozen: both towers. What is learned: v, which starts as the words' first tokens, and T, Normal(0, 0.02) at the
start; nothing of it for a class. `depth=1` is CoOp with a context of `tokens` words.

# differs: the depth follows the tower, all blocks (12 of 12).
# differs: more than four words are learned as words; the official program ignores words there (`words=` for a random
context).
# differs: views are drawn once, of half an image at least (`--views fresh` draws a new crop at every step, of 8 % at
least, as the official program does).
Published: see docs/methods.md#deep_language.
"""

from __future__ import annotations

from typing import ClassVar

from shotfit.methods.base import option
from shotfit.methods.prompted import Prompted
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule

__all__ = ["DeepLanguage"]


class DeepLanguage(Prompted):
    """Prompt tokens in the blocks of the text tower."""

    name: ClassVar[str] = "deep_language"
    title: ClassVar[str] = "Deep language prompting"
    paper: ClassVar[str] = "a baseline of Khattak et al., CVPR 2023, arXiv 2210.03117"
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
            Axis("lr", (2.5e-3, 2e-2, 0.1), "how far a context must go depends on the backbone and the names"),
            Axis("steps", (400,), "five epochs are 240 steps for a dozen classes"),
        ),
        robust={"lr": 2e-2, "steps": 200},
    )

    tokens: int = option(4, "tokens of the words that are learned, and prompt tokens in a block", at_least=1)
    depth: int = option(-1, "blocks with prompts of their own, the input counted; -1: all", at_least=-1)

    def text_asked(self) -> tuple[int, int]:
        """Tokens and blocks of the text tower."""
        return self.tokens, self.share(self.depth, self.text_blocks.layers)
