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
With `protocol=transfer` the upper third is adapted for one epoch, what a user of the program quotes from the paper for
the classes of other tasks. Published: see docs/methods.md#mma.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images
from shotfit.errors import UsageError
from shotfit.methods.base import Method, check_texts, option
from shotfit.methods.declared import Declared
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule
from shotfit.towers.config import BlocksConfig
from shotfit.towers.edits import Adapter

__all__ = ["MMA"]

Tower = Literal["image", "text"]


class MMA(Method):
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

    start: int = option(-1, "first adapted block; 0: the embedding; -1: by depth, 5 of 12", at_least=-1)
    end: int = option(-1, "last adapted block of the text tower; -1: its last", at_least=-1)
    dim: int = option(32, "width of the bottleneck", at_least=1)
    scale: float = option(0.001, "factor of the adapters' output", above=0)
    prediction_scale: float = option(-1.0, "that factor at prediction; -1: as in training", at_least=-1)
    towers: str = option("both", "towers with adapters", choices=("both", "text", "image"))
    shared: bool = option(True, "a middle map at each site, shared by both towers")
    gradient_rule: str = option("scaled", "gradients divided by the scale, or true ones", choices=("scaled", "plain"))
    pairing: str = option("top", "towers of unequal depth are paired from here", choices=("top", "index"))
    prefix: str = option("a photo of a", "words in front of the class name")
    protocol: str = option(
        "base-to-new", "setting of the paper for range and epochs", choices=("base-to-new", "transfer")
    )

    def _check(self) -> None:
        super()._check()
        if -1 < self.prediction_scale < 0:
            raise UsageError(
                f"{self.name}: prediction_scale must be 0 or more, or -1, but is {self.prediction_scale:g}."
            )

    def training_recipe(self) -> Recipe | None:
        """One epoch for classes of other tasks."""
        assert self.recipe is not None
        return replace(self.recipe, epochs={1: 1}) if self.protocol == "transfer" else self.recipe

    def check(self) -> None:
        """Refuse a range of blocks that the towers do not have, and prompts that cannot be read."""
        for tower in self._widths():
            self.sites(tower)
        check_texts(self.frozen.backbone, self._prompts())

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """Down, shared and up maps of every site: weights of variance 2 / rows, biases zero."""
        for name, (rows, columns) in self._maps().items():
            self._add(name, rows, columns)

    def _maps(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of every map by its name."""
        maps: dict[str, tuple[int, int]] = {}
        for tower, widths in self._widths().items():
            for site in self.sites(tower):
                maps[f"{tower}_{site}_down"] = self.dim, widths
                maps[f"{tower}_{site}_up"] = widths, self.dim
        for site in sorted({site for tower in self._widths() for site in self.sites(tower)} if self.shared else ()):
            maps[f"shared_{site}"] = self.dim, self.dim
        return maps

    def declared(self) -> dict[str, Declared]:
        """The maps with their biases."""
        found = {f"parameter.{name}_weight": Declared(*shape) for name, shape in self._maps().items()}
        return found | {f"parameter.{name}_bias": Declared(rows) for name, (rows, _) in self._maps().items()}

    def _add(self, name: str, rows: int, columns: int) -> None:
        device, dtype = self.frozen.backbone.device, self.frozen.parameter_dtype
        weight = torch.randn(rows, columns) * math.sqrt(2 / rows)
        self.register_parameter(f"{name}_weight", nn.Parameter(weight.to(device, dtype)))
        self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(rows, device=device, dtype=dtype)))

    def sites(self, tower: Tower) -> dict[int, int]:
        """The tower's adapted blocks by site. Refuses a range that the towers do not have."""
        config = self.frozen.backbone.config
        if self.towers == "text":
            return {site: site for site in self._range(config.text.blocks.layers)} if tower == "text" else {}
        image, text = self.frozen.image_blocks(self.name, "towers=text").layers, config.text.blocks.layers
        if self.pairing == "index" and text > image:
            raise UsageError(
                f"{self.name}: pairing=index counts the blocks of both towers from below, which needs a text tower "
                f"that is not deeper than the image tower, but it has {text} blocks and the image tower {image}: use "
                "pairing=top."
            )
        ahead = image - text if self.pairing == "top" else 0
        sites = self._range(text)
        partners = {site: site + ahead if site else 0 for site in sites if not site or site + ahead > 0}
        if self.towers == "image" and not partners:
            raise UsageError(
                f"{self.name}: blocks {sites[0]} to {sites[-1]} of the text tower have no partner among the "
                f"{image} blocks of the image tower, so there is nothing to train: choose a later end."
            )
        if tower == "image":
            return partners
        return {} if self.towers == "image" else {site: site for site in sites}

    def _range(self, depth: int) -> range:
        usual = depth // 3 if self.protocol == "base-to-new" else 2 * depth // 3
        start = self.start if self.start >= 0 else usual + 1
        end = self.end if self.end >= 0 else depth
        if end > depth:
            raise UsageError(f"{self.name}: end is {end}, but the text tower has {depth} blocks: choose end={depth}.")
        if start > end:
            raise UsageError(f"{self.name}: blocks {start} to {end} are an empty range: choose a start up to the end.")
        return range(start, end + 1)

    def _widths(self) -> dict[Tower, int]:
        config = self.frozen.backbone.config
        blocks: dict[Tower, BlocksConfig] = {"text": config.text.blocks}
        if self.towers != "text":
            blocks["image"] = self.frozen.image_blocks(self.name, "towers=text")
        return {tower: config.width for tower, config in blocks.items()}

    def edits(self, scale: float) -> list[Adapter]:
        """An adapter beside every block of a site."""
        return [
            Adapter(tower, block, self._map(tower, site, scale))
            for tower in self._widths()
            for site, block in self.sites(tower).items()
        ]

    def _map(self, tower: Tower, site: int, scale: float) -> Callable[[Tensor], Tensor]:
        names = [f"{tower}_{site}_down", *([f"shared_{site}"] if self.shared else []), f"{tower}_{site}_up"]
        layers = [(self.get_parameter(f"{name}_weight"), self.get_parameter(f"{name}_bias")) for name in names]

        def adapt(tokens: Tensor) -> Tensor:
            hidden = tokens.to(layers[0][0].dtype)
            for weight, bias in layers[:-1]:
                hidden = F.relu(F.linear(hidden, weight, bias))
            return (scale * F.linear(hidden, *layers[-1])).to(tokens.dtype)

        return adapt

    def features(self, images: Images, scale: float) -> Tensor:
        """Image features [images, embed] with adapters of this scale."""
        return self.frozen.image(images, self.edits(scale))

    def class_prompts(self, scale: float) -> Tensor:
        """Text features [classes, embed] with adapters of this scale."""
        if not hasattr(self, "texts"):
            self.texts = self.frozen.encode(self._prompts())
        return self.frozen.text(self.texts, self.edits(scale))

    def _prompts(self) -> list[str]:
        return [f"{self.prefix} {name}.".strip() for task in self.classes for name in task.readable]

    @property
    def used_scale(self) -> float:
        """The scale at prediction; 0 is the frozen model."""
        return self.scale if self.prediction_scale < 0 else self.prediction_scale

    def text_features(self) -> Tensor:
        """[classes, embed], as predicted with."""
        return self.class_prompts(self.used_scale)

    def image_features(self, images: Images) -> Tensor:
        """[images, embed], as predicted with."""
        return self.features(images, self.used_scale)

    def loss(self, images: Images, labels: Tensor) -> Tensor:
        """Mean cross-entropy at the training scale, []."""
        logits = self.frozen.logits(self.features(images, self.scale), self.class_prompts(self.scale))
        return F.cross_entropy(logits, labels)

    def adjust_gradients(self) -> None:
        """The gradient rule: those of sites from 1 on, divided by the scale."""
        if self.gradient_rule == "plain":
            return
        for name, parameter in self.named_parameters():
            if parameter.grad is not None and "_0_" not in name:
                parameter.grad /= self.scale
