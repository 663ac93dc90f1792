"""MMRL: tokens of one shared space in the upper blocks of both towers, and a second head that reads the image's.

Guo and Gu, "MMRL: Multi-Modal Representation Learning for Vision-Language Models", CVPR 2025, arXiv 2503.08497.
MMRL++ (`plus`): Guo and Gu, IJCV 2026, arXiv 2505.10088.

    V_b = R Fv_b.T + bv_b     T_b = R Ft_b.T + bt_b          R [tokens, dim]; V_b, T_b [tokens, the tower's width]
    image    before the first listed block: class token, patches, V_b; before a later one V_b replaces these tokens
    text     before the first listed block: start, T_b, words, end; before a later one T_b replaces these tokens
    f        = norm(class token's feature)                   f_r = norm(mean_k(norm_post(token_k)) P_r)
    z, z_r   = 100 f norm(w).T, 100 f_r norm(w).T            w: text features [classes, embed]; P_r [image width, embed]
    loss     = alpha CE(z) + (1 - alpha) CE(z_r)
               + lambda (1 - mean_i cos(f_i, f0_i)) + lambda (1 - mean_c cos(w_c, w0_c))
    logits   = alpha z + (1 - alpha) z_r for classes of the fit; z where the list has another class

f0 and w0 are of the untouched towers. What is frozen: both towers. What is learned: R, a map for each listed block and
tower, and P_r, nothing of it for a class. MMRL++ has fewer parameters, and tokens keep a part of what the block before
made of those that they replace:

    V_b = R (W_v + A_b B_b).T + c_b, mixed as beta V_b + (1 - beta) (the tokens before)        P_r = P + A B

# differs: towers of unequal depth are paired from the top, and blocks are counted in the text tower; the official
program counts both from below (`pairing=index`). With equal depths there is no difference.
# differs: lambda is 0.5 (0.2 with `protocol=transfer`; of MMRL++ 0.1 there) for every data set, and beta 0.9. The
authors' are chosen for each (docs/methods.md#mmrl), presumably on test results: `regularization`, `beta`, `dim`.
# differs: which logits are used follows from the class list, not from the protocol: a shifted test set with the classes
of the fit has alpha z + (1 - alpha) z_r, where the program has z (`prediction=class`).
# differs: several templates of a task are averaged; the program has one.
# differs: float32 throughout; the program trains in mixed precision.
# differs: views are drawn once (`--views fresh` draws a new crop at every step, as the official program does).
Published: see docs/methods.md#mmrl.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.errors import UsageError
from shotfit.methods.base import Method, check_prompts, option
from shotfit.methods.class_features import class_features, mean_features
from shotfit.methods.declared import Declared
from shotfit.methods.mmrl.network import SharedTokens
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule

__all__ = ["MMRL"]

PREDICTED = {"class": 1.0, "representation": 0.0}  # share of z in the logits


class MMRL(SharedTokens):
    """Tokens made from one shared space in both towers, and two heads."""

    name: ClassVar[str] = "mmrl"
    title: ClassVar[str] = "MMRL"
    paper: ClassVar[str] = "Guo and Gu, CVPR 2025, arXiv 2503.08497; ++: IJCV 2026, arXiv 2505.10088"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("adamw", lr=0.001, weight_decay=5e-4),
        Schedule("cosine", warmup=1, warmup_lr=1e-5),
        epochs={1: 10},
        batch=4,
        crop_scale=(0.5, 1.0),
        replayable=True,
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis("lr", (1e-3, 3e-4, 3e-3), "few steps go nowhere at a small rate, and far away at a large one"),
            Axis("regularization", (-1.0, 4.0), "the published weights go from 0.01 to 7, by data set"),
            Axis("steps", (400,), "ten epochs of batches of 4 are 480 steps for a dozen classes"),
        ),
        robust={"lr": 1e-3, "regularization": 4.0, "steps": 200},
    )
    accepts_new_classes: ClassVar[bool] = True
    edits_towers: ClassVar[bool] = True

    alpha: float = option(0.7, "share of the class token's head in the loss", at_least=0, at_most=1)
    prediction_alpha: float = option(-1.0, "that share at prediction; -1: as in training", at_least=-1, at_most=1)
    prediction: str = option(
        "auto", "heads at prediction; auto: both for classes of the fit, else the class token's",
        choices=("auto", "fused", "class", "representation"),
    )  # fmt: skip
    regularization: float = option(-1.0, "lambda, weight of the likeness to the frozen model; -1: 0.5", at_least=-1)
    temperature: float = option(100.0, "factor of the cosines; 0: the backbone's own", at_least=0)
    protocol: str = option("base-to-new", "setting of the paper", choices=("base-to-new", "few-shot", "transfer"))

    def _check(self) -> None:
        super()._check()
        for name in ("prediction_alpha", "regularization"):
            if -1 < (value := getattr(self, name)) < 0:
                raise UsageError(f"{self.name}: {name} must be 0 or more, or -1, but is {value:g}.")

    def training_recipe(self) -> Recipe | None:
        """The paper's, by protocol."""
        assert self.recipe is not None
        if self.protocol == "transfer":
            return replace(self.recipe, epochs={1: 1}, batch=32, schedule=Schedule("cosine"))
        if self.protocol == "few-shot":
            rate = replace(self.recipe.optimizer, lr=0.002 if self.plus else 0.001)
            return replace(self.recipe, epochs={1: 100 if self.plus else 50}, batch=32, optimizer=rate)
        return self.recipe

    def check(self) -> None:
        """Refuse blocks that a tower does not have, and prompts that cannot be read."""
        for tower in ("image", "text"):
            self.sites(tower)
        check_prompts(self.frozen.backbone, self.classes)

    def declared(self) -> dict[str, Declared]:
        """What the tokens are made by; the share of z in the logits."""
        return super().declared() | {"buffer.class_share": Declared()}

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """What the tokens are made by; classes that are built for are those of the fit."""
        super().build(frozen, classes)
        self.register_buffer("class_share", torch.full((), self._share()).to(self.get_parameter("shared").detach()))

    def _share(self, known: bool = True) -> float:
        """The share of z in the logits, for classes that are all of the fit, or not."""
        fused = self.alpha if self.prediction_alpha < 0 else self.prediction_alpha
        return PREDICTED.get(self.prediction, fused if known or self.prediction == "fused" else 1.0)

    def rebuild(self, fitted: Method) -> None:
        """What was learned; the heads by whether all classes were in the fit."""
        super().rebuild(fitted)
        known = {prompt for task in fitted.classes for texts in task.prompts() for prompt in texts}
        asked = {prompt for task in self.classes for texts in task.prompts() for prompt in texts}
        fused = float(fitted.get_buffer("class_share")) < 1  # else it was asked for classes beyond the fit itself
        self.get_buffer("class_share").fill_(self._share(fused and asked <= known))

    def readings(self, images: Images) -> tuple[Tensor, Tensor]:
        """What both heads read of the images, before the norm: each [images, embed]."""
        found = self.frozen.image(images, self.edits())
        return found[:, : self.frozen.embed], self.projected(found[:, self.frozen.embed :])

    def image_features(self, images: Images) -> Tensor:
        """The class token's [images, embed]."""
        return self.readings(images)[0]

    def text_features(self) -> Tensor:
        """[classes, embed]: of several templates their mean direction."""
        if not hasattr(self, "texts"):
            self.texts, self.templates = self.frozen.class_texts(self.classes)
        found = self.frozen.text(self.texts, self.edits())
        return found if self.templates == 1 else mean_features(found, [self.templates] * len(self.class_names))

    def _logits(self, features: Tensor, text: Tensor) -> Tensor:
        factor = self.temperature or self.frozen.temperature.to(features.dtype)
        return factor * normalize(features) @ normalize(text).T

    def logits(self, images: Images) -> Tensor:
        """Of both heads, by their share: [images, classes]."""
        text, share = self.class_features(), self.get_buffer("class_share")
        own, tokens = (self._logits(features, text) for features in self.readings(images))
        return share * own + (1 - share) * tokens

    def loss(self, images: Images, labels: Tensor) -> Tensor:
        """Cross-entropies of both heads, and how far both towers are from the frozen ones, []."""
        text, (own, tokens) = self.text_features(), self.readings(images)
        if not hasattr(self, "frozen_text"):
            self.frozen_text = class_features(self.frozen, self.classes)
        pairs = ((own, self.frozen.image(images)), (text, self.frozen_text))
        apart = sum(1 - F.cosine_similarity(one, other).mean() for one, other in pairs)
        right = [F.cross_entropy(self._logits(features, text), labels) for features in (own, tokens)]
        return self.alpha * right[0] + (1 - self.alpha) * right[1] + self.weight * apart

    @property
    def weight(self) -> float:
        """lambda."""
        usual = 0.5 if self.protocol != "transfer" else 0.1 if self.plus else 0.2
        return usual if self.regularization < 0 else self.regularization
