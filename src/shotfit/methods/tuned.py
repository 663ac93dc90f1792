"""What methods that change weights inside the towers share.

A method names its parameters (`shapes`) and makes edits of them (`edits`); here are the towers and blocks that they act
in, the prompts, features and logits, and how they are saved. Once fitted, matrices are put together with the frozen
ones, so that a prediction costs what one of the frozen model does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from shotfit.engine.frozen import Images, normalize
from shotfit.methods.base import Method, option
from shotfit.methods.block_lists import listed_blocks
from shotfit.methods.declared import Declared
from shotfit.methods.prompts import some
from shotfit.towers.changed import merged
from shotfit.towers.config import BlocksConfig
from shotfit.towers.edits import Factors, Weights
from shotfit.towers.texts import Texts

__all__ = ["Site", "Tower", "TunedWeights", "chosen_blocks", "grouped", "named"]

Tower = Literal["image", "text"]
Site = tuple[Tower, int, str]  # tower, step, and a weight's name there
PARTS = {"all": (0, 1), "bottom": (0, 1 / 3), "mid": (1 / 3, 2 / 3), "up": (2 / 3, 1), "top3": (-3, 1),
         "half-bottom": (0, 1 / 2), "half-up": (1 / 2, 1)}  # fmt: skip
BLOCKS = f"blocks: {', '.join(PARTS)}, or numbers from 1, such as 2-4 or 1,3"


class TunedWeights(Method):
    """Towers with other values of some of their weights; nothing belongs to a class."""

    accepts_new_classes: ClassVar[bool] = True
    edits_towers: ClassVar[bool] = True

    towers: str = option("both", "towers that are tuned", choices=("both", "text", "image"))
    image_blocks: str = option("all", f"image {BLOCKS}")
    text_blocks: str = option("all", f"text {BLOCKS}")
    temperature: float = option(0.0, "factor of the cosines; 0: the backbone's own", at_least=0)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter by its name."""
        raise NotImplementedError

    def edits(self) -> list[Weights]:
        """The edits that the parameters make."""
        raise NotImplementedError

    def check(self) -> None:
        """Refuse towers and blocks that the backbone does not have."""
        self.shapes()

    def declared(self) -> dict[str, Declared]:
        """The parameters."""
        return {f"parameter.{name}": Declared(*shape) for name, shape in self.shapes().items()}

    def tuned(self) -> dict[Tower, tuple[BlocksConfig, list[int]]]:
        """The blocks of each tuned tower, and which are chosen; a tower without any is refused."""
        found: dict[Tower, tuple[BlocksConfig, list[int]]] = {}
        if self.towers != "image":
            blocks = self.frozen.backbone.config.text.blocks
            found["text"] = blocks, chosen_blocks(self.name, "text", blocks.layers, self.text_blocks)
        if self.towers != "text":
            blocks = self.frozen.image_blocks(self.name, "towers=text")
            found["image"] = blocks, chosen_blocks(self.name, "image", blocks.layers, self.image_blocks)
        return found

    @property
    def prompts(self) -> Texts:
        """One prompt a class, by the first template."""
        if not hasattr(self, "_prompts"):
            texts, templates = self.frozen.class_texts(self.classes)
            self._prompts = some(texts, range(0, len(texts), templates))
        return self._prompts

    def used(self) -> list[Weights]:
        """The edits; once fitted, with whole matrices."""
        if self.baked is None:
            return self.edits()
        if not hasattr(self, "_merged"):
            with torch.inference_mode(False), torch.no_grad():  # they are kept
                backbone = self.frozen.backbone
                self._merged = [
                    merged(backbone.image if edit.tower == "image" else backbone.text, edit)
                    for edit in self.edits()
                    if edit.tower == "image"  # class features are baked
                ]
        return self._merged

    def text_features(self) -> Tensor:
        """[classes, embed]."""
        return self.frozen.text(self.prompts, self.used())

    def image_features(self, images: Images) -> Tensor:
        """[images, embed]."""
        return self.frozen.image(images, self.used())

    def logits(self, images: Images) -> Tensor:
        """[images, classes]."""
        return self.cosines(self.image_features(images), self.class_features())

    def cosines(self, features: Tensor, classes: Tensor) -> Tensor:
        """Scaled cosines [images, classes] of features of images and classes."""
        if not self.temperature:
            return self.frozen.logits(features, classes)
        return self.temperature * normalize(features) @ normalize(classes).T


def named(site: Site) -> str:
    """The name of the parameter of a weight.

    >>> named(("image", 3, "norm1.weight"))
    'image_3_norm1_weight'
    """
    tower, step, name = site
    return f"{tower}_{step}_{name.replace('.', '_')}"


def grouped(values: Mapping[Site, Tensor | Factors]) -> list[Weights]:
    """The edits that give these values, one for each step."""
    steps: dict[tuple[Tower, int], dict[str, Tensor | Factors]] = {}
    for (tower, step, name), value in values.items():
        steps.setdefault((tower, step), {})[name] = value
    return [Weights(tower, step, own) for (tower, step), own in steps.items()]


def chosen_blocks(method: str, tower: Tower, layers: int, text: str) -> list[int]:
    """Numbers of blocks from 1, ascending: of a part of the tower, or those that are named.

    >>> chosen_blocks("clip_lora", "text", 12, "half-up"), chosen_blocks("clip_lora", "text", 12, "1,4-6")
    ([7, 8, 9, 10, 11, 12], [1, 4, 5, 6])

    Raises UsageError for blocks that the tower does not have.
    """
    if text in PARTS:
        share, end = PARTS[text]
        begin = max(0, layers + int(share)) if share < 0 else round(share * layers)
        return list(range(begin + 1, round(end * layers) + 1)) or [layers]
    return listed_blocks(text, layers, f"{method}: {tower}_blocks, if none of {', '.join(PARTS)},")
