"""What is timed: towers of ViT-B/16's size with random weights, and a tiny size on which everything is checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shotfit.checkpoints.tokenizers import load_tokenizer
from shotfit.data.images import open_image
from shotfit.data.pictures import Picture
from shotfit.data.tasks import ClassList, Item
from shotfit.testing.tiny import random_backbone
from shotfit.towers.backbone import Backbone
from shotfit.towers.config import BackboneConfig, BlocksConfig, ImageConfig, TextConfig
from shotfit.towers.preprocess import clip_preprocessing, preprocess

__all__ = ["FULL", "SIZES", "TINY", "Size", "pictures", "pixels_of"]


CPU = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    """Towers of CLIP's kind, in numbers; both have `layers` blocks.

    classes: at most so many of each list are taken. device: where the towers run.
    """

    name: str
    image_size: int
    image_width: int
    text_width: int
    layers: int
    embed: int
    classes: int = 1000
    device: torch.device = CPU

    def backbone(self, image_tower: bool = True) -> Backbone:
        """Random weights, CLIP's vocabulary. Without an image tower it has one of a single small block."""
        heads = max(1, self.image_width // 64), max(1, self.text_width // 64)
        image, text = (
            BlocksConfig(width, self.layers, count, 4 * width, "quick_gelu", 1e-5)
            for width, count in zip((self.image_width, self.text_width), heads, strict=True)
        )
        if not image_tower:
            image = BlocksConfig(64, 1, 1, 64, "quick_gelu", 1e-5)
        images = ImageConfig(self.image_size, 16, image, self.embed, True, False, True, "token", True)
        texts = TextConfig(49408, 77, text, self.embed, True, "end", 49407, 0, projection_bias=False)
        config = BackboneConfig(images, texts, clip_preprocessing(self.image_size), False)
        return random_backbone(config, load_tokenizer(None, texts, "clip")).to(self.device)

    def classes_of(self, task: ClassList) -> ClassList:
        """The task's first classes."""
        return ClassList(task.task, task.names[: self.classes], task.templates)


FULL = Size("ViT-B/16", 224, 768, 512, 12, 512)
TINY = Size("tiny", 32, 24, 16, 3, 16, classes=5)
SIZES = {size.name: size for size in (FULL, TINY)}


def pictures(folder: Path, count: int, size: int, classes: int) -> list[Item]:
    """`count` images of noise in PNG files of exactly the tower's size, so that preprocessing changes no pixel."""
    random = np.random.default_rng(0)
    items = []
    for index in range(count):
        path = folder / f"{index}.png"
        Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
        label = int(random.integers(classes))
        items.append(Item(Picture(path), label, hashlib.sha256(path.read_bytes()).hexdigest()))
    return items


def pixels_of(items: list[Item], backbone: Backbone) -> Tensor:
    """What the image tower reads: [n, 3, size, size]."""
    rule = backbone.config.preprocessing
    return torch.stack([preprocess(open_image(Picture(item.picture.path)), rule) for item in items]).to(
        backbone.device, backbone.dtype
    )
