"""Full fine-tuning of the image tower with a head that starts as the text classifier, and WiSE-FT's average.

Wortsman et al., "Robust Fine-Tuning of Zero-Shot Models", CVPR 2022, arXiv 2109.01903.

    logits = W norm(image) + b               W [classes, embed] from exp(s) * text features, b [classes] from 0
    theta  = (1 - mix) theta_0 + mix theta_1   WiSE-FT: the zero-shot model and the tuned one, tower and head

What is frozen: the text tower, which is used once. What is learned: every weight of the image tower, W and b.
`variant=linear` leaves the tower as it is. A class has a row of W, so new classes have none. A model holds the whole
tower, and training takes 16 bytes for each of its weights and what its activations take (`--memory` bounds these).

Beside it, what CLIP-CITE adds (Liu, Li and Yu, "Fully Fine-tuned CLIP Models are Efficient Few-Shot Learners", arXiv
2407.04003), as terms of the loss over a batch of images x_i, where t_i is the text of the class of x_i:

    loss     = cross-entropy + contrast * SCL + distill * KL(p_i || p0_i)
    SCL      = -log(exp s(x_i, t_i) / (exp s(x_i, t_i) + sum_j exp s(x_i, t_j)))   over images j of other classes,
               and the same from texts to images;   s(x, t) = exp(s) cos(x, t)
    p_i, p0_i  softmax over the batch's texts t_j of s(x_i, t_j), of the trained and of the frozen model

`towers=both` trains the text tower by these terms too, and predicts by its texts in place of the head, so that new
classes have theirs: `wise_ft+towers=both+contrast=0.7+distill=0.1+lr=5e-6+epochs=20` is all of CLIP-CITE.

# differs: batches of 32 and 5 steps in which the rate rises; the program has 512 and 500, more than the steps of a few
shots.
# differs: statistics of a ResNet's batch norms stay as they are; in the program they are those of the batch.
# differs: views are drawn once and flipped (`--views fresh` draws a new crop at every step, of 90 % at least, as the
official program does without flips).
# differs: no program of CLIP-CITE was found, and its paper leaves open what is chosen here: the temperature is the
model's own in all terms, a text of the own class stands in the denominator, and terms are means over the batch.
Published: see docs/methods.md#fine_tune.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.errors import UsageError
from shotfit.methods.base import Method, Support, Validation, option
from shotfit.methods.class_features import class_features, mean_features
from shotfit.methods.declared import Declared
from shotfit.methods.fine_tune.cite import contrasted, diverged
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule
from shotfit.methods.tuned import Site, grouped, named
from shotfit.towers.changed import parameters_at
from shotfit.towers.edits import Weights

__all__ = ["FineTune", "WiseFT"]


class FineTune(Method):
    """All weights of the image tower, and a linear head."""

    name: ClassVar[str] = "fine_tune"
    title: ClassVar[str] = "full fine-tuning"
    paper: ClassVar[str] = "Wortsman et al., CVPR 2022, arXiv 2109.01903"
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("adamw", lr=1e-5, weight_decay=0.1),
        Schedule("cosine", "step", warmup=5, warming="linear"),
        epochs={1: 10},
        crop_scale=(0.9, 1.0),
        keep_last=True,
        replayable=True,
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis("lr", (1e-5, 1e-4), "ten epochs of a small folder are few steps"),
            Axis("steps", (200,), "a step runs the whole image tower and all of its gradients"),
        ),
        robust={"lr": 1e-5, "steps": 100},
    )
    edits_towers: ClassVar[bool] = True

    variant: str = option("full", "what is trained beside the head", choices=("full", "linear"))
    label_smoothing: float = option(0.0, "share of the target that all classes have", at_least=0, at_most=0.9)
    contrast: float = option(0.0, "weight of CLIP-CITE's contrast of a batch's images and texts", at_least=0)
    distill: float = option(0.0, "weight of CLIP-CITE's divergence from the frozen model", at_least=0)
    towers: str = option("image", "towers that are trained; both: the texts predict", choices=("image", "both"))

    def _check(self) -> None:
        super()._check()
        terms = self.contrast or self.distill
        if self.variant == "linear" and (terms or self.towers == "both"):
            raise UsageError(f"{self.name}: variant=linear trains no tower: leave contrast, distill and towers out.")
        if self.towers == "both" and not terms:
            raise UsageError(f"{self.name}: contrast and distill train the text tower: give one, as in contrast=0.7.")
        object.__setattr__(self, "accepts_new_classes", self.towers == "both")

    def training_recipe(self) -> Recipe | None:
        """What the frozen model says of a batch is read from the store, which a recording cannot."""
        assert self.recipe is not None
        return replace(self.recipe, replayable=not self.distill)

    def takes_shares(self) -> bool:
        """The terms beside the cross-entropy look at a batch as a whole."""
        return not (self.contrast or self.distill)

    def _frozen_weights(self) -> dict[Site, Tensor]:
        """What is trained of the towers."""
        backbone, found = self.frozen.backbone, dict[Site, Tensor]()
        if self.variant == "full":
            for step in range(backbone.image.last + 1):
                found |= {("image", step, name): own for name, own in parameters_at(backbone.image, step).items()}
        if self.towers == "both":
            for step in range(backbone.text.last + 1):
                found |= {("text", step, name): own for name, own in parameters_at(backbone.text, step).items()}
        return found

    def _start(self) -> dict[str, Tensor]:
        """The zero-shot model: the value that every parameter starts from."""
        dtype = self.frozen.parameter_dtype
        found = {named(site): value.detach().to(dtype) for site, value in self._frozen_weights().items()}
        texts = class_features(self.frozen, self.classes)
        head = self.frozen.temperature.to(texts) * texts
        return found | {"head": head, "bias": head.new_zeros(len(head))}

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """The zero-shot model."""
        for name, value in self._start().items():
            self.register_parameter(name, nn.Parameter(value.clone()))

    def rebuild(self, fitted: Method) -> None:
        """The towers of the fitted model; the head, which knows its classes alone, as it is at the start."""
        self.build(self.frozen, self.classes)
        for site in self._frozen_weights():
            self.get_parameter(named(site)).data.copy_(fitted.get_parameter(named(site)))

    def declared(self) -> dict[str, Declared]:
        """The towers, and a row for each class."""
        towers = {named(site): Declared(*value.shape) for site, value in self._frozen_weights().items()}
        classes = len(self.class_names)
        own = towers | {"head": Declared(classes, self.frozen.embed), "bias": Declared(classes)}
        return {f"parameter.{name}": value for name, value in own.items()}

    def edits(self) -> list[Weights]:
        """Other values of every step."""
        return grouped({site: self.get_parameter(named(site)) for site in self._frozen_weights()})

    def text_features(self) -> Tensor:
        """What texts predict by, [classes, embed]: norm(mean norm) of a class's prompts."""
        if self.towers == "image":
            return class_features(self.frozen, self.classes)
        texts, templates = self.frozen.class_texts(self.classes)
        return mean_features(self.frozen.text(texts, self.edits()), [templates] * len(self.class_names))

    def image_features(self, images: Images) -> Tensor:
        """[images, embed]."""
        return self.frozen.image(images, self.edits())

    def logits(self, images: Images) -> Tensor:
        """[images, classes], by the head or, of both towers, by the texts."""
        features = self.image_features(images)
        return (
            self._by_head(features) if self.towers == "image" else self.frozen.logits(features, self.class_features())
        )

    def _by_head(self, features: Tensor) -> Tensor:
        return F.linear(normalize(features), *map(self.get_parameter, ("head", "bias")))

    def loss(self, images: Images, labels: Tensor) -> Tensor:
        """Mean cross-entropy of the head, and the terms of CLIP-CITE, []."""
        features = self.image_features(images)
        loss = F.cross_entropy(self._by_head(features), labels, label_smoothing=self.label_smoothing)
        if not (self.contrast or self.distill):
            return loss
        scores = self.frozen.logits(features, self.text_features()[labels])  # [images, images]
        if self.contrast:
            loss = loss + self.contrast * contrasted(scores, labels)
        if self.distill:
            with torch.no_grad():
                frozen = self.frozen.image(images), class_features(self.frozen, self.classes)[labels]
            loss = loss + self.distill * diverged(scores, self.frozen.logits(*frozen))
        return loss

    def adjust_gradients(self) -> None:
        """The norm of all gradients together is at most 1."""
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)


class WiseFT(FineTune):
    """The average of the zero-shot model and the fine-tuned one."""

    name: ClassVar[str] = "wise_ft"
    title: ClassVar[str] = "WiSE-FT"

    mix: float = option(0.5, "share of the tuned model in the average", at_least=0, at_most=1)

    def solve(self, support: Support, validation: Validation) -> None:
        """Average every weight."""
        for name, value in self._start().items():
            own = self.get_parameter(name)
            own.copy_(torch.lerp(value, own, self.mix))
