"""Attention and blocks, on the flat matrix of tokens that a `Layout` describes.

Block: x + attention(norm1 x), then x + mlp(norm2 x); with the norms after, x + norm1(attention x) and so on; with norms
of the sums, norm1(x + attention x). Only attention looks at the layout.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotfit.towers.config import BlocksConfig
from shotfit.towers.layout import Layout, Packing
from shotfit.towers.linear import Linear, linear

__all__ = ["Block", "PoolingHead", "rotated", "without"]


QUICK = 1.702  # QuickGELU's factor


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(QUICK * x)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": _quick_gelu,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
}


class Attention(nn.Module):
    """Multi-head attention with fused query, key, value and scale 1 / sqrt(head width).

    epsilon: of a norm of what the heads give, before the last matrix; None without one.
    """

    def __init__(self, width: int, heads: int, epsilon: float | None = None) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.qkv = Linear(width, 3 * width)
        self.norm = None if epsilon is None else nn.LayerNorm(width, epsilon)
        self.out = Linear(width, width)

    def forward(self, x: Tensor, layout: Layout, rotation: Tensor | None = None) -> Tensor:
        """Every token attends within its row: [tokens, width] to [tokens, width].

        rotation: of queries and keys, as `rotated` takes it; only where all rows are of the same length.
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # [tokens, 3, heads, head]
        if layout.shared is None:
            query, key, value = layout.own.pad(qkv).permute(2, 0, 3, 1, 4)  # each [rows, heads, longest, head]
            if rotation is not None:
                query, key = rotated(query, rotation), rotated(key, rotation)
            mask = None if layout.unpadded is None else layout.unpadded[:, None, None]
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=layout.causal)
            return self._out(layout.own, mixed)
        split = layout.shared.tokens
        beginning = layout.shared.pad(qkv[:split]).permute(2, 0, 3, 1, 4)  # [3, groups, heads, longest, head]
        own = layout.own.pad(qkv[split:])
        mixed = F.scaled_dot_product_attention(beginning[0], beginning[1], beginning[2], is_causal=True)
        continued = self._continue(own[:, :, 0], beginning[1:], own[:, :, 1:], layout, reading=False)
        return torch.cat([self._out(layout.shared, mixed), self._out(layout.own, continued)])

    def read(self, x: Tensor, layout: Layout, rotation: Tensor | None = None) -> Tensor:
        """Only the token that is read attends: [tokens, width] to [rows, width]. With a rotation, the first."""
        weight, bias, width = self.qkv.weight, self.qkv.bias, self.width
        query = linear(x.index_select(0, layout.read), weight[:width], bias[:width])
        query = layout.reads.pad(query.unflatten(-1, (self.heads, -1)))  # [places, 1, heads, head]
        memory = linear(x, weight[width:], bias[width:]).unflatten(-1, (2, self.heads, -1))
        split = 0 if layout.shared is None else layout.shared.tokens
        own = layout.own.pad(memory[split:])  # [places, longest, 2, heads, head]
        if layout.shared is None:
            query, (key, value) = query.transpose(1, 2), own.permute(2, 0, 3, 1, 4)
            if rotation is not None:
                query, key = rotated(query, rotation), rotated(key, rotation)
            mask = layout.visible
            mixed = F.scaled_dot_product_attention(
                query, key, value, attn_mask=None if mask is None else mask[:, None, None]
            )
        else:
            beginning = layout.shared.pad(memory[:split]).permute(2, 0, 3, 1, 4)
            mixed = self._continue(query, beginning, own, layout, reading=True)
        return self._out(layout.reads, mixed)

    def drop(self, x: Tensor, layout: Layout, last: int, rotation: Tensor | None = None) -> Tensor:
        """The last tokens of each row give keys and values only: [rows x n, width] to [rows x (n - last), width]."""
        weight, bias, width, rows = self.qkv.weight, self.qkv.bias, self.width, x.unflatten(0, (layout.rows, -1))
        query = linear(rows[:, :-last], weight[:width], bias[:width]).unflatten(-1, (self.heads, -1))
        memory = linear(rows, weight[width:], bias[width:]).unflatten(-1, (2, self.heads, -1))
        key, value = memory.permute(2, 0, 3, 1, 4)  # each [rows, heads, n, head]
        query = query.transpose(1, 2)
        if rotation is not None:
            query, key = rotated(query, rotation), rotated(key, rotation)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self._last(mixed.transpose(1, 2).flatten(2).flatten(0, 1))

    def _continue(self, query: Tensor, beginning: Tensor, own: Tensor, layout: Layout, reading: bool) -> Tensor:
        """Rows attend to their group's beginning and to their own tokens: one softmax over both.

        query [places, queries, heads, head], beginning [2, groups, heads, shared, head], own [places, longest, 2,
        heads, head]; the result is [places, heads, queries, head].
        """
        assert layout.shared is not None
        groups, queries = (len(layout.groups), layout.places), query.shape[1]
        grouped = query.unflatten(0, groups).permute(0, 3, 1, 2, 4)  # [groups, heads, places, queries, head]
        grouped = grouped * query.shape[-1] ** -0.5
        together = grouped.flatten(2, 3)  # all queries of a group see the whole beginning, whatever their row
        own_key, own_value = own.unflatten(0, groups).permute(3, 0, 4, 1, 2, 5)
        to_shared = (together @ beginning[0].transpose(-1, -2)).unflatten(2, (layout.places, queries))
        to_own = grouped @ own_key.transpose(-1, -2)  # [groups, heads, places, queries, longest]
        if not layout.shared.even:
            to_shared = to_shared.masked_fill(~layout.shared.present[:, None, None, None], float("-inf"))
        if reading:
            if layout.visible is not None:
                hidden = ~layout.visible.unflatten(0, groups)
                to_own = to_own.masked_fill(hidden[:, None, :, None], float("-inf"))
        else:
            later = torch.ones(queries, queries, dtype=torch.bool, device=query.device).triu(1)
            to_own = to_own.masked_fill(later, float("-inf"))
        shared = to_shared.shape[-1]
        weights = torch.cat([to_shared, to_own], dim=-1).softmax(dim=-1)
        mixed = (weights[..., :shared].flatten(2, 3) @ beginning[1]).unflatten(2, (layout.places, queries))
        mixed = mixed + weights[..., shared:] @ own_value
        return mixed.transpose(1, 2).flatten(0, 1)

    def _out(self, packing: Packing, mixed: Tensor) -> Tensor:
        merged = mixed.transpose(1, 2).flatten(2)  # [rows, longest, width]
        return self._last(packing.flatten(merged))

    def _last(self, merged: Tensor) -> Tensor:
        return self.out(merged if self.norm is None else self.norm(merged))


def rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Queries or keys, each pair of their numbers turned by the angles of the token's place.

    (a, b) becomes (a cos - b sin, b cos + a sin). x: [rows, heads, n, head]. rotation: [places, head / 2, 2], cosines
    and sines; tokens beyond the places (prompts) stay as they are. Su et al., arXiv 2104.09864.
    """
    turned = x[:, :, : len(rotation)].unflatten(-1, (-1, 2))  # [rows, heads, places, head / 2, 2]
    cosines, sines = rotation[: turned.shape[2]].unbind(-1)
    first, second = turned.unbind(-1)
    pairs = torch.stack([first * cosines - second * sines, second * cosines + first * sines], dim=-1)
    rest = x[:, :, len(rotation) :]
    return torch.cat([pairs.flatten(-2), rest], dim=2) if rest.shape[2] else pairs.flatten(-2)


class MLP(nn.Module):
    """down(activation(up x)), or gated: down(norm(silu(gate x) * up x)).

    epsilon: of the norm before the last matrix; None without one.
    """

    def __init__(
        self, width: int, hidden: int, activation: str, gated: bool = False, epsilon: float | None = None
    ) -> None:
        super().__init__()
        self.gate = Linear(width, hidden) if gated else None
        self.up, self.down = Linear(width, hidden), Linear(hidden, width)
        self.norm = None if epsilon is None else nn.LayerNorm(hidden, epsilon)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """[tokens, width] to [tokens, width]."""
        h = self.activation(self.up(x)) if self.gate is None else F.silu(self.gate(x)) * self.up(x)
        return self.down(h if self.norm is None else self.norm(h))


class Block(nn.Module):
    """A transformer block on a flat matrix of tokens."""

    def __init__(self, config: BlocksConfig) -> None:
        super().__init__()
        inner = config.epsilon if config.inner_norms else None
        self.norm, self.silu = config.norm, config.silu
        self.norm1 = nn.LayerNorm(config.width, config.epsilon)
        self.attention = Attention(config.width, config.heads, inner)
        self.norm2 = nn.LayerNorm(config.width, config.epsilon)
        self.mlp = MLP(config.width, config.mlp_width, config.activation, config.gated, inner)

    def forward(self, x: Tensor, layout: Layout, silu: bool, rotation: Tensor | None = None) -> Tensor:
        """[tokens, width] to [tokens, width]. silu: run QuickGELU as SiLU, if it is the block's activation."""
        return self._rest(x, self.attention(self.seen(x), layout, rotation), silu)

    def read(self, x: Tensor, layout: Layout, silu: bool, rotation: Tensor | None = None) -> Tensor:
        """The block's output at the read tokens alone: [tokens, width] to [rows, width]; keys and values for all."""
        return self._rest(x.index_select(0, layout.read), self.attention.read(self.seen(x), layout, rotation), silu)

    def drop(self, x: Tensor, layout: Layout, last: int, silu: bool, rotation: Tensor | None = None) -> Tensor:
        """The block's output without the last tokens of each row, in rows of equal length; keys and values for all."""
        mixed = self.attention.drop(self.seen(x), layout, last, rotation)
        return self._rest(without(x, layout, last), mixed, silu)

    def seen(self, x: Tensor) -> Tensor:
        """The input as attention reads it, and what stands beside the block too: normed where norms stand before."""
        return self.norm1(x) if self.norm == "before" else x

    def _rest(self, x: Tensor, mixed: Tensor, silu: bool) -> Tensor:
        """The first sum, and the block's second half."""
        if self.norm == "after":
            x = x + self.norm1(mixed)
            return x + self.norm2(self.mlp(x))
        if self.norm == "sum":
            x = self.norm1(x + mixed)
            return self.norm2(x + self.mlp(x))
        return self._mlp(x + mixed, silu)

    def _mlp(self, x: Tensor, silu: bool) -> Tensor:
        """x + mlp(norm2 x).

        As SiLU: silu(q h) = q quick_gelu(h). The factor q goes into the norm that makes h and into both biases, its
        inverse into the sum, so that only vectors of the width are multiplied and no matrix is held twice.
        """
        if not (silu and self.silu):
            return x + self.mlp(self.norm2(x))
        norm, up, down = self.norm2, self.mlp.up, self.mlp.down
        h = F.layer_norm(x, norm.normalized_shape, QUICK * norm.weight, QUICK * norm.bias, norm.eps)
        h = F.silu(linear(h, up.weight, QUICK * up.bias))
        return torch.add(x, linear(h, down.weight, QUICK * down.bias), alpha=1 / QUICK)


def without(x: Tensor, layout: Layout, last: int) -> Tensor:
    """Rows of equal length without their last tokens: [rows x n, width] to [rows x (n - last), width]."""
    rows = x.unflatten(0, (layout.rows, -1))
    return rows[:, : rows.shape[1] - last].flatten(0, 1)


class PoolingHead(nn.Module):
    """SigLIP's: a learned probe attends over all tokens; h + mlp(norm h)."""

    def __init__(self, config: BlocksConfig) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(config.width))
        self.attention = Attention(config.width, config.heads)
        self.norm = nn.LayerNorm(config.width, config.epsilon)
        self.mlp = MLP(config.width, config.mlp_width, config.activation)

    def forward(self, x: Tensor) -> Tensor:
        """[n, tokens, width] to [n, width]."""
        inner, width = self.attention, self.attention.width
        query = linear(self.probe, inner.qkv.weight[:width], inner.qkv.bias[:width])
        query = query.view(1, inner.heads, 1, -1).expand(x.shape[0], -1, -1, -1)
        memory = linear(x, inner.qkv.weight[width:], inner.qkv.bias[width:]).unflatten(-1, (2, inner.heads, -1))
        key, value = memory.permute(2, 0, 3, 1, 4)
        h = inner.out(F.scaled_dot_product_attention(query, key, value).flatten(1))
        return h + self.mlp(self.norm(h))
