"""CoCoOp: a context that each image shifts.

Zhou et al., "Conditional Prompt Learning for Vision-Language Models", CVPR 2022, arXiv 2203.05557.

    p_j          = W2 relu(W1 norm(z_j) + b1) + b2            z_j: image j's features; W1 [embed // 16, embed]
    t_jc         = text(start, v_1 + p_j .. v_L + p_j, what is left of the words, name_c, ".", end)
    logits[j, c] = exp(s) * cos(z_j, t_jc)                    [images, classes]

What is frozen: both towers. What is learned: the context v [L, width] and the meta-net W1, b1, W2, b2; nothing of it
for a class. The text tower runs for every image and class. Of an image's prompts the beginning is the same for all
classes and runs once; what the tower never reads does not run; image features are stored.

# differs: float32 throughout; the official program trains context and meta-net in float16.
# differs: views are drawn once, of half an image at least (`--views fresh` draws a new crop at every step, of 8 % at
least, as the official program does).
Published: see docs/methods.md#cocoop.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from shotfit.engine.frozen import Images, normalize
from shotfit.methods.base import Method, option
from shotfit.methods.prompted import Prompted, linear_start
from shotfit.methods.prompts import some
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule
from shotfit.towers.edits import Context
from shotfit.towers.texts import Texts

__all__ = ["CoCoOp"]

ROWS = 1024  # prompts that a prediction runs together
IMAGES = 32  # and images


class CoCoOp(Prompted):
    """CoOp with a small network that moves the context for each image."""

    name: ClassVar[str] = "cocoop"
    title: ClassVar[str] = "CoCoOp"
    paper: ClassVar[str] = "Zhou et al., CVPR 2022, arXiv 2203.05557"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("sgd", lr=0.002, weight_decay=5e-4),
        Schedule("cosine", warmup=1, warmup_lr=1e-5),
        epochs={1: 10},
        batch=1,
        replayable=True,
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis("lr", (2e-3, 1e-2), "how far a context must go depends on the backbone and the names"),
            Axis("steps", (800,), "ten epochs of single images are 1,920 steps for a dozen classes"),
        ),
        robust={"lr": 2e-3, "steps": 400},
    )

    length: int = option(4, "context length L; the number of words if `words` is given", at_least=1)

    def text_asked(self) -> tuple[int, int]:
        """The context alone."""
        return self.words_asked(self.length), 1

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The context and the meta-net."""
        embed, width = self.frozen.embed, self.frozen.backbone.config.text.blocks.width
        hidden = max(1, embed // 16)
        meta = {"meta_1_weight": (hidden, embed), "meta_1_bias": (hidden,)}
        return super().shapes() | meta | {"meta_2_weight": (width, hidden), "meta_2_bias": (width,)}

    def start(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The meta-net starts as linear layers do."""
        if not name.startswith("meta"):
            return super().start(name, shape)
        return linear_start(self.frozen, shape, self.shapes()[f"{name[:6]}_weight"][1])

    def shift(self, image: Tensor) -> Tensor:
        """p [images, width] of image features of unit length [images, embed]."""
        first, second = (
            (self.get_parameter(f"meta_{layer}_weight"), self.get_parameter(f"meta_{layer}_bias")) for layer in (1, 2)
        )
        return F.linear(F.relu(F.linear(image, *first)), *second)

    def class_features_of(self, image: Tensor) -> Tensor:
        """t [images, classes, embed] for image features of unit length [images, embed]."""
        contexts = self.get_parameter("context") + self.shift(image)[:, None]  # [images, L, width]
        features = self.frozen.text(self.prompts(len(image)), [Context(contexts.flatten(0, 1))])
        return features.unflatten(0, (len(image), -1))

    def prompts(self, images: int) -> Texts:
        """All prompts of so many images, image by image: each has a context of its own."""
        kept: dict[int, Texts] = self.__dict__.setdefault("_prompts", {})
        if images not in kept:
            vocabulary, (length, _) = self.frozen.backbone.config.text.vocabulary, self.text_asked()
            classes = len(self.class_names)
            higher = [length * image for image in range(images) for _ in range(classes)]
            kept[images] = some(self.texts, [*range(classes)] * images, vocabulary, [-by for by in higher])
        return kept[images]

    # Class features depend on the image, so that there are none to bake.
    text_features = Method.text_features

    def logits(self, images: Images) -> Tensor:
        """[images, classes]; without gradients a few images at a time."""
        features = normalize(self.image_features(images))
        together = len(features) if torch.is_grad_enabled() else max(1, min(IMAGES, ROWS // len(self.class_names)))
        scale = self.frozen.backbone.logit_scale.to(features.dtype).exp()
        parts = [
            (normalize(self.class_features_of(part)) @ part[:, :, None]).squeeze(-1)  # [images, classes]
            for part in features.split(max(together, 1))
        ]
        return scale * torch.cat(parts)

    def takes_shares(self) -> bool:
        """No: processes share out the prompts, which are those of all images of the batch."""
        return False
