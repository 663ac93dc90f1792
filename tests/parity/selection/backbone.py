# ruff: noqa
# mypy: ignore-errors
"""Tiny CLIP backbones with fixed pseudo-random weights, in OpenAI's checkpoint layout.

Every parity case names one of these. A tensor depends only on the backbone's name, its own name and its
shape, so any machine builds the same weights. As in OpenAI's files, linear, convolution, attention and
projection weights hold values that float16 represents exactly; the arrays are float32 and used as they are:

    from backbone import BACKBONES, state_dict
    weights = state_dict("vit")          # dict[str, numpy.ndarray], float32, OpenAI's key names

`python backbone.py vit out.pt` writes it as a pickled state dict for torch, as OpenAI's files are read.
`python backbone.py` prints each backbone's sizes and fingerprint; they are recorded in README.md.
"""

from __future__ import annotations

import hashlib
import sys
import zlib
from dataclasses import dataclass

import numpy as np

VOCABULARY = 49408
CONTEXT = 77


@dataclass(frozen=True)
class Size:
    """Sizes in OpenAI's terms; heads are width / 64 in both towers, as OpenAI's loader derives them."""

    embed: int
    resolution: int
    vision_layers: int | tuple[int, int, int, int]
    vision_width: int
    patch: int | None
    text_width: int
    text_layers: int


BACKBONES = {
    "vit": Size(48, 32, 4, 128, 8, 64, 4),
    "vit-deep": Size(48, 32, 6, 128, 8, 64, 3),
    "vit-wide": Size(64, 48, 3, 192, 16, 128, 5),
    "rn": Size(64, 64, (1, 2, 1, 1), 4, None, 64, 3),
}


def _normal(backbone: str, key: str, shape: tuple[int, ...], std: float, mean: float = 0.0) -> np.ndarray:
    seed = [zlib.crc32(backbone.encode()), zlib.crc32(key.encode())]
    return (mean + std * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def _is_half(key: str) -> bool:
    """Is this tensor one that OpenAI's files store in half precision (linear, convolution, attention, projection)?"""
    norms = (".ln_", ".bn", ".downsample.1.", "ln_final")
    embeddings = ("token_embedding", "positional_embedding", "class_embedding")
    return not any(part in f".{key}" for part in norms) and not any(part in key for part in embeddings)


def state_dict(name: str) -> dict[str, np.ndarray]:
    """The backbone's weights under OpenAI's names. Vectors are not trivial (biases and norms are drawn too)."""
    size, weights = BACKBONES[name], {}

    def put(key: str, shape: tuple[int, ...], std: float, mean: float = 0.0) -> None:
        drawn = _normal(name, key, shape, std, mean)
        weights[key] = drawn.astype(np.float16).astype(np.float32) if _is_half(key) else drawn

    def norm(key: str, width: int) -> None:
        put(f"{key}.weight", (width,), 0.1, 1.0)
        put(f"{key}.bias", (width,), 0.05)

    def linear(key: str, out: int, into: int, std: float) -> None:
        put(f"{key}.weight", (out, into), std)
        put(f"{key}.bias", (out,), 0.02)

    def block(key: str, width: int) -> None:
        norm(f"{key}.ln_1", width)
        put(f"{key}.attn.in_proj_weight", (3 * width, width), 1.6 * width**-0.5)
        put(f"{key}.attn.in_proj_bias", (3 * width,), 0.02)
        linear(f"{key}.attn.out_proj", width, width, 0.7 * width**-0.5)
        norm(f"{key}.ln_2", width)
        linear(f"{key}.mlp.c_fc", 4 * width, width, 1.2 * width**-0.5)
        linear(f"{key}.mlp.c_proj", width, 4 * width, 0.6 * width**-0.5)

    if size.patch:
        width = size.vision_width
        grid = size.resolution // size.patch
        put("visual.class_embedding", (width,), 0.5)
        put("visual.positional_embedding", (grid * grid + 1, width), 0.3)
        put("visual.conv1.weight", (width, 3, size.patch, size.patch), (3 * size.patch**2) ** -0.5)
        norm("visual.ln_pre", width)
        for i in range(size.vision_layers):
            block(f"visual.transformer.resblocks.{i}", width)
        norm("visual.ln_post", width)
        put("visual.proj", (width, size.embed), width**-0.5)
    else:
        _resnet(put, size)

    width = size.text_width
    put("token_embedding.weight", (VOCABULARY, width), 0.5)
    put("positional_embedding", (CONTEXT, width), 0.3)
    for i in range(size.text_layers):
        block(f"transformer.resblocks.{i}", width)
    norm("ln_final", width)
    put("text_projection", (width, size.embed), width**-0.5)
    weights["logit_scale"] = np.float32(np.log(30.0)).reshape(())
    return weights


def _resnet(put, size: Size) -> None:
    """OpenAI's modified ResNet: three-convolution stem, bottlenecks with average pooling, attention pooling."""

    def conv(key: str, out: int, into: int, kernel: int) -> None:
        put(f"{key}.weight", (out, into, kernel, kernel), (2.0 / (into * kernel * kernel)) ** 0.5)

    def batchnorm(key: str, width: int) -> None:
        put(f"{key}.weight", (width,), 0.1, 1.0)
        put(f"{key}.bias", (width,), 0.05)
        put(f"{key}.running_mean", (width,), 0.3)
        put(f"{key}.running_var", (width,), 0.05, 1.0)

    width = size.vision_width
    conv("visual.conv1", width // 2, 3, 3)
    batchnorm("visual.bn1", width // 2)
    conv("visual.conv2", width // 2, width // 2, 3)
    batchnorm("visual.bn2", width // 2)
    conv("visual.conv3", width, width // 2, 3)
    batchnorm("visual.bn3", width)
    into = width
    for stage, blocks in enumerate(size.vision_layers, start=1):
        planes = width * 2 ** (stage - 1)
        for i in range(blocks):
            key = f"visual.layer{stage}.{i}"
            conv(f"{key}.conv1", planes, into, 1)
            batchnorm(f"{key}.bn1", planes)
            conv(f"{key}.conv2", planes, planes, 3)
            batchnorm(f"{key}.bn2", planes)
            conv(f"{key}.conv3", 4 * planes, planes, 1)
            batchnorm(f"{key}.bn3", 4 * planes)
            if i == 0:
                conv(f"{key}.downsample.0", 4 * planes, into, 1)
                batchnorm(f"{key}.downsample.1", 4 * planes)
            into = 4 * planes
    width = into
    grid = size.resolution // 32
    put("visual.attnpool.positional_embedding", (grid * grid + 1, width), 0.1)
    for part, gain in (("q_proj", 2.0), ("k_proj", 2.0), ("v_proj", 1.0)):
        put(f"visual.attnpool.{part}.weight", (width, width), gain * width**-0.5)
        put(f"visual.attnpool.{part}.bias", (width,), 0.02)
    put("visual.attnpool.c_proj.weight", (size.embed, width), width**-0.5)
    put("visual.attnpool.c_proj.bias", (size.embed,), 0.02)


def fingerprint(weights: dict[str, np.ndarray]) -> str:
    """sha256 over names, shapes and bytes, in order of name; the first 16 hex digits."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(f"{key}{weights[key].shape}".encode())
        digest.update(np.ascontiguousarray(weights[key]).tobytes())
    return digest.hexdigest()[:16]


def main(arguments: list[str]) -> None:
    if arguments:
        import torch

        name, path = arguments
        torch.save({key: torch.from_numpy(np.asarray(value)) for key, value in state_dict(name).items()}, path)
        return
    for name, size in BACKBONES.items():
        print(name, fingerprint(state_dict(name)), size)


if __name__ == "__main__":
    main(sys.argv[1:])
