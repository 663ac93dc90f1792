"""APEX: deep visual prompts, a learned text context, a linear text adapter, and an ensemble by transfer difficulty.

Yang et al., "Towards Difficulty-Agnostic Efficient Transfer Learning for Vision-Language Models", EMNLP 2024, arXiv
2311.15569.

    z_j     = image([tokens, V_0]), V_i in place of V_{i-1} before block i + 1     V_i [visual_tokens, width]
    t_c     = text(start, v_1 .. v_n, the rest of the template with the name)      v [text_tokens, width]
    ta_c    = t_c A + b                                A [embed, embed], the identity at the start; b [embed]
    loss    = cross-entropy of exp(s) * norm(z) @ norm(ta).T                       no ensemble in training

At prediction each class k is weighed by its distance from the classes c of the fit, in the frozen model's text space,
with r the features of the plain template (`template`):

    alpha_k = 1 where 1 - max_c cos(r_c, r_k) <= epsilon, else exp(-beta (1 - mean_c cos(r_c, r_k)))
    te_k    = alpha_k ta_k + (1 - alpha_k) t_k
    ze      = a z + (1 - a) z_plain                           a = mean_k alpha_k over the classes that are asked for
    logits  = exp(s) * norm(ze) @ norm(te).T                  [images, classes]

Classes of the fit have alpha 1; r of the fit is saved, and alpha follows from it for any other list. What is frozen:
both towers. What is learned: V, v, A, b, nothing of it for a class.

# differs: z_plain is the plain image tower, as in the paper's Algorithm 2. The official program runs a tower with
random prompts that are never trained (`image_reference=random-prompts`), and with deep text prompts r is of such a
tower too (`text_reference=random-prompts`).
# differs: the depth of the visual prompts follows the tower, all blocks (12 of 12), or a quarter of them with
`protocol=transfer` (3 of 12).
# differs: float32 throughout; the program's context is a float16 parameter.
# differs: the paper does not say how `adapter=low-rank` starts; here as the projection onto the directions in which the
class features of the fit are largest, the closest to the identity that its rank allows for them.
# differs: views are drawn once, of half an image at least (`--views fresh` draws a new crop at every step, of 8 % at
least, as the official program does).
# differs: `protocol=transfer` trains on center views; the official program squeezes whole images into a square there.
Published: see docs/methods.md#apex.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotfit.data.tasks import TEMPLATE_SETS, ClassList
from shotfit.engine.frozen import Frozen, Images
from shotfit.errors import UsageError
from shotfit.methods.base import Method, Support, check_texts, option
from shotfit.methods.class_features import class_features
from shotfit.methods.declared import Declared
from shotfit.methods.prompted import deep_image, deep_text
from shotfit.methods.prompts import random_prompts
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule
from shotfit.towers.edits import Context, Edit
from shotfit.towers.texts import Texts

__all__ = ["Apex"]

LEAST_NEAR = 0.05  # what is learned counts as little as that where no class is nearer than the others
ROUNDING = 1e-6  # a distance that is 0 but for rounding
ADADELTA = Optimizer("adadelta", lr=0.15, weight_decay=0.001, eps=1e-6)


class Apex(Method):
    """Prompts in both towers, an adapter behind one, and less of both for classes far from those of the fit."""

    name: ClassVar[str] = "apex"
    title: ClassVar[str] = "APEX"
    paper: ClassVar[str] = "Yang et al., EMNLP 2024, arXiv 2311.15569"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        ADADELTA,
        Schedule("cosine", warmup=1, warmup_lr=0.01, warming="linear"),
        epochs={1: 15},
        batch=16,
        replayable=True,
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis("visual_tokens", (2, 8), "a narrow tower needs more prompts to be moved"),
            Axis("lr", (0.15, 1.5, 6.0), "prompts far from the initial ones are out of reach at the published rate"),
            Axis("steps", (300,), "fifteen epochs are 180 steps for a dozen classes"),
        ),
        robust={"visual_tokens": 2, "lr": 0.15, "steps": 100},
    )
    accepts_new_classes: ClassVar[bool] = True
    edits_towers: ClassVar[bool] = True

    visual_tokens: int = option(2, "prompt tokens in a block of the image tower", at_least=0)
    visual_depth: int = option(-1, "blocks with visual prompts of their own; 0: none; -1: all", at_least=-1)
    text_tokens: int = option(2, "words of the template that are learned", at_least=0)
    text_depth: int = option(1, "blocks with text prompts of their own, the input counted", at_least=1)
    prompt: str = option(
        "learned", "prompts: learned, the task's, or 60 templates averaged", choices=("learned", "manual", "ensemble")
    )
    template: str = option("a photo of a {}.", "template of the learned prompt and of the distances")
    adapter: str = option("linear", "map behind a tower", choices=("linear", "low-rank", "bottleneck", "none"))
    adapter_side: str = option("text", "features that the map takes", choices=("text", "image"))
    rank: int = option(0, "inner width of low-rank and bottleneck maps; 0: a quarter of the features", at_least=0)
    text_ensemble: bool = option(True, "mix adapted and other text features at prediction")
    image_ensemble: bool = option(True, "mix prompted and plain image features at prediction")
    beta: float = option(4.0, "how fast the coefficient falls with the distance", at_least=0, auto=True)
    epsilon: float = option(0.05, "distance up to which a class counts as one of the fit", at_least=0)
    coefficient: float = option(-1.0, "fixed coefficient of all classes; -1: by distance", at_least=-1, at_most=1)
    image_reference: str = option("plain", "image tower of the ensemble", choices=("plain", "random-prompts"))
    text_reference: str = option("plain", "text tower of the distances", choices=("plain", "random-prompts"))
    optimizer: str = option("adadelta", "optimizer and its constants in the paper", choices=("adadelta", "sgd"))
    protocol: str = option(
        "base-to-new", "setting of the paper for depth and recipe", choices=("base-to-new", "transfer")
    )

    def training_recipe(self) -> Recipe | None:
        """The paper's: by protocol, or with SGD."""
        assert self.recipe is not None
        recipe, schedule = self.recipe, self.recipe.schedule
        if self.protocol == "transfer":
            transfer, slow = replace(ADADELTA, lr=0.02), replace(schedule, warmup_lr=0.001)
            recipe = replace(recipe, optimizer=transfer, schedule=slow, epochs={1: 6}, batch=32, views=0)
        if self.optimizer == "sgd":
            sgd, slow = Optimizer("sgd", lr=0.0015, weight_decay=5e-4), replace(schedule, warmup_lr=1e-4)
            recipe = replace(recipe, optimizer=sgd, schedule=slow, epochs={1: 30})
        return recipe

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """Prompts, context and adapter; the random prompts of a reference; features and coefficients of the classes."""
        self.check()
        depth, config = self._depth(), frozen.backbone.config
        if depth:
            width = frozen.image_blocks(self.name, "visual_depth=0").width
            self.visual_prompts = nn.Parameter(random_prompts(frozen, depth, self.visual_tokens, width))
        if self._learned():
            self.context = nn.Parameter(self._words())  # [text_tokens, width]
        if self.text_depth > 1:
            shape = (min(self.text_depth, config.text.blocks.layers) - 1, self.text_tokens, config.text.blocks.width)
            self.text_prompts = nn.Parameter(random_prompts(frozen, *shape))
        if depth and self.image_reference == "random-prompts":
            self.register_buffer("reference_visual_prompts", random_prompts(frozen, *self.visual_prompts.shape))
        if self.text_depth > 1 and self.text_reference == "random-prompts":
            self.register_buffer("reference_text_prompts", random_prompts(frozen, *self.text_prompts.shape))
        self.register_buffer("fitted_classes", self.reference_features())  # [classes of the fit, embed]
        self.register_buffer("alpha", self.coefficients())  # [classes, 1]
        self._build_adapter(frozen.embed)

    def declared(self) -> dict[str, Declared]:
        """Prompts, context and adapter; the random prompts of a reference; features and coefficients of the classes."""
        embed, width, depth = self.frozen.embed, self.frozen.backbone.config.text.blocks.width, self._depth()
        found = {
            "buffer.fitted_classes": Declared("classes of the fit", embed),
            "buffer.alpha": Declared(len(self.class_names), 1),
        }
        if depth:
            image = self.frozen.image_blocks(self.name, "visual_depth=0").width
            found["parameter.visual_prompts"] = Declared(depth, self.visual_tokens, image)
            if self.image_reference == "random-prompts":
                found["buffer.reference_visual_prompts"] = Declared(depth, self.visual_tokens, image)
        if self._learned():
            found["parameter.context"] = Declared(self.text_tokens, width)
        if self.text_depth > 1:
            shape = min(self.text_depth, self.frozen.backbone.config.text.blocks.layers) - 1, self.text_tokens, width
            found["parameter.text_prompts"] = Declared(*shape)
            if self.text_reference == "random-prompts":
                found["buffer.reference_text_prompts"] = Declared(*shape)
        inner = self.rank or max(1, embed // 4)
        maps = {
            "linear": {"matrix": Declared(embed, embed), "bias": Declared(embed)},
            "low-rank": {
                "matrix_left": Declared(embed, inner),
                "matrix_right": Declared(embed, inner),
                "bias": Declared(embed),
            },
            "bottleneck": {"down": Declared(embed, inner), "up": Declared(inner, embed)},
            "none": {},
        }
        return found | {f"parameter.{name}": shape for name, shape in maps[self.adapter].items()}

    def find_option(self, name: str, support: Support) -> float:
        """beta: with which a class as far from those of the fit as they are from one another has 1 - near / mean.

        near, mean: the distance of a class of the fit from the nearest other, and from all others, by their names and
        averaged over the classes. Where classes have near neighbours, what is learned of one serves another, and alpha
        is large; it is LEAST_NEAR at least. Fewer than three classes have the default.
        """
        features = F.normalize(self.reference_features().to(self._like()), dim=-1)
        others = ~torch.eye(len(features), dtype=torch.bool, device=features.device)
        if len(features) < 3 or (mean := float((1 - features @ features.T)[others].mean())) <= ROUNDING:
            return type(self)().beta
        near = float((1 - (features @ features.T).where(others, -1.0).max(dim=1).values).mean())
        return math.log(1 / min(max(1 - near / mean, LEAST_NEAR), 1.0)) / mean

    def check(self) -> None:
        """Refuse options that do not fit one another, the backbone or the template."""
        if self.template.count("{}") != 1:
            raise UsageError(f"{self.name}: template must hold {{}} once, for the name, but is {self.template!r}.")
        if self.text_depth > 1 and not self._learned():
            raise UsageError(f"{self.name}: text_depth={self.text_depth} needs prompt=learned and text_tokens above 0.")
        if self.rank > self.frozen.embed:
            raise UsageError(
                f"{self.name}: rank is {self.rank}, but this backbone's features have {self.frozen.embed} entries: "
                "choose at most that."
            )
        if -1 < self.coefficient < 0:
            raise UsageError(f"{self.name}: coefficient must be from 0 to 1, or -1, but is {self.coefficient:g}.")
        if not (self._depth() or self._learned()) and self.adapter == "none":
            raise UsageError(
                f"{self.name}: without visual prompts, a learned prompt and an adapter nothing is trained."
            )
        check_texts(self.frozen.backbone, self._prompts())
        tokenizer, before = self.frozen.backbone.checked_tokenizer(), self.template.partition("{}")[0].strip()
        if self._learned() and self.text_tokens > (fixed := tokenizer.count(before) if before else 0):
            raise UsageError(
                f"{self.name}: text_tokens is {self.text_tokens}, but {self.template!r} has {fixed} tokens before the "
                "name, and more would overwrite it."
            )

    def _learned(self) -> bool:
        return self.prompt == "learned" and self.text_tokens > 0

    def _depth(self) -> int:
        """Blocks with visual prompts of their own."""
        if not (self.visual_tokens and self.visual_depth):
            return 0
        blocks = self.frozen.image_blocks(self.name, "visual_depth=0").layers
        usual = blocks if self.protocol == "base-to-new" else max(1, blocks // 4)
        return min(self.visual_depth, blocks) if self.visual_depth > 0 else usual

    def _first(self) -> int:
        """Place of the context in a prompt: behind the start token."""
        return len(self.frozen.backbone.checked_tokenizer().start)

    def _like(self) -> Tensor:
        """Device and precision of parameters."""
        return torch.empty(0, device=self.frozen.backbone.device, dtype=self.frozen.parameter_dtype)

    def _words(self) -> Tensor:
        """Embeddings of the template's first words."""
        row, first = self.frozen.encode([self._prompts()[0]]).rows[0], self._first()
        ids = row[first : first + self.text_tokens]
        return self.frozen.backbone.text.token_embedding.weight[torch.tensor(ids)].detach().to(self._like(), copy=True)

    def _build_adapter(self, embed: int) -> None:
        inner, like = self.rank or max(1, embed // 4), self._like()
        if self.adapter == "linear":
            self.matrix = nn.Parameter(torch.eye(embed).to(like))
        elif self.adapter == "low-rank":
            directions = torch.linalg.svd(self.get_buffer("fitted_classes").to(like)).Vh[:inner].T  # [embed, rank]
            self.matrix_left, self.matrix_right = (nn.Parameter(directions.clone()) for _ in range(2))
        elif self.adapter == "bottleneck":
            self.down = nn.Parameter(nn.Linear(embed, inner, bias=False).weight.detach().T.contiguous().to(like))
            self.up = nn.Parameter(nn.Linear(inner, embed, bias=False).weight.detach().T.contiguous().to(like))
        if self.adapter in ("linear", "low-rank"):
            self.bias = nn.Parameter(torch.zeros(embed).to(like))

    def adapt(self, features: Tensor) -> Tensor:
        """The map on features [rows, embed]."""
        if self.adapter == "none":
            return features
        name = "down" if self.adapter == "bottleneck" else "bias"
        x = features.to(self.get_parameter(name).dtype)
        if self.adapter == "bottleneck":
            x = F.relu(F.relu(x @ self.down) @ self.up)
        elif self.adapter == "low-rank":
            x = x @ self.matrix_left @ self.matrix_right.T + self.bias
        else:
            x = x @ self.matrix + self.bias
        return x.to(features.dtype)

    # Features before the ensemble.

    def prompted_text(self) -> Tensor:
        """t [classes, embed], before the adapter."""
        if self.prompt != "learned":
            sixty = TEMPLATE_SETS["imagenet-60"]
            lists = [replace(task, templates=sixty) if self.prompt == "ensemble" else task for task in self.classes]
            return class_features(self.frozen, lists, "raw")
        if not hasattr(self, "texts"):
            start, vocabulary = self._first(), self.frozen.backbone.config.text.vocabulary
            learned = range(vocabulary, vocabulary + self.text_tokens)
            rows = self.frozen.encode(self._prompts()).rows
            self.texts = Texts.of((*row[:start], *learned, *row[start + len(learned) :]) for row in rows)
        edits: list[Edit] = [Context(self.context)] if self._learned() else []
        return self.frozen.text(self.texts, [*edits, *deep_text(self.frozen, self._rows("text_prompts"))])

    def prompted_image(self, images: Images) -> Tensor:
        """z [images, embed]."""
        return self.frozen.image(images, deep_image(self._rows("visual_prompts")))

    def plain_image(self, images: Images) -> Tensor:
        """The reference of z, [images, embed]."""
        return self.frozen.image(images, deep_image(self._rows("reference_visual_prompts")))

    def reference_features(self) -> Tensor:
        """r [classes, embed] of the class list: the plain template, nothing learned."""
        if not hasattr(self, "reference_texts"):
            self.reference_texts = self.frozen.encode(self._prompts())
        with torch.no_grad():
            return self.frozen.text(self.reference_texts, deep_text(self.frozen, self._rows("reference_text_prompts")))

    def _prompts(self) -> list[str]:
        return [self.template.replace("{}", name) for task in self.classes for name in task.readable]

    def _rows(self, name: str) -> Sequence[Tensor]:
        """The prompts of this name, one block's after another's; none if there are none."""
        prompts: Tensor | None = getattr(self, name, None)
        return () if prompts is None else tuple(prompts)

    # The ensemble.

    def distances(self) -> tuple[Tensor, Tensor]:
        """Distance of each class from the nearest class of the fit and from all on average, each [classes, 1]."""
        like = self._like()
        fitted, asked = (
            features / features.norm(dim=-1, keepdim=True).clamp(min=1e-8)
            for features in (self.get_buffer("fitted_classes").to(like), self.reference_features().to(like))
        )
        cosines = asked @ fitted.T  # [classes, classes of the fit]
        nearest = 1 - cosines.max(dim=1, keepdim=True).values
        return nearest.where(nearest > ROUNDING, 0.0), 1 - cosines.mean(dim=1, keepdim=True)

    def coefficients(self) -> Tensor:
        """alpha [classes, 1]: how much of what was learned each class takes."""
        nearest, average = self.distances()
        if self.coefficient >= 0:
            return torch.full_like(nearest, self.coefficient)
        return torch.exp(-self.beta * average).where(nearest > self.epsilon, 1.0)

    def text_features(self) -> Tensor:
        """te [classes, embed]."""
        features = self.prompted_text()
        alpha = self.get_buffer("alpha").to(features.dtype)
        adapted = self.adapt(features) if self.adapter_side == "text" else features
        return alpha * adapted + (1 - alpha) * features if self.text_ensemble else adapted

    def image_features(self, images: Images) -> Tensor:
        """ze [images, embed]; a tower whose weight is 0 does not run."""
        weight = self.image_weight
        if weight == 0:
            return self.plain_image(images)
        features = self._adapted_image(images)
        return features if weight == 1 else weight * features + (1 - weight) * self.plain_image(images)

    @cached_property
    def image_weight(self) -> float:
        """How much of what was learned an image takes, once the coefficients of the class list are known."""
        same = self.adapter_side == "text" and not self._rows("visual_prompts")
        return float(self.get_buffer("alpha").mean()) if self.image_ensemble and not same else 1.0

    def _adapted_image(self, images: Images) -> Tensor:
        features = self.prompted_image(images)
        return self.adapt(features) if self.adapter_side == "image" else features

    def loss(self, images: Images, labels: Tensor) -> Tensor:
        """Mean cross-entropy of what is adapted, without the ensemble, []."""
        text = self.prompted_text()
        text = self.adapt(text) if self.adapter_side == "text" else text
        return F.cross_entropy(self.frozen.logits(self._adapted_image(images), text), labels)

    def rebuild(self, fitted: Method) -> None:
        """What was learned, with the coefficients of this class list."""
        for name, parameter in fitted.named_parameters():
            self.register_parameter(name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
        for name, buffer in fitted.named_buffers():
            self.register_buffer(name, buffer)
        self.register_buffer("alpha", self.coefficients())
