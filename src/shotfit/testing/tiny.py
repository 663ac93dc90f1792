"""Backbones of random weights and tasks of a few noisy images, small enough for tests that run whole fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from shotfit.checkpoints.tokenizers import TokenizerKind, load_tokenizer
from shotfit.checkpoints.weights import save_backbone
from shotfit.data.readers import read_task
from shotfit.data.tasks import ClassList, Item, Task
from shotfit.towers.backbone import Backbone
from shotfit.towers.bert import text_tower
from shotfit.towers.config import BackboneConfig, BertConfig, BlocksConfig, ImageConfig, ResNetConfig, TextConfig
from shotfit.towers.preprocess import clip_preprocessing, siglip_preprocessing
from shotfit.towers.resnet import ModifiedResNet
from shotfit.towers.transformer import VisionTransformer

__all__ = ["of_sets", "random_backbone", "three_tasks", "tiny_backbone", "tiny_task"]

NAMES = ("red_thing", "green thing", "blue")


def random_backbone(config: BackboneConfig, tokenizer: Any = None, seed: int = 0, name: str = "random") -> Backbone:
    """A backbone of any configuration with pseudo-random weights, large enough that nothing is nearly linear."""
    with torch.device("meta"):
        image = (
            ModifiedResNet(config.image) if isinstance(config.image, ResNetConfig) else VisionTransformer(config.image)
        )
        parts = {"image": image, "text": text_tower(config.text)}
    shapes = {
        f"{part}.{key}": value.shape for part, tower in parts.items() for key, value in tower.state_dict().items()
    }
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        if key.endswith("running_var") or ("norm" in key and key.endswith("weight")):
            weights[key] = 1 + 0.1 * drawn.abs()
        else:
            fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 25
            weights[key] = drawn * (0.3 if "embedding" in key or "positions" in key else fan_in**-0.5)
    weights["logit_scale"] = torch.tensor(3.0)
    if config.logit_bias:
        weights["logit_bias"] = torch.tensor(-1.0)
    return Backbone(config, weights, tokenizer, name)


def tiny_backbone(folder: Path, kind: str = "vit") -> Backbone:
    """A backbone of a few thousand weights with a tokenizer of single bytes, saved into `folder`.

    kind: "vit", "resnet" or "siglip"; "eva" (rotated, gated, inner norms), "perception" (rotated, pooling head of its
    own), "post_norm" (norms within the sums, a stem of convolutions, averaged before the last norm); with a text tower
    of BERT's kind "bert" (read at the first token) or "bert_mean" (over all of them).
    Its towers have unequal depths, 4 image and 3 text blocks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start, end = 256, 257
    text: TextConfig | BertConfig
    text = TextConfig(258, 77, BlocksConfig(16, 3, 2, 32, "quick_gelu", 1e-5), 32, True, "end", end, 0, False)
    blocks = BlocksConfig(16, 4, 2, 32, "quick_gelu", 1e-5)
    image: ImageConfig | ResNetConfig = ImageConfig(32, 16, blocks, 32, True, False, True, "token", True)
    rule = clip_preprocessing(32)
    if kind == "resnet":
        image = ResNetConfig(32, (1, 1, 1, 1), 4, 2, 32)
    elif kind == "siglip":
        text = TextConfig(258, 48, BlocksConfig(16, 3, 2, 32, "gelu_tanh", 1e-6), 16, False, "last", None, end, True)
        blocks = BlocksConfig(16, 4, 2, 32, "gelu_tanh", 1e-6)
        image = ImageConfig(32, 16, blocks, 16, False, True, False, "attention", False)
        rule = siglip_preprocessing(32)
    elif kind.startswith("bert"):
        text_blocks, padding = BlocksConfig(16, 3, 2, 32, "gelu", 1e-6, norm="sum"), 258
        if kind == "bert":
            text = BertConfig(259, 77, text_blocks, 32, padding, "first", True, False, "linear", False)
        else:
            text = BertConfig(259, 77, text_blocks, 32, padding, "mean", False, False, "mlp", False)
    elif kind == "eva":
        blocks = BlocksConfig(16, 4, 2, 24, "gelu", 1e-6, gated=True, inner_norms=True)
        image = ImageConfig(32, 16, blocks, 32, True, True, False, "token", True, projection_bias=True, rotary=True)
    elif kind == "perception":
        blocks = BlocksConfig(16, 4, 2, 32, "gelu", 1e-5)
        image = ImageConfig(
            32, 16, blocks, 32, True, False, True, "attention", True, True, pool_heads=4, pool_mlp_width=48, rotary=True
        )
    elif kind == "post_norm":
        blocks = BlocksConfig(16, 4, 2, 32, "gelu", 1e-6, norm="after")
        image = ImageConfig(
            32, 16, blocks, 32, True, False, False, "mean", True, norm_after_pool=True, stem="convolutions"
        )
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    words = FastTokenizer(models.BPE(vocab=vocabulary | {"<start>": start, "<end>": end}, merges=[]))
    words.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens(["<start>", "<end>"])
    words.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", start), ("<end>", end)]
    )
    words.save(str(folder / "tokenizer.json"))
    config = BackboneConfig(image, text, rule, kind == "siglip")
    rules: TokenizerKind = "pieces:whitespace" if isinstance(text, BertConfig) else "clip"
    seed = 5 if kind == "bert" else 0  # of those whose pooler bfloat16 rounds little
    backbone = random_backbone(config, load_tokenizer(folder, text, rules), seed, str(folder))
    save_backbone(backbone, folder)
    return backbone


def tiny_task(folder: Path, names: Sequence[str] = NAMES, images: int = 6, seed: int = 0) -> Task:
    """A folder of small noisy color images, `images` a class, as a task; another seed draws other images."""
    random = np.random.default_rng(seed)
    for index, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(images):
            noise = random.integers(0, 80, (40, 36, 3), dtype=np.uint8)
            noise[..., index % 3] += 120
            Image.fromarray(noise).save(folder / name / f"{number}.png")
    return read_task(folder)


def of_sets(task: Task) -> Task:
    """The task with several labels a picture: every third has the next class too, and one has none."""
    count = len(task.classes.names)

    def sets(items: Sequence[Item]) -> tuple[Item, ...]:
        held = [[item.label, (item.label + 1) % count][: 1 + (place % 3 == 0)] for place, item in enumerate(items)]
        return tuple(item.with_labels(own) for item, own in zip(items, [[], *held[1:]], strict=True))

    classes = replace(task.classes, several_labels=True)
    return replace(task, classes=classes, train=sets(task.train), held_out=sets(task.test))


def three_tasks(task: Task) -> tuple[ClassList, ...]:
    """The classes of a task as those of two tasks, one class that has no images, and a task that has none.

    The tasks lie in a hierarchy, for methods that look at it.
    """
    first, *others = task.classes.names
    return (
        ClassList("one thing", (first,), parents=("any thing",)),
        ClassList("other_things", (*others, "another"), parents=("rest", "any thing")),
        ClassList("nothing at all", ("empty", "void")),
    )
