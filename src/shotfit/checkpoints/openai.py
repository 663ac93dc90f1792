"""OpenAI's CLIP files: a TorchScript archive or a pickled state dict, whose sizes follow from shapes alone.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv 2103.00020.

OpenAI's activation (QuickGELU), epsilon, head width 64, MLP width 4 x width and preprocessing are the same in all its
models, and no file says them. So a file with no configuration beside it is taken to be OpenAI's. open_clip's
checkpoints have the same names but other rules, which stand in the `open_clip_config.json` beside them.

differs: OpenAI's program rounds matrices through float16 whatever the file holds; here they keep their precision.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from shotfit.checkpoints.state_dict import StateDict
from shotfit.checkpoints.unread import Tensors, content_of
from shotfit.errors import ShotfitError
from shotfit.towers.config import BackboneConfig, BlocksConfig, ImageConfig, Preprocessing, ResNetConfig, TextConfig

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "IGNORED",
    "read_openai",
    "take_blocks",
    "take_resnet",
    "take_text",
    "take_vit",
]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

HEAD_WIDTH = 64
_FIRST, _SECOND, _KEPT = "positional_embedding", "positional_embedding_res", 20  # of Long-CLIP
IGNORED = ("input_resolution", "context_length", "vocab_size", r"(text\.)?attn_mask", r".*\.num_batches_tracked")


def read_openai(tensors: Tensors, where: str) -> tuple[BackboneConfig, dict[str, Tensor]]:
    """Configuration and weights (shotfit's names) of one of OpenAI's files, or of one in their form.

    Raises ShotfitError if the file is damaged, of another architecture, or lacks a tensor.
    """
    weights = StateDict(one_table(tensors, where), where)
    weights.drop(*IGNORED)
    text = _text_config(weights)
    image = _vit_config(weights, text) if "visual.proj" in weights.names() else _resnet_config(weights, text)
    size = image.image_size
    rule = Preprocessing(size, CLIP_MEAN, CLIP_STD, "bicubic", "shortest", "round", rgb="last", transparency="drop")
    take_image = take_vit(weights, image) if isinstance(image, ImageConfig) else take_resnet(weights, image)
    converted = {**take_image, **take_text(weights, text, ""), "logit_scale": weights.take("logit_scale")}
    weights.close()
    return BackboneConfig(image, text, rule, logit_bias=False), converted


def one_table(tensors: Tensors, where: str) -> Tensors:
    """The tensors with one table of text positions, where Long-CLIP has two: its second holds from place 20 on.

    Zhang et al., "Long-CLIP: Unlocking the Long-Text Capability of CLIP", ECCV 2024, arXiv 2403.15378. Raises
    ShotfitError if the two differ in shape.
    """
    if _SECOND not in tensors:
        return tensors
    first, second = tensors.get(_FIRST), tensors[_SECOND]
    if first is None or len(first.shape) != 2 or first.shape != second.shape:
        raise ShotfitError(f"{where}: {_FIRST} and {_SECOND} must be two tables of one size; fetch it again.")
    rest = {name: value for name, value in tensors.items() if name != _SECOND}
    return rest | {_FIRST: torch.cat([content_of(first)[:_KEPT], content_of(second)[_KEPT:]])}


def _blocks(width: int, layers: int, what: str, weights: StateDict) -> BlocksConfig:
    if width % HEAD_WIDTH or layers < 1:
        raise ShotfitError(
            f"{weights.where}: a {what} tower of width {width} and {layers} layers is none of OpenAI's, whose heads "
            f"are {HEAD_WIDTH} wide. A checkpoint of another kind is read from a folder with its configuration."
        )
    return BlocksConfig(width, layers, width // HEAD_WIDTH, 4 * width, "quick_gelu", 1e-5)


def _count(weights: StateDict, pattern: str) -> int:
    """How many different first groups the names have that match a pattern."""
    found = (re.match(pattern, name) for name in weights.names())
    return len({match[1] for match in found if match})


def _grid(weights: StateDict, name: str) -> int:
    """The side of a square grid of positions, one of another kind in front."""
    rows, _ = weights.shape(name, 2)
    grid = math.isqrt(rows - 1)
    if grid < 1 or grid * grid != rows - 1:
        raise ShotfitError(f"{weights.where}: {name} has {rows} rows, expected a square grid and one more.")
    return grid


def _text_config(weights: StateDict) -> TextConfig:
    width, embed = weights.shape("text_projection", 2)
    vocabulary, _ = weights.shape("token_embedding.weight", 2)
    context, _ = weights.shape("positional_embedding", 2)
    blocks = _blocks(width, _count(weights, r"transformer\.resblocks\.(\d+)\."), "text", weights)
    return TextConfig(vocabulary, context, blocks, embed, True, "largest", None, padding=0, projection_bias=False)


def _vit_config(weights: StateDict, text: TextConfig) -> ImageConfig:
    width, _, patch, _ = weights.shape("visual.conv1.weight", 4)
    blocks = _blocks(width, _count(weights, r"visual\.transformer\.resblocks\.(\d+)\."), "image", weights)
    size = patch * _grid(weights, "visual.positional_embedding")
    return ImageConfig(size, patch, blocks, text.embed, True, False, True, "token", projection=True)


def _resnet_config(weights: StateDict, text: TextConfig) -> ResNetConfig:
    if not any(name.startswith("visual.layer1.") for name in weights.names()):
        raise ShotfitError(
            f"{weights.where} is none of OpenAI's CLIP models: it has neither visual.proj (a ViT) nor visual.layer1 "
            f"(a ResNet)."
        )
    layers = [_count(weights, rf"visual\.layer{stage}\.(\d+)\.") for stage in range(1, 5)]
    width = weights.shape("visual.layer1.0.conv1.weight", 4)[0]
    size = 32 * _grid(weights, "visual.attnpool.positional_embedding")
    if 0 in layers or width * 32 % HEAD_WIDTH:
        raise ShotfitError(f"{weights.where}: a ResNet of {layers} blocks and width {width} is none of OpenAI's.")
    first, second, third, fourth = layers
    return ResNetConfig(size, (first, second, third, fourth), width, width * 32 // HEAD_WIDTH, text.embed)


def take_blocks(
    weights: StateDict, source: str, target: str, blocks: BlocksConfig, scaled: bool = False
) -> dict[str, Tensor]:
    """The blocks under `source` (with a dot at its end), by OpenAI's names, as `target`'s. scaled: with layer scale."""
    width, hidden = blocks.width, blocks.mlp_width
    taken: dict[str, Tensor] = {}
    for index in weights.blocks(source, blocks.layers):
        old, new = f"{source}{index}.", f"{target}{index}."
        for norm in ("1", "2"):
            taken |= weights.layer(f"{old}ln_{norm}", f"{new}norm{norm}", width)
        taken[f"{new}attention.qkv.weight"] = weights.take(f"{old}attn.in_proj_weight", 3 * width, width)
        taken[f"{new}attention.qkv.bias"] = weights.take(f"{old}attn.in_proj_bias", 3 * width)
        taken |= weights.layer(f"{old}attn.out_proj", f"{new}attention.out", width, width)
        taken |= weights.layer(f"{old}mlp.c_fc", f"{new}mlp.up", hidden, width)
        taken |= weights.layer(f"{old}mlp.c_proj", f"{new}mlp.down", width, hidden)
        if scaled:
            weights.scale(taken, f"{new}attention.out", f"{old}ls_1.gamma")
            weights.scale(taken, f"{new}mlp.down", f"{old}ls_2.gamma")
    return taken


def take_vit(weights: StateDict, image: ImageConfig, scaled: bool = False) -> dict[str, Tensor]:
    """A vision transformer, from OpenAI's and open_clip's names."""
    width, patch, grid = image.blocks.width, image.patch, image.image_size // image.patch
    taken = {
        "image.embedding.patch.weight": weights.take("visual.conv1.weight", width, 3, patch, patch),
        "image.embedding.class_token": weights.take("visual.class_embedding", width),
        "image.embedding.positions": weights.take("visual.positional_embedding", grid * grid + 1, width),
        "image.projection.weight": weights.take("visual.proj", width, image.embed).t().contiguous(),
    }
    if image.pre_norm:
        taken |= weights.layer("visual.ln_pre", "image.embedding.norm", width)
    taken |= take_blocks(weights, "visual.transformer.resblocks.", "image.blocks.", image.blocks, scaled)
    return taken | weights.layer("visual.ln_post", "image.post_norm", width)


def take_resnet(weights: StateDict, image: ResNetConfig) -> dict[str, Tensor]:
    """CLIP's modified ResNet, from OpenAI's and open_clip's names."""
    width, channels = image.width, image.width * 32
    taken: dict[str, Tensor] = {}

    def convolution(old: str, new: str, old_norm: str, new_norm: str, shape: tuple[int, int, int, int]) -> None:
        taken[f"{new}.weight"] = weights.take(f"{old}.weight", *shape)
        for part in ("weight", "bias", "running_mean", "running_var"):
            taken[f"{new_norm}.{part}"] = weights.take(f"{old_norm}.{part}", shape[0])

    for number, outputs, inputs in (("1", width // 2, 3), ("2", width // 2, width // 2), ("3", width, width // 2)):
        old, new = f"visual.conv{number}", f"image.stem.conv{number}"
        convolution(old, new, f"visual.bn{number}", f"image.stem.norm{number}", (outputs, inputs, 3, 3))
    inputs = width
    for stage, blocks in enumerate(image.layers):
        inner = width * 2**stage
        for block in weights.blocks(f"visual.layer{stage + 1}.", blocks):
            old, new = f"visual.layer{stage + 1}.{block}.", f"image.stages.{stage}.{block}."
            shapes = ((inner, inputs, 1, 1), (inner, inner, 3, 3), (4 * inner, inner, 1, 1))
            for place, shape in enumerate(shapes, start=1):
                convolution(f"{old}conv{place}", f"{new}conv{place}", f"{old}bn{place}", f"{new}norm{place}", shape)
            if block == 0:
                shape = (4 * inner, inputs, 1, 1)
                convolution(
                    f"{old}downsample.0", f"{new}shortcut.conv", f"{old}downsample.1", f"{new}shortcut.norm", shape
                )
            inputs = 4 * inner
    rows = (image.image_size // 32) ** 2 + 1
    taken["image.pool.positions"] = weights.take("visual.attnpool.positional_embedding", rows, channels)
    for old, new in (("q", "query"), ("k", "key"), ("v", "value")):
        taken |= weights.layer(f"visual.attnpool.{old}_proj", f"image.pool.{new}", channels, channels)
    return taken | weights.layer("visual.attnpool.c_proj", "image.pool.out", image.embed, channels)


def take_text(
    weights: StateDict, text: TextConfig, prefix: str, scaled: bool = False, projection: bool = True
) -> dict[str, Tensor]:
    """A text tower, from OpenAI's and open_clip's names, which `prefix` precedes.

    projection: there is one; without it the tower's vector is the feature, as a projection that changes nothing.
    """
    width = text.blocks.width
    taken = {
        "text.token_embedding.weight": weights.take(f"{prefix}token_embedding.weight", text.vocabulary, width),
        "text.positions": weights.take(f"{prefix}positional_embedding", text.context, width),
    }
    taken |= take_blocks(weights, f"{prefix}transformer.resblocks.", "text.blocks.", text.blocks, scaled)
    taken |= weights.layer(f"{prefix}ln_final", "text.final_norm", width)
    if not projection:
        return taken | {"text.projection.weight": torch.eye(width)}
    if text.projection_bias:
        return taken | weights.layer(f"{prefix}text_projection", "text.projection", text.embed, width)
    matrix = weights.take(f"{prefix}text_projection", width, text.embed)
    return taken | {"text.projection.weight": matrix.t().contiguous()}
