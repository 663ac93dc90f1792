"""What differs between backbones, as data: sizes, activation, pooling, preprocessing.

A checkpoint's own configuration decides every field (`weights.py` reads it); nothing here has a default that could
silently stand in for something a checkpoint says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "BackboneConfig",
    "BlocksConfig",
    "ImageConfig",
    "Preprocessing",
    "ResNetConfig",
    "StemConfig",
    "TextConfig",
]

Activation = Literal["quick_gelu", "gelu", "gelu_tanh"]


@dataclass(frozen=True)
class BlocksConfig:
    """A stack of pre-norm transformer blocks."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation
    epsilon: float


@dataclass(frozen=True)
class ImageConfig:
    """A vision transformer.

    `pooling`: "token" reads the class token, "mean" averages the patches (class token left out), "attention" is
    SigLIP's pooling head. `projection`: a matrix into the joint space, else the pooled vector is the feature.
    """

    image_size: int
    patch: int
    blocks: BlocksConfig
    embed: int
    class_token: bool
    patch_bias: bool
    pre_norm: bool
    pooling: Literal["token", "mean", "attention"]
    projection: bool


@dataclass(frozen=True)
class ResNetConfig:
    """CLIP's modified ResNet: four stages of bottlenecks and attention pooling."""

    image_size: int
    layers: tuple[int, int, int, int]
    width: int
    heads: int
    embed: int


@dataclass(frozen=True)
class StemConfig:
    """`mini`'s image tower: EfficientNet-Lite0 as step 0 in front of transformer blocks, read at the class token."""

    image_size: int
    concepts: int
    blocks: BlocksConfig
    embed: int


@dataclass(frozen=True)
class TextConfig:
    """A text transformer.

    `pooling` says which token is read: "largest" is the first position of the largest id (OpenAI's rule), "end" the
    first position of `end` (position 0 where there is none), "first" and "last" the row's ends, padding included.
    """

    vocabulary: int
    context: int
    blocks: BlocksConfig
    embed: int
    causal: bool
    pooling: Literal["largest", "end", "first", "last"]
    end: int | None
    padding: int
    projection_bias: bool


@dataclass(frozen=True)
class Preprocessing:
    """From an encoded image to the tower's input.

    `resize`: "shortest" (shorter side to `size`, then centre crop), "squash" (to a square), "longest" (fit, then pad
    with `fill`). `crop_offset`: "round" (half to even, as torchvision) or "floor" (as transformers) where the crop's
    margin is odd. `rgb`: the image becomes RGB "first", before resizing, or "last", after cropping.
    `transparency`: "drop" the alpha channel or put the image on "white".
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"]
    resize: Literal["shortest", "squash", "longest"]
    crop_offset: Literal["round", "floor"]
    rgb: Literal["first", "last"]
    transparency: Literal["drop", "white"]
    fill: int = 0


@dataclass(frozen=True)
class BackboneConfig:
    """Both towers of one checkpoint. `logit_bias`: SigLIP's, added to the scaled cosines."""

    image: ImageConfig | ResNetConfig | StemConfig
    text: TextConfig
    preprocessing: Preprocessing
    logit_bias: bool
