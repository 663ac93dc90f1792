"""What each place of an image tower's grid says: features that the image's own are the mean of.

    g_p = f + SHARE (u_p - mean over places of u)      [n, places, embed]; f: the image's features

u_p is what the features' last sum would be if every place gave it what place p gives, so that g_p is of an image of
which a share is like place p. What no place gives is the same in all: the class token's start, prompt tokens, biases.
How P places reach that sum:

    class token     x = start + sum over blocks of (attention + MLP + what stands beside). The attention at the class
                    token is a sum over tokens, weight a_p times value W v_p: u_p has P a_p W v_p of every block, and
                    adapters beside blocks read the class token with what it has of that; MLPs are the image's
    mean            u_p is the token of place p
    pooling head    u_p has P a_p W v_p of the probe's attention, and is what the head's MLP makes of it
    ResNet          likewise of the attention pool, where the mean of the grid is a share of every place's

Norms that read the sum of all places are taken at the image's own mean and variance, so that they are linear. The
decomposition of the class token by blocks and tokens is that of Gandelsman et al., "Interpreting CLIP's Image
Representation via Text-Based Decomposition", ICLR 2024, arXiv 2310.05916.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotfit.towers.blocks import Block, PoolingHead, rotated, without
from shotfit.towers.changed import changed
from shotfit.towers.config import ImageConfig, ResNetConfig, StemConfig
from shotfit.towers.edits import Adapter, Edit, Weights, ends_unprojected
from shotfit.towers.efficientnet import STRIDE
from shotfit.towers.layout import Savings, Stream
from shotfit.towers.linear import linear
from shotfit.towers.resnet import AttentionPool, ModifiedResNet
from shotfit.towers.transformer import VisionTransformer

__all__ = ["SHARE", "at_places", "grid_of"]

SHARE = 0.5  # of the image that is like a place; docs/log/ has what other shares hit


def grid_of(config: ImageConfig | StemConfig | ResNetConfig) -> tuple[int, float]:
    """How many places a side of the grid has, and how many pixels of the tower's input a side of a place."""
    if isinstance(config, ImageConfig):  # what is left at the right and the bottom, no patch reads
        return config.image_size // config.patch, config.patch
    side = -(-config.image_size // STRIDE)
    return side, config.image_size / side


@torch.no_grad()
def at_places(
    tower: VisionTransformer | ModifiedResNet,
    pixels: Tensor,
    edits: Sequence[Edit] = (),
    savings: Savings = Savings(),
) -> Tensor:
    """g of pixels [n, 3, size, size]: [n, places, embed], the grid row by row.

    What an edit has the tower give behind its features (`read`) is the same at every place: [n, places, embed + width].
    """
    stream, own = tower.start(pixels, edits, savings), changed(tower, tower.last, edits)
    last: nn.Linear | None
    if isinstance(own, ModifiedResNet):
        stream = tower.run(stream, edits)
        parts, last = _of_attention_pool(own.pool, stream.hidden), own.pool.out
    else:
        assert isinstance(tower, VisionTransformer)
        if tower.pooling == "token":
            stream, parts = _of_class_token(tower, own.post_norm, stream, edits)
        else:
            stream = tower.run(stream, edits)
            parts = _of_tokens(own, tower.ready(stream, edits))
        last = own.projection
    if last is not None and not ends_unprojected(edits):
        parts = linear(parts, last.weight, None)
    apart = parts - parts.mean(dim=1, keepdim=True)  # [n, places, embed]
    features = tower.finish(stream, edits)[:, None]
    return features + F.pad(apart, (0, features.shape[-1] - apart.shape[-1]))


def _of_class_token(
    tower: VisionTransformer, norm: nn.LayerNorm, stream: Stream, edits: Sequence[Edit]
) -> tuple[Stream, Tensor]:
    """The stream behind the last block, and u in front of the projection but for a constant, [n, places, width].

    What stands beside a block reads the class token as a place makes it.
    """
    beside = [edit for edit in edits if isinstance(edit, (Adapter, Weights))]
    apart = stream.hidden.new_zeros(())  # of a place's class token from the image's, [n, places, width]
    ready = tower.ready(stream, edits)
    while stream.step < tower.last - 1:
        before = tower.read_tokens(ready)[:, None] + apart
        added = apart + _attended(tower, ready, edits)
        stream = tower.run(stream, edits, until=stream.step + 1)
        ready, token = tower.ready(stream, edits), tower.read_tokens(stream)[:, None]
        own = replace(
            stream, hidden=(token + added).flatten(0, 1), layout=None, prompts=0,
            before=before.expand_as(added).flatten(0, 1),
        )  # fmt: skip
        apart = tower.ready(own, beside).hidden.view_as(added) - tower.read_tokens(ready)[:, None]
    return stream, _held(norm, apart, tower.read_tokens(ready))


def _attended(tower: VisionTransformer, stream: Stream, edits: Sequence[Edit]) -> Tensor:
    """What the next block's attention gives the class token of a place apart from the image's, [n, places, width]."""
    step, places = stream.step + 1, tower.tokens - 1
    block = changed(tower.blocks[step - 1], step, edits)
    assert isinstance(block, Block) and stream.layout is not None
    attention = block.attention
    seen = block.seen(stream.hidden).unflatten(0, (stream.layout.rows, -1))  # [n, tokens, width]
    query, key, value = attention.qkv(seen).unflatten(-1, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)
    query = query[:, :, :1]  # the class token's
    if tower.rotation is not None:
        query, key = rotated(query, tower.rotation), rotated(key, tower.rotation)
    each = _shares(query, key, value)
    whole = each.sum(dim=1)
    if attention.norm is not None:
        each, whole = _held(attention.norm, each, whole), attention.norm(whole)
    each = linear(each, attention.out.weight, None)
    if block.norm == "after":
        each = _held(block.norm1, each, attention.out(whole))
    own = each[:, 1 : 1 + places]
    return SHARE * (places * own - own.sum(dim=1, keepdim=True))


def _of_tokens(own: VisionTransformer, stream: Stream) -> Tensor:
    """u in front of the projection, of towers that pool over tokens: [n, places, width]."""
    assert stream.layout is not None
    x = without(stream.hidden, stream.layout, stream.prompts).unflatten(0, (stream.layout.rows, -1))
    x = x if own.norm_after_pool else own.post_norm(x)  # [n, tokens, width]
    first = int(own.has_class_token)
    parts = x[:, first:] if own.pool is None else _of_pooling_head(own.pool, x, first)
    if own.norm_after_pool:
        parts = _held(own.post_norm, parts, parts.mean(dim=1) if own.pool is None else own.pool(x))
    return SHARE * parts


def _of_pooling_head(head: PoolingHead, x: Tensor, first: int) -> Tensor:
    """u behind the head: [n, tokens, width] to [n, tokens - first, width]."""
    inner, width = head.attention, head.attention.width
    query = linear(head.probe, inner.qkv.weight[:width], inner.qkv.bias[:width]).view(1, inner.heads, 1, -1)
    memory = linear(x, inner.qkv.weight[width:], inner.qkv.bias[width:]).unflatten(-1, (2, inner.heads, -1))
    key, value = memory.permute(2, 0, 3, 1, 4)
    each = linear(_shares(query, key, value), inner.out.weight, None)  # [n, tokens, width]
    others, places = each[:, :first].sum(dim=1, keepdim=True), each[:, first:]
    h = inner.out.bias + others + places.shape[1] * places
    return h + head.mlp(head.norm(h))


def _of_attention_pool(pool: AttentionPool, x: Tensor) -> Tensor:
    """u in front of the pool's last map: [n, channels, h, w] to [n, places, channels]."""
    grid = x.flatten(2).transpose(1, 2)
    tokens = torch.cat([grid.mean(dim=1, keepdim=True), grid], dim=1) + pool.positions
    query, key, value = (
        of(seen).unflatten(-1, (pool.heads, -1)).transpose(1, 2)
        for of, seen in ((pool.query, tokens[:, :1]), (pool.key, tokens), (pool.value, tokens))
    )
    weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1).transpose(-1, -2)
    of_grid = F.linear(grid, pool.value.weight).unflatten(-1, (pool.heads, -1)).transpose(1, 2)
    shares = weights[:, :, :1] * of_grid + grid.shape[1] * weights[:, :, 1:] * value[:, :, 1:]
    return SHARE * shares.transpose(1, 2).flatten(2)


def _shares(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Weight times value of every token, for one query a row: [rows, heads, n, head] to [rows, n, heads x head]."""
    weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)  # [rows, heads, 1, n]
    return (weights.transpose(-1, -2) * value).transpose(1, 2).flatten(2)


def _held(norm: nn.LayerNorm, parts: Tensor, whole: Tensor) -> Tensor:
    """The norm's linear part on parts [n, places, width], at mean and variance of the whole [n, width]."""
    scale = (whole.var(dim=-1, correction=0) + norm.eps).rsqrt()[:, None, None]
    return (parts - parts.mean(dim=-1, keepdim=True)) * scale * norm.weight
