"""IVLP: independent prompts in both towers.

Khattak et al., "MaPLe: Multi-modal Prompt Learning", CVPR 2023, arXiv 2210.03117, one of its baselines; with 4 tokens
in 9 blocks it is the baseline of PromptSRC.

    t_c    = text(start, v_1 .. v_n, the rest of the words, name_c, ".", end),
             T_i in place of v (of T_{i-1}) before block i + 1                     v, T_i [text_tokens, width]
    z_j    = image([tokens, V_0]), V_i in place of V_{i-1} before block i + 1      V_i [visual_tokens, width]
    logits = exp(s) * norm(z) @ norm(t).T                                          [images, classes]

What is frozen: both towers. What is learned: v, which starts as the words' first tokens, T and V, Normal(0, 0.02) at
the start; nothing of it for a class. The image tower must be a transformer.

# differs: the depth follows the towers, all blocks (12 of 12).
# differs: more than four words are learned as words; the official program ignores words there (`words=` for a random
context).
# differs: views are drawn once, of half an image at least (`--views fresh` draws a new crop at every step, of 8 % at
least, as the official program does).
Published: see docs/methods.md#ivlp.
"""

from __future__ import annotations

from typing import ClassVar

from shotfit.methods.prompted import PromptedBoth
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule

__all__ = ["IVLP"]


class IVLP(PromptedBoth):
    """Prompt tokens in the blocks of both towers, each its own."""

    name: ClassVar[str] = "ivlp"
    title: ClassVar[str] = "IVLP"
    paper: ClassVar[str] = "a baseline of Khattak et al., CVPR 2023, arXiv 2210.03117"
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
            Axis("lr", (3.5e-3, 2e-2, 0.1), "prompts far from the initial ones are out of reach at the published rate"),
            Axis("steps", (400,), "five epochs are 240 steps for a dozen classes"),
        ),
        robust={"lr": 2e-2, "steps": 200},
    )
