"""CLIP-LoRA in the reference manner: low-rank maps of queries, keys and values beside the frozen ones in every block.

Zanella and Ben Ayed, CVPR Workshops 2024. Both towers run whole at every step, without dropout.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.reference import Block, Clip, Map, Reference

__all__ = ["ClipLora"]


class LowRankBlock(nn.Module):
    """A block whose queries, keys and values have W x + scale * B (A x); `maps` has A and B of each."""

    def __init__(self, block: Block, maps: Mapping[str, tuple[Tensor, Tensor]], scale: float) -> None:
        super().__init__()
        self.block, self.maps, self.scale = block, maps, scale

    def forward(self, x: Tensor, beside: Map | None = None) -> Tensor:
        """[rows, tokens, width] to the same."""
        own = self.block
        h, parts = own.norm1(x), list[Tensor]()
        for part, value in zip(("query", "key", "value"), own.qkv(h).chunk(3, dim=-1), strict=True):
            down, up = self.maps[part]
            parts.append((value + self.scale * F.linear(F.linear(h, down), up)).unflatten(-1, (own.heads, -1)))
        query, key, value = (part.transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=own.causal)
        x = x + own.out(mixed.transpose(1, 2).flatten(2))
        hidden = own.up(own.norm2(x))
        return x + own.down(hidden * torch.sigmoid(1.702 * hidden))


class ClipLora(Reference):
    """Low-rank maps in every block of both towers."""

    def __init__(self, clip: Clip, ids: Tensor, scale: float, parameters: Mapping[str, Tensor]) -> None:
        super().__init__(clip, parameters)
        self.words, self.ends = clip.embed(ids), clip.ends(ids)
        own = copy(clip)  # shares all but the lists of blocks
        own._modules = dict(clip._modules)
        for tower, blocks in (("image", clip.image_blocks), ("text", clip.text_blocks)):
            own._modules[f"{tower}_blocks"] = nn.ModuleList(
                LowRankBlock(block, self._maps(f"{tower}_{number}"), scale)  # type: ignore[arg-type]
                for number, block in enumerate(blocks, start=1)
            )
        object.__setattr__(self, "clip", own)

    def _maps(self, site: str) -> dict[str, tuple[Tensor, Tensor]]:
        return {
            part: (self.get_parameter(f"{site}_{part}_down"), self.get_parameter(f"{site}_{part}_up"))
            for part in ("query", "key", "value")
        }

    def text_features(self) -> Tensor:
        return self.clip.text(self.words, self.ends)
