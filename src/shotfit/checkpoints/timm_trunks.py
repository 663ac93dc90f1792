"""Image towers that open_clip takes from timm: SigLIP's, SigLIP 2's, EVA's, Perception Encoder's, and plain ViTs.

Wightman, PyTorch Image Models, doi 10.5281/zenodo.4414861; Zhai et al., arXiv 2303.15343; Tschannen et al., arXiv
2502.14786; Sun et al. (EVA-CLIP), arXiv 2303.15389; Bolya et al. (Perception Encoder), arXiv 2504.13181; Vasu et al.
(MobileCLIP), arXiv 2311.17049.

`timm_model_name` names a definition, and `TRUNKS` says what each defines; `tests/test_open_clip_equality.py` compares
every row with timm itself. What the towers need no field for is put into the weights as they are read: layer scale
into the matrix before it, batch norms into their convolution, a missing bias as zeros, a class token without a position
as one whose position is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from shotfit.checkpoints.settings import Settings, shown
from shotfit.checkpoints.state_dict import StateDict
from shotfit.errors import ShotfitError
from shotfit.towers.config import Activation, BlocksConfig, ImageConfig

__all__ = ["TRUNKS", "Rotary", "Trunk", "rotation", "take_trunk", "trunk_config"]

BATCH_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Rotary:
    """Rotated queries and keys: places are counted from `first`, as if the grid had `reference` places a side.

    `across`: the first half of a head turns by the column, the second by the row; else the other way around.
    """

    reference: int
    first: int = 0
    across: bool = False


@dataclass(frozen=True)
class Trunk:
    """One of timm's definitions.

    `size`: pixels of a side. `attention`: how queries, keys and values are stored, as one matrix and bias ("qkv"),
    without a bias ("no bias"), without that of the keys ("no key bias"), or as three matrices without it ("apart").
    `pool_norm`: averaging takes the last norm after it. `scaled`: layer scale.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    patch: int
    size: int
    pooling: Literal["token", "mean", "attention"] = "token"
    activation: Activation = "gelu"
    epsilon: float = 1e-6
    class_token: bool = True
    patch_bias: bool = True
    pre_norm: bool = False
    attention: Literal["qkv", "no bias", "no key bias", "apart"] = "qkv"
    pool_norm: bool = True
    pool_heads: int | None = None
    scaled: bool = False
    norm: Literal["before", "after"] = "before"
    gated: bool = False
    rotary: Rotary | None = None
    convolutions: bool = False


def _siglip(
    width: int, layers: int, heads: int, mlp_width: int, patch: int, size: int, activation: Activation
) -> Trunk:
    return Trunk(width, layers, heads, mlp_width, patch, size, "attention", activation, class_token=False)


def _eva02(width: int, layers: int, heads: int, mlp_width: int, patch: int, size: int) -> Trunk:
    return Trunk(
        width, layers, heads, mlp_width, patch, size, attention="apart", gated=True, rotary=Rotary(reference=16)
    )


def _perception(width: int, layers: int, heads: int, mlp_width: int, patch: int, size: int, first: int = 1) -> Trunk:
    return Trunk(
        width, layers, heads, mlp_width, patch, size, "attention",
        epsilon=1e-5,
        class_token=first == 1,
        patch_bias=False,
        pre_norm=True,
        pool_heads=8,
        rotary=Rotary(size // patch, first, across=True),
    )  # fmt: skip


TRUNKS: dict[str, Trunk] = {
    "vit_base_patch16_siglip_224": _siglip(768, 12, 12, 3072, 16, 224, "gelu"),
    "vit_base_patch16_siglip_256": _siglip(768, 12, 12, 3072, 16, 256, "gelu"),
    "vit_base_patch16_siglip_384": _siglip(768, 12, 12, 3072, 16, 384, "gelu"),
    "vit_base_patch16_siglip_512": _siglip(768, 12, 12, 3072, 16, 512, "gelu"),
    "vit_base_patch32_siglip_256": _siglip(768, 12, 12, 3072, 32, 256, "gelu_tanh"),
    "vit_large_patch16_siglip_256": _siglip(1024, 24, 16, 4096, 16, 256, "gelu"),
    "vit_large_patch16_siglip_384": _siglip(1024, 24, 16, 4096, 16, 384, "gelu"),
    "vit_large_patch16_siglip_512": _siglip(1024, 24, 16, 4096, 16, 512, "gelu_tanh"),
    "vit_so400m_patch14_siglip_224": _siglip(1152, 27, 16, 4304, 14, 224, "gelu"),
    "vit_so400m_patch14_siglip_378": _siglip(1152, 27, 16, 4304, 14, 378, "gelu"),
    "vit_so400m_patch14_siglip_384": _siglip(1152, 27, 16, 4304, 14, 384, "gelu"),
    "vit_so400m_patch16_siglip_256": _siglip(1152, 27, 16, 4304, 16, 256, "gelu_tanh"),
    "vit_so400m_patch16_siglip_384": _siglip(1152, 27, 16, 4304, 16, 384, "gelu_tanh"),
    "vit_so400m_patch16_siglip_512": _siglip(1152, 27, 16, 4304, 16, 512, "gelu_tanh"),
    "vit_giantopt_patch16_siglip_256": _siglip(1536, 40, 16, 6144, 16, 256, "gelu_tanh"),
    "vit_giantopt_patch16_siglip_384": _siglip(1536, 40, 16, 6144, 16, 384, "gelu_tanh"),
    "vit_base_patch16_224": Trunk(768, 12, 12, 3072, 16, 224),
    "vit_large_patch14_clip_224": Trunk(1024, 24, 16, 4096, 14, 224, epsilon=1e-5, patch_bias=False, pre_norm=True),
    "vit_base_mci_224": Trunk(768, 12, 12, 3072, 16, 224, convolutions=True),
    "vit_medium_patch16_gap_256": Trunk(
        512, 12, 8, 2048, 16, 256, "mean", class_token=False, attention="no bias", pool_norm=False, scaled=True
    ),
    "eva_giant_patch14_224": Trunk(1408, 40, 16, 6144, 14, 224, "mean", attention="no key bias"),
    "eva02_base_patch16_clip_224": _eva02(768, 12, 12, 2048, 16, 224),
    "eva02_large_patch14_clip_224": _eva02(1024, 24, 16, 2730, 14, 224),
    "eva02_large_patch14_clip_336": _eva02(1024, 24, 16, 2730, 14, 336),
    "eva02_enormous_patch14_clip_224": Trunk(1792, 64, 16, 15360, 14, 224, attention="no key bias", norm="after"),
    "vit_pe_core_tiny_patch16_384": _perception(192, 12, 3, 768, 16, 384),
    "vit_pe_core_small_patch16_384": _perception(384, 12, 6, 1536, 16, 384),
    "vit_pe_core_base_patch16_224": _perception(768, 12, 12, 3072, 16, 224),
    "vit_pe_core_large_patch14_336": _perception(1024, 24, 16, 4096, 14, 336),
    "vit_pe_core_gigantic_patch14_448": _perception(1536, 50, 16, 8960, 14, 448, first=0),
}

_POOLING = {"token": "token", "avg": "mean", "map": "attention"}


def trunk_config(vision: Settings, embed: int) -> ImageConfig:
    """The image tower of open_clip's `vision_cfg`, if it names a trunk of the table.

    Raises ShotfitError for another trunk, or one that is pooled or projected in a way that is not implemented.
    """
    name = vision.raw("timm_model_name")
    trunk = TRUNKS.get(name) if isinstance(name, str) else None
    if trunk is None:
        raise ShotfitError(
            f"{vision.where}: the image tower {shown(name)} of timm is not among those that shotfit builds itself "
            f"({len(TRUNKS)} ViTs of SigLIP, EVA, Perception Encoder and MobileCLIP-B). docs/backbones.md lists them."
        )
    if vision.square("image_size", 224) != trunk.size:
        raise vision.error("image_size", f"that of {name} ({trunk.size})")
    named = vision.choice("timm_pool", ("", *_POOLING), "avg")
    projection = vision.choice("timm_proj", ("", "none", "linear", "mlp"), "")
    if projection == "mlp":
        raise vision.error("timm_proj", "linear or none")
    built = trunk.pooling if projection == "linear" else _POOLING.get(named)
    pooling = _POOLING.get(named, trunk.pooling)
    fits = built is not None and (pooling == "attention") == (built == "attention")
    if not fits or (pooling == "token" and not trunk.class_token) or (trunk.pooling != pooling == "attention"):
        raise vision.error("timm_pool", f"a way to pool that {name} has")
    if projection == "none" and embed != trunk.width:
        raise ShotfitError(f"{vision.where}: the joint space is {embed} wide, the features of {name} {trunk.width}.")
    after = built == "mean" and trunk.pool_norm
    if after and pooling != "mean":
        raise vision.error("timm_pool", "avg, by which this trunk was built")
    blocks = BlocksConfig(
        trunk.width, trunk.layers, trunk.heads, trunk.mlp_width, trunk.activation, trunk.epsilon,
        norm=trunk.norm,
        gated=trunk.gated,
        inner_norms=trunk.gated,
    )  # fmt: skip
    return ImageConfig(
        trunk.size, trunk.patch, blocks, embed, trunk.class_token,
        patch_bias=trunk.patch_bias,
        pre_norm=trunk.pre_norm,
        pooling=cast(Literal["token", "mean", "attention"], pooling),
        projection=projection != "none",
        projection_bias=projection == "" or (projection == "linear" and vision.flag("timm_proj_bias", False)),
        norm_after_pool=after,
        pool_heads=trunk.pool_heads,
        pool_mlp_width=4 * trunk.width if trunk.pool_heads else None,
        rotary=trunk.rotary is not None,
        stem="convolutions" if trunk.convolutions else "patch",
    )  # fmt: skip


def take_trunk(weights: StateDict, name: str, image: ImageConfig, head: bool) -> dict[str, Tensor]:
    """The image tower, from open_clip's names of a trunk. head: its projection is the trunk's own last layer."""
    trunk, width, old = TRUNKS[name], image.blocks.width, "visual.trunk."
    grid = image.image_size // image.patch
    taken = _take_stem(weights, image)
    positions = grid * grid + (image.class_token and not trunk.convolutions)
    table = weights.take(f"{old}pos_embed", 1, positions, width)[0]
    if trunk.convolutions and not table.is_meta:  # no position for the class token
        table = torch.cat([table.new_zeros(1, width), table])
    taken["image.embedding.positions"] = table
    if image.class_token:
        taken["image.embedding.class_token"] = weights.take(f"{old}cls_token", 1, 1, width).reshape(width)
    if image.pre_norm:
        taken |= weights.layer(f"{old}norm_pre", "image.embedding.norm", width)
    for index in weights.blocks(f"{old}blocks.", image.blocks.layers):
        taken |= _take_block(weights, trunk, f"{old}blocks.{index}.", f"image.blocks.{index}.", image.blocks)
    taken |= weights.layer(f"{old}{'fc_norm' if image.norm_after_pool else 'norm'}", "image.post_norm", width)
    if image.pooling == "attention":
        taken |= _take_pool(weights, width, image.pool_mlp_width or image.blocks.mlp_width)
    if image.projection and image.projection_bias:
        taken |= weights.layer(f"{old}head" if head else "visual.head.proj", "image.projection", image.embed, width)
    elif image.projection:
        taken["image.projection.weight"] = weights.take("visual.head.proj.weight", image.embed, width)
    if trunk.rotary is not None:
        taken["image.rotation"] = rotation(trunk.rotary, grid, width // image.blocks.heads, image.class_token)
    return taken


def rotation(rotary: Rotary, grid: int, head: int, class_token: bool) -> Tensor:
    """Cosines and sines of every place: [places, head / 2, 2]. A class token is not turned.

    A quarter of a head's numbers makes the bands 10,000^(-i / bands), once for the rows and once for the columns.
    """
    bands = 10_000 ** -(torch.arange(head // 4, dtype=torch.float64) / (head // 4))
    places = (torch.arange(grid, dtype=torch.float64) + rotary.first) / grid * rotary.reference
    rows, columns = torch.meshgrid(places, places, indexing="ij")
    axes = (columns, rows) if rotary.across else (rows, columns)
    angles = torch.cat([axis.reshape(-1, 1) * bands for axis in axes], dim=1)  # [grid x grid, head / 2]
    if class_token:
        angles = torch.cat([angles.new_zeros(1, angles.shape[1]), angles])
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


def _take_stem(weights: StateDict, image: ImageConfig) -> dict[str, Tensor]:
    width, patch, new = image.blocks.width, image.patch, "image.embedding.patch"
    if image.stem == "patch":
        old = "visual.trunk.patch_embed.proj"
        if image.patch_bias:
            return weights.layer(old, new, width, 3, patch, patch)
        return {f"{new}.weight": weights.take(f"{old}.weight", width, 3, patch, patch)}
    old, inner = "visual.trunk.patch_embed.backbone.", width // 4
    weights.drop(r"visual\.trunk\.patch_embed\.backbone\.\d\.bn\.num_batches_tracked")
    taken = weights.layer(f"{old}2.conv", f"{new}.4", width, inner, 2, 2)
    for index, inputs, side in ((0, 3, patch // 4), (1, inner, 2)):
        kernel = weights.take(f"{old}{index}.conv.weight", inner, inputs, side, side)
        scale, bias, mean, variance = (
            weights.take(f"{old}{index}.bn.{part}", inner) for part in ("weight", "bias", "running_mean", "running_var")
        )
        if not any(part.is_meta for part in (kernel, scale, bias, mean, variance)):
            scale = scale.float() / (variance.float() + BATCH_NORM_EPSILON).sqrt()
            kernel, bias = kernel.float() * scale[:, None, None, None], bias.float() - mean.float() * scale
        taken |= {f"{new}.{2 * index}.weight": kernel, f"{new}.{2 * index}.bias": bias}
    return taken


def _take_block(weights: StateDict, trunk: Trunk, old: str, new: str, blocks: BlocksConfig) -> dict[str, Tensor]:
    width, hidden = blocks.width, blocks.mlp_width
    taken = weights.layer(f"{old}norm1", f"{new}norm1", width) | weights.layer(f"{old}norm2", f"{new}norm2", width)
    taken |= _take_qkv(weights, trunk, f"{old}attn.", f"{new}attention.qkv", width)
    taken |= weights.layer(f"{old}attn.proj", f"{new}attention.out", width, width)
    taken |= weights.layer(f"{old}mlp.{'fc1_x' if blocks.gated else 'fc1'}", f"{new}mlp.up", hidden, width)
    taken |= weights.layer(f"{old}mlp.fc2", f"{new}mlp.down", width, hidden)
    if blocks.gated:
        taken |= weights.layer(f"{old}mlp.fc1_g", f"{new}mlp.gate", hidden, width)
    if blocks.inner_norms:
        taken |= weights.layer(f"{old}attn.norm", f"{new}attention.norm", width)
        taken |= weights.layer(f"{old}mlp.norm", f"{new}mlp.norm", hidden)
    if trunk.scaled:
        weights.scale(taken, f"{new}attention.out", f"{old}ls1.gamma")
        weights.scale(taken, f"{new}mlp.down", f"{old}ls2.gamma")
    return taken


def _take_qkv(weights: StateDict, trunk: Trunk, old: str, new: str, width: int) -> dict[str, Tensor]:
    if trunk.attention == "qkv":
        return weights.layer(f"{old}qkv", new, 3 * width, width)
    if trunk.attention == "apart":
        matrix = joined([weights.take(f"{old}{part}_proj.weight", width, width) for part in "qkv"])
    else:
        matrix = weights.take(f"{old}qkv.weight", 3 * width, width)
    if trunk.attention == "no bias":
        return {f"{new}.weight": matrix, f"{new}.bias": torch.zeros(3 * width)}
    names = ("q_proj.bias", "v_proj.bias") if trunk.attention == "apart" else ("q_bias", "v_bias")
    query, value = (weights.take(f"{old}{name}", width) for name in names)
    return {f"{new}.weight": matrix, f"{new}.bias": joined([query, torch.zeros(width), value])}


def _take_pool(weights: StateDict, width: int, hidden: int) -> dict[str, Tensor]:
    old, new = "visual.trunk.attn_pool.", "image.pool."
    taken = {f"{new}probe": weights.take(f"{old}latent", 1, 1, width).reshape(width)}
    for part, shape in (("weight", (width, width)), ("bias", (width,))):
        query = weights.take(f"{old}q.{part}", *shape)
        memory = weights.take(f"{old}kv.{part}", 2 * shape[0], *shape[1:])
        taken[f"{new}attention.qkv.{part}"] = joined([query, memory])
    taken |= weights.layer(f"{old}proj", f"{new}attention.out", width, width)
    taken |= weights.layer(f"{old}norm", f"{new}norm", width)
    taken |= weights.layer(f"{old}mlp.fc1", f"{new}mlp.up", hidden, width)
    return taken | weights.layer(f"{old}mlp.fc2", f"{new}mlp.down", width, hidden)


def joined(parts: list[Tensor]) -> Tensor:
    """Rows of several tensors as one. Stand-ins of missing ones have no content; the end of the reading names them."""
    whole = all(part.device == parts[0].device for part in parts)
    return torch.cat(parts) if whole else parts[0]
