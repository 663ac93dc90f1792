"""MMA: multi-modal adapter. Bottlenecks beside the upper blocks of both towers, coupled by what they share.

Yang et al., "MMA: Multi-Modal Adapter for Vision-Language Models", CVPR 2024.

    A_i^m(h) = U_i^m relu(S_i relu(D_i^m h))              D [dim, width of tower m], S [dim, dim], U [width, dim]
    x        = block_i(x) + s * A_i^m(norm1_i(x))         at every site i and every token; norm1: the block's own
    logits   = exp(s_clip) * norm(image) @ norm(text).T   [images, classes]

What is frozen: both towers. What is learned: D and U of each tower and site with their biases, and one S for the two
towers of a site, so that each tower's gradient reaches the other's adapters. Nothing belongs to a class.

Sites are blocks from 1; site 0 is the embedding: E + s A_0(E) before the positions in the text tower, behind the input
norm in the image tower. BERT's blocks have no norm in front: beside them A_i reads the block's input, which the block
below has normed. Prompts are "{prefix} {class}." whatever the task's templates. With s = 0.001 the true gradient
would hardly move an adapter: `gradient_rule=scaled` divides the gradients of sites from 1 on by s, before the weight
decay is added. It is the gradient of an adapter of scale 1 whose output is scaled afterwards.

# differs: towers of unequal depth are paired from the top, as the paper finds that upper blocks should be adapted: site
j of the text tower and block j + (image depth - text depth), where a text site without a partner keeps S to itself. The
official program counts both from the bottom (`pairing=index`). With equal depths there is no difference.
# differs: the range follows the depth, the upper two thirds (5 to 12 of 12); the program's is 5 to 12.
# differs: float32 throughout; the program multiplies in float16, where s A is partly rounded away.
# differs: views are drawn once, of half an image at least (`--views fresh` draws a new crop at every step, of 8 % at
least, as the official program does).
# differs: with `dropout` the masks of a call that runs in chunks (`--memory`) are the same in each.

Beside the paper, the options that MMA++ changes (`mma_plus_plus`): a list of texts for each class in place of one
prompt (`texts`, `descriptions`), of which each step draws one and prediction averages all; the cosine to features at a
random smaller scale (`consistency`); dropout; another scale at prediction.
With `protocol=transfer` the upper third is adapted for one epoch, what a user of the program quotes from the paper for
the classes of other tasks. Published: see docs/methods.md#mma.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from shotfit.data.tasks import TEMPLATE_SETS
from shotfit.engine.frozen import Images
from shotfit.errors import UsageError
from shotfit.methods.base import check_texts, option
from shotfit.methods.class_features import mean_features
from shotfit.methods.descriptions import read_descriptions
from shotfit.methods.mma.network import Adapters
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule
from shotfit.towers.texts import Texts

__all__ = ["MMA"]

TOGETHER = 1024  # texts that run together at prediction, where a class may have eighty


class MMA(Adapters):
    """Adapters beside the blocks of both towers, with a shared middle."""

    name: ClassVar[str] = "mma"
    title: ClassVar[str] = "MMA"
    paper: ClassVar[str] = "Yang et al., CVPR 2024"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("sgd", lr=0.0015, weight_decay=5e-4), Schedule("cosine"), epochs={1: 5}, batch=16, replayable=True
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis("lr", (1.5e-3, 6e-3, 1.2e-2), "adapters start without effect, and few steps take them nowhere"),
            Axis("steps", (400,), "five epochs are 30 steps for a dozen classes"),
        ),
        robust={"lr": 6e-3, "steps": 240},
    )
    accepts_new_classes: ClassVar[bool] = True
    edits_towers: ClassVar[bool] = True

    scale: float = option(0.001, "factor of the adapters' output", above=0)
    prediction_scale: float = option(-1.0, "that factor at prediction; -1: as in training", at_least=-1)
    gradient_rule: str = option("scaled", "gradients divided by the scale, or true ones", choices=("scaled", "plain"))
    prefix: str = option("a photo of a", "words in front of the class name, where `texts` is prompt")
    texts: str = option(
        "prompt",
        "texts of a class: one prompt, the task's templates, or a set",
        choices=("prompt", "task", *TEMPLATE_SETS),
    )
    descriptions: str = option("", "JSON file of class name: list of sentences, in place of `texts`")
    consistency: float = option(0.0, "weight of the likeness to features at a random smaller scale", at_least=0)

    def _check(self) -> None:
        super()._check()
        for name in ("prediction_scale", "consistency", "dropout"):
            if -1 < (value := getattr(self, name)) < 0:
                raise UsageError(f"{self.name}: {name} must be 0 or more, or -1, but is {value:g}.")

    def training_recipe(self) -> Recipe | None:
        """One epoch for classes of other tasks; a step that draws something is no replayable one."""
        assert self.recipe is not None
        recipe = replace(self.recipe, epochs={1: 1}) if self.protocol == "transfer" else self.recipe
        return replace(recipe, replayable=recipe.replayable and not self._draws())

    def _draws(self) -> bool:
        return bool(self.texts != "prompt" or self.descriptions or self.consistency_weight or self.dropout_rate)

    def files(self) -> list[Path]:
        """The descriptions."""
        return [Path(self.descriptions)] if self.descriptions else []

    def check(self) -> None:
        """Refuse a range of blocks that the towers do not have, and texts that cannot be read."""
        for tower in self._widths():
            self.sites(tower)
        texts = [text for own in self.class_texts() for text in own]
        if self.descriptions:
            self.frozen.sentences(texts)
        else:
            check_texts(self.frozen.backbone, texts)

    # Texts

    def class_texts(self) -> list[list[str]]:
        """The texts of each class: one prompt, or a list to draw from."""
        if self.descriptions:
            return read_descriptions(Path(self.descriptions), self.class_names)
        if self.texts == "task":
            return [texts for task in self.classes for texts in task.prompts()]
        if self.texts == "prompt":
            return [[f"{self.prefix} {name}.".strip()] for task in self.classes for name in task.readable]
        templates = TEMPLATE_SETS[self.texts]
        return [
            [template.replace("{}", name) for template in templates] for task in self.classes for name in task.readable
        ]

    @property
    def encoded(self) -> tuple[Texts, tuple[int, ...]]:
        """All texts class by class, and how many each class has."""
        if not hasattr(self, "_encoded"):
            lists = self.class_texts()
            encode = self.frozen.sentences if self.descriptions else self.frozen.encode
            self._encoded = encode([text for own in lists for text in own]), tuple(map(len, lists))
        return self._encoded

    def drawn(self) -> Texts:
        """One text of each class, at random where there are several."""
        texts, counts = self.encoded
        if len(texts) == len(counts):
            return texts
        starts = [sum(counts[:number]) for number in range(len(counts))]
        return Texts(
            tuple(
                texts.rows[start + int(torch.randint(count, ()))] for start, count in zip(starts, counts, strict=True)
            )
        )

    # Features

    @property
    def used_scale(self) -> float:
        """The scale at prediction; 0 is the frozen model."""
        return self.scale if self.prediction_scale < 0 else self.prediction_scale

    @property
    def consistency_weight(self) -> float:
        """The weight of the consistency loss."""
        return self.consistency

    def text_features(self) -> Tensor:
        """[classes, embed], as predicted with: of several texts of a class their mean direction."""
        (texts, counts), edits = self.encoded, self.edits(self.used_scale)
        if len(texts) == len(counts):
            return self.frozen.text(texts, edits)
        parts = [texts[start : start + TOGETHER] for start in range(0, len(texts), TOGETHER)]
        return mean_features(torch.cat([self.frozen.text(part, edits) for part in parts]), counts)

    def image_features(self, images: Images) -> Tensor:
        """[images, embed], as predicted with."""
        return self.frozen.image(images, self.edits(self.used_scale))

    def features(self, texts: Texts, images: Images, scale: float) -> tuple[Tensor, Tensor]:
        """Text and image features of a training pass at this scale, each with masks of its own."""
        edits = self.edits(scale, dropping=True)
        return self.frozen.text(texts, edits), self.frozen.image(images, edits)

    def loss(self, images: Images, labels: Tensor) -> Tensor:
        """Mean cross-entropy at the training scale, less the likeness to features at a smaller one, []."""
        texts = self.drawn()
        text, image = self.features(texts, images, self.scale)
        loss = F.cross_entropy(self.frozen.logits(image, text), labels)
        if not self.consistency_weight:
            return loss
        with torch.no_grad():
            other = self.features(texts, images, self.drawn_share() * self.scale)
        alike = [F.cosine_similarity(one, two).mean() for one, two in zip((text, image), other, strict=True)]
        return loss - self.consistency_weight * (alike[0] + alike[1])

    def drawn_share(self) -> float:
        """What the second pass takes of the scale, from 0 to 1."""
        return float(torch.rand(()))

    def adjust_gradients(self) -> None:
        """The gradient rule: those of sites from 1 on, divided by the scale."""
        if self.gradient_rule == "plain":
            return
        for name, parameter in self.named_parameters():
            if parameter.grad is not None and "_0_" not in name:
                parameter.grad /= self.scale
