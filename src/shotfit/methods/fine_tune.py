"""Full fine-tuning of the image tower with a head that starts as the text classifier, and WiSE-FT's average.

Wortsman et al., "Robust Fine-Tuning of Zero-Shot Models", CVPR 2022, arXiv 2109.01903.

    logits = W norm(image) + b               W [classes, embed] from exp(s) * text features, b [classes] from 0
    theta  = (1 - mix) theta_0 + mix theta_1   WiSE-FT: the zero-shot model and the tuned one, tower and head

What is frozen: the text tower, which is used once. What is learned: every weight of the image tower, W and b.
`variant=linear` leaves the tower as it is. A class has a row of W, so new classes have none. A model holds the whole
tower, and training takes 16 bytes for each of its weights and what its activations take (`--memory` bounds these).

# differs: batches of 32 and 5 steps in which the rate rises; the program has 512 and 500, more than the steps of a few
shots.
# differs: statistics of a ResNet's batch norms stay as they are; in the program they are those of the batch.
# differs: views are drawn once and flipped (`--views fresh` draws a new crop at every step, of 90 % at least, as the
official program does without flips).
Published: see docs/methods.md#fine_tune.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.methods.base import Method, Support, Validation, option
from shotfit.methods.class_features import class_features
from shotfit.methods.declared import Declared
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

    def _frozen_weights(self) -> dict[Site, Tensor]:
        """What is trained of the image tower."""
        tower = self.frozen.backbone.image
        steps = range(tower.last + 1) if self.variant == "full" else ()
        return {("image", step, name): value for step in steps for name, value in parameters_at(tower, step).items()}

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

    def declared(self) -> dict[str, Declared]:
        """The tower, and a row for each class."""
        tower = {named(site): Declared(*value.shape) for site, value in self._frozen_weights().items()}
        classes = len(self.class_names)
        own = tower | {"head": Declared(classes, self.frozen.embed), "bias": Declared(classes)}
        return {f"parameter.{name}": value for name, value in own.items()}

    def edits(self) -> list[Weights]:
        """Other values of every step."""
        return grouped({site: self.get_parameter(named(site)) for site in self._frozen_weights()})

    def image_features(self, images: Images) -> Tensor:
        """[images, embed]."""
        return self.frozen.image(images, self.edits())

    def logits(self, images: Images) -> Tensor:
        """[images, classes]."""
        return F.linear(normalize(self.image_features(images)), *map(self.get_parameter, ("head", "bias")))

    def loss(self, images: Images, labels: Tensor) -> Tensor:
        """Mean cross-entropy, []."""
        return F.cross_entropy(self.logits(images), labels, label_smoothing=self.label_smoothing)

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
