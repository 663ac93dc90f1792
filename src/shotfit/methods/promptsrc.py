"""PromptSRC: independent prompts in both towers, held by the frozen model and averaged over the epochs.

Khattak et al., "Self-regulating Prompts: Foundational Model Adaptation without Forgetting", ICCV 2023, arXiv
2307.06948.

    t, z     class and image features with the prompts of IVLP                    [classes, embed], [images, embed]
    t0, z0   those of the frozen towers; t0: the mean over templates, as long as each is
    l, l0    exp(s) * norm(z) @ norm(t).T, and the same of z0 and t0               [images, classes]
    loss     = cross-entropy(l) + text_weight * mean |norm(t) - norm(t0)| + image_weight * mean |norm(z) - norm(z0)|
               + logit_weight * sum p0 (log p0 - log p) / (images * classes)       p = softmax(l), p0 = softmax(l0)
    learned  = sum_e w_e (learned after epoch e),  w a Gaussian of the epoch, of sum 1

What is frozen: both towers. What is learned: what IVLP learns, 4 tokens in three quarters of the blocks; nothing of it
for a class. Prediction needs no teacher. The image tower must be a transformer.

`protocol=transfer` is the paper's setting for other data sets and shifted domains, `few-shot` its setting for all
classes; for Cars, Flowers, Aircraft, DTD and EuroSAT it averages later there (`average_at=0.9`, `average_width=0.1`).

# differs: the depth follows the towers, three quarters of the blocks (9 of 12), or a quarter with `protocol=transfer`.
# differs: the Gaussian is given as shares of the training's length, so that it fits any length: 15 and 1 of 20 epochs.
# differs: only what is learned is averaged; the official program averages all of CLIP in float16.
# differs: more than four words are learned as words; the official program ignores words there (`words=` for a random
context).
# differs: views are drawn once, of half an image at least (`--views fresh` draws a new crop at every step, of 8 % at
least, as the official program does).
Published: see docs/methods.md#promptsrc.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from shotfit.data.tasks import TEMPLATE_SETS
from shotfit.engine.frozen import Images, normalize
from shotfit.errors import UsageError
from shotfit.methods.base import option
from shotfit.methods.class_features import class_features
from shotfit.methods.prompted import PromptedBoth
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule

__all__ = ["PromptSRC"]

AVERAGES = {"base-to-new": (15 / 20, 1 / 20), "transfer": (6 / 20, 10 / 20), "few-shot": (30 / 50, 30 / 50)}


class PromptSRC(PromptedBoth):
    """Prompts in both towers that stay near the frozen model."""

    name: ClassVar[str] = "promptsrc"
    title: ClassVar[str] = "PromptSRC"
    paper: ClassVar[str] = "Khattak et al., ICCV 2023, arXiv 2307.06948"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("sgd", lr=0.0025, weight_decay=5e-4),
        Schedule("cosine", warmup=1, warmup_lr=1e-5),
        epochs={1: 20},
        batch=4,
        replayable=True,
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis(
                "lr", (2.5e-3, 1e-2, 5e-2), "prompts far from the initial ones are out of reach at the published rate"
            ),
            Axis("steps", (600,), "twenty epochs are 960 steps for a dozen classes"),
        ),
        robust={"lr": 1e-2, "steps": 300},
    )

    text_tokens: int = option(4, "tokens of the words that are learned, and prompt tokens in a text block", at_least=1)
    visual_tokens: int = option(4, "prompt tokens in an image block", at_least=1)
    text_weight: float = option(25.0, "weight of the distance from the frozen class features", at_least=0)
    image_weight: float = option(10.0, "weight of the distance from the frozen image features", at_least=0)
    logit_weight: float = option(1.0, "weight of the distance from the frozen probabilities", at_least=0)
    teacher: str = option("imagenet-60", "templates of the frozen class features", choices=("imagenet-60", "task"))
    average: bool = option(True, "average what was learned over the epochs")
    average_at: float = option(-1.0, "share of the training that weighs most; -1: by protocol", at_least=-1)
    average_width: float = option(-1.0, "deviation of the weights, in trainings; -1: by protocol", at_least=-1)
    protocol: str = option("base-to-new", "setting of the paper for depth and recipe", choices=tuple(AVERAGES))

    def _check(self) -> None:
        super()._check()
        if -1 < self.average_at < 0 or -1 < self.average_width <= 0:
            raise UsageError(
                f"{self.name}: average_at must be 0 or more and average_width above 0, or -1 for the protocol's, but "
                f"they are {self.average_at:g} and {self.average_width:g}."
            )

    def twelfths(self) -> int:
        """Of the blocks that have prompts."""
        return 3 if self.protocol == "transfer" else 9

    def training_recipe(self) -> Recipe | None:
        """The paper's, by protocol."""
        assert self.recipe is not None
        at, width = AVERAGES[self.protocol]
        at, width = (
            self.average_at if self.average_at >= 0 else at,
            self.average_width if self.average_width > 0 else width,
        )
        epochs = {1: 50} if self.protocol == "few-shot" else self.recipe.epochs
        return replace(self.recipe, epochs=epochs, average=(at, width) if self.average else None)

    @cached_property
    def frozen_classes(self) -> Tensor:
        """t0 [classes, embed], not normalized."""
        templates = TEMPLATE_SETS.get(self.teacher)
        lists = [replace(task, templates=templates) if templates else task for task in self.classes]
        return class_features(self.frozen, lists, "raw")

    def losses(self, images: Images, labels: Tensor) -> dict[str, Tensor]:
        """The loss's terms, [] each, with their weights; those of weight 0 are left out."""
        image, text = self.image_features(images), self.text_features()
        logits, terms = self.frozen.logits(image, text), dict[str, Tensor]()
        terms["cross-entropy"] = F.cross_entropy(logits, labels)
        if self.text_weight:
            apart = normalize(text) - normalize(self.frozen_classes)
            terms["text"] = self.text_weight * apart.abs().mean()
        prompted = self.image_weight and self.visual_depth != 0  # without prompts the two are the same
        plain = self.frozen.image(images) if prompted or self.logit_weight else image
        if prompted:
            terms["image"] = self.image_weight * (normalize(image) - normalize(plain)).abs().mean()
        if self.logit_weight:
            other = self.frozen.logits(plain, self.frozen_classes).log_softmax(dim=-1)
            apart = other.exp() * (other - logits.log_softmax(dim=-1))  # [images, classes]
            terms["logits"] = self.logit_weight * apart.mean()
        return terms

    def loss(self, images: Images, labels: Tensor) -> Tensor:
        """Their sum, []."""
        terms = self.losses(images, labels)
        return sum(terms.values(), start=terms["cross-entropy"].new_zeros(()))
