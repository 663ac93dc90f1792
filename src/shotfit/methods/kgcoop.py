"""KgCoOp: a context that is held near hand-written prompts.

Yao et al., "Visual-Language Prompt Tuning with Knowledge-guided Context Optimization", CVPR 2023, arXiv 2303.13283.

    t_c    = text(start, v_1 .. v_L, name_c, ".", end)                        [embed]
    w_c    = text(the task's template with name_c), frozen                    [embed]
    logits = exp(s) * norm(image) @ norm(t).T                                 [images, classes]
    loss   = cross-entropy + weight * (1 - mean_c cos(t_c, w_c))              over all classes, whatever the batch shows

What is frozen: both towers. What is learned: the context v [L, width], one for all classes.

The template (`--template`) serves w alone; the learned prompt is always words, name, full stop.

# differs: other initial words than "a photo of a" are taken; the official program takes that whatever is asked for.
# differs: float32 throughout; the official program trains the context in float16.
# differs: views are drawn once, of half an image at least (`--views fresh` draws a new crop at every step, of 8 % at
least, as the official program does).
Published: see docs/methods.md#kgcoop.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from shotfit.engine.frozen import Images
from shotfit.methods.base import option
from shotfit.methods.class_features import class_features
from shotfit.methods.prompted import Prompted
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule

__all__ = ["KgCoOp"]

EPSILON = 1e-7  # a length below it counts as it, as in the official program


class KgCoOp(Prompted):
    """CoOp with a pull towards the frozen prompts."""

    name: ClassVar[str] = "kgcoop"
    title: ClassVar[str] = "KgCoOp"
    paper: ClassVar[str] = "Yao et al., CVPR 2023, arXiv 2303.13283"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("sgd", lr=0.002, weight_decay=5e-4),
        Schedule("cosine", warmup=1, warmup_lr=1e-5),
        epochs={1: 100},
        batch=128,
        replayable=True,
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis("weight", (8.0, 1.0), "where the names say little, a context held near them learns little"),
            Axis("lr", (2e-3, 2e-2, 0.1), "how far a context must go depends on the backbone and the names"),
            Axis("steps", (400,), "100 epochs are a hundred steps for a small folder"),
        ),
        robust={"weight": 8.0, "lr": 2e-2, "steps": 200},
    )

    length: int = option(4, "context length L; the number of words if `words` is given", at_least=1)
    weight: float = option(8.0, "weight of the distance from the frozen prompts", at_least=0)

    def text_asked(self) -> tuple[int, int]:
        """The context alone."""
        return self.words_asked(self.length), 1

    @cached_property
    def teacher(self) -> Tensor:
        """w [classes, embed], of unit length."""
        return class_features(self.frozen, self.classes)

    def distance(self, text: Tensor) -> Tensor:
        """1 - mean cosine of class features [classes, embed] and the frozen ones, []."""
        return 1 - F.cosine_similarity(text, self.teacher, dim=-1, eps=EPSILON).mean()

    def loss(self, images: Images, labels: Tensor) -> Tensor:
        """Mean cross-entropy and the distance, []."""
        text = self.text_features()
        logits = self.frozen.logits(self.image_features(images), text)
        return F.cross_entropy(logits, labels) + self.weight * self.distance(text)
