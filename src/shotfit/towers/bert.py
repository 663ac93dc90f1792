"""BERT's text tower, and RoBERTa's and XLM-RoBERTa's, which differ in their tables and tokenizers alone.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", NAACL 2019, arXiv
1810.04805; Liu et al., "RoBERTa: A Robustly Optimized BERT Pretraining Approach", 2019, arXiv 1907.11692; Conneau et
al., "Unsupervised Cross-lingual Representation Learning at Scale", ACL 2020, arXiv 1911.02116.

    x_0 = norm(word + type + position)                      a text is one segment, so the type is the same everywhere
    h   = norm1(x + attention(x)), x' = norm2(h + mlp(h))   every token sees all tokens but padding

No token sees padding, so rows run without any: the saving `cut`. Beginnings are not shared, since each token depends on
those behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shotfit.towers.changed import changed
from shotfit.towers.config import BertConfig, TextConfig
from shotfit.towers.edits import Edit, ends_unprojected
from shotfit.towers.layout import Stream
from shotfit.towers.linear import Linear
from shotfit.towers.transformer import TextTower, TextTransformer

__all__ = ["BertTransformer", "text_tower"]


class BertTransformer(TextTower):
    """A text tower that sees all tokens but padding, pooled over them or at the first."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        width, epsilon = config.blocks.width, config.blocks.epsilon
        self.pooling, self.pooled_alone = config.pooling, config.pooling == "first"
        self.token_type = nn.Parameter(torch.zeros(width))  # of the first segment
        self.embedding_norm = nn.LayerNorm(width, epsilon)
        self.final_norm = nn.LayerNorm(width, epsilon) if config.final_norm else nn.Identity()
        self.pooler = nn.Sequential(Linear(width, width), nn.Tanh()) if config.pooler else nn.Identity()
        self.projection = _projection(config)

    def positioned(self, x: Tensor, positions: Tensor) -> Tensor:
        """norm(word + type + position), [tokens, width]."""
        return self.embedding_norm(x + self.token_type + positions)

    def finish(self, stream: Stream, edits: Sequence[Edit] = ()) -> Tensor:
        """The remaining blocks, pooling and projection: [rows, embed], or [rows, width]."""
        stream, own = self.ready(self.run(stream, edits), edits), changed(self, self.last, edits)
        pooled = self.read_tokens(stream) if self.pooled_alone else self._pooled(stream)
        pooled = own.pooler(own.final_norm(pooled))
        return pooled if ends_unprojected(edits) else own.projection(pooled)

    def _pooled(self, stream: Stream) -> Tensor:
        """Mean or maximum over the tokens of each row, padding left out: [rows, width]."""
        assert stream.layout is not None
        x, unpadded = stream.layout.own.pad(stream.hidden), stream.layout.unpadded  # [rows, longest, width]
        if unpadded is None:
            return x.mean(dim=1) if self.pooling == "mean" else x.amax(dim=1)
        if self.pooling == "max":
            return x.masked_fill(~unpadded[..., None], float("-inf")).amax(dim=1)
        return (x * unpadded[..., None]).sum(dim=1) / unpadded.sum(dim=1, keepdim=True)


def _projection(config: BertConfig) -> nn.Module:
    width, bias = config.blocks.width, config.projection_bias
    if config.projection == "none":
        return nn.Identity()
    if config.projection == "linear":
        return Linear(width, config.embed, bias=bias)
    return nn.Sequential(
        Linear(width, config.hidden, bias=bias), nn.GELU(), Linear(config.hidden, config.embed, bias=bias)
    )


def text_tower(config: TextConfig | BertConfig) -> TextTower:
    """The text tower of a configuration."""
    return BertTransformer(config) if isinstance(config, BertConfig) else TextTransformer(config)
