"""What differs between backbones, as data: sizes, activation, pooling, preprocessing.

A checkpoint's own configuration decides every field (`weights.py` reads it); nothing here has a default that could
silently stand in for something a checkpoint says.
"""

from __future__ import annotations

import json
import reprlib
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from shotfit.errors import ShotfitError, first_few

__all__ = [
    "BackboneConfig",
    "BertConfig",
    "BlocksConfig",
    "BoundsError",
    "ImageConfig",
    "Preprocessing",
    "ResNetConfig",
    "StemConfig",
    "TextConfig",
    "config_from_dict",
    "config_to_dict",
    "described",
]

Activation = Literal["quick_gelu", "gelu", "gelu_tanh"]

# Far beyond every published model, and small enough that no tower of these sizes is more than its weights file holds.
MOST_LAYERS = 1_024
LARGEST_WIDTH = 65_536
LARGEST_IMAGE = 2_048  # pixels of a side
MOST_PATCHES = 128 * 128
LARGEST_VOCABULARY = 2**22
LONGEST_CONTEXT = 8_192
EPSILONS = (1e-12, 0.1)


def _added(default: Any) -> Any:
    """A field that came after the first release: where it has its default it is neither written nor in a fingerprint,
    so that folders and models of before stay what they are."""
    return field(default=default, metadata={"added": True})


class BoundsError(ShotfitError):
    """A number of a configuration that no tower can have. Whoever read the configuration knows from which file."""


def _bounded(what: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # NaN is not within
        raise BoundsError(f"{what} is {_short(value)}, expected {least:,} to {most:,}.")


def _short(value: object) -> str:
    """A value in a message: what is long is cut."""
    return reprlib.repr(value)


@dataclass(frozen=True)
class BlocksConfig:
    """A stack of transformer blocks.

    `norm`: each half's norm stands "before" it, x + f(norm x), or "after" it within the sum, x + norm(f(x)), or it is
    that of the "sum", norm(x + f(x)), as BERT has it.
    `gated`: the MLP's hidden vector is silu(gate x) * up x (SwiGLU). `inner_norms`: a norm before the last matrix of
    each half (sub-LN).
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation
    epsilon: float
    norm: Literal["before", "after", "sum"] = _added("before")
    gated: bool = _added(False)
    inner_norms: bool = _added(False)

    def __post_init__(self) -> None:
        _bounded("the width of a tower", self.width, 1, LARGEST_WIDTH)
        _bounded("the number of layers", self.layers, 1, MOST_LAYERS)
        _bounded("the number of attention heads", self.heads, 1, self.width)
        _bounded("the width of the MLPs", self.mlp_width, 1, 16 * LARGEST_WIDTH)
        _bounded("the epsilon of the norms", self.epsilon, *EPSILONS)
        if self.width % self.heads:
            raise BoundsError(f"a width of {self.width:,} does not divide into {self.heads:,} attention heads.")

    @property
    def silu(self) -> bool:
        """Whether the blocks' QuickGELU can run as SiLU."""
        return self.activation == "quick_gelu" and self.norm == "before" and not (self.gated or self.inner_norms)


@dataclass(frozen=True)
class ImageConfig:
    """A vision transformer.

    `pooling`: "token" reads the class token, "mean" averages the patches (class token left out), "attention" is
    SigLIP's pooling head, of `pool_heads` heads and an MLP of `pool_mlp_width` where they are not the blocks'.
    `norm_after_pool`: the last norm reads the pooled vector, not the tokens. `projection`: a matrix into the joint
    space (with a bias: `projection_bias`), else the pooled vector is the feature. `rotary`: queries and keys of patches
    are rotated by their place. `stem`: what makes a patch a token, one matrix or MobileCLIP's three convolutions.
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
    projection_bias: bool = _added(False)
    norm_after_pool: bool = _added(False)
    pool_heads: int | None = _added(None)
    pool_mlp_width: int | None = _added(None)
    rotary: bool = _added(False)
    stem: Literal["patch", "convolutions"] = _added("patch")

    def __post_init__(self) -> None:
        _bounded("image_size", self.image_size, 1, LARGEST_IMAGE)
        _bounded("the patch size", self.patch, 1, self.image_size)
        heads, hidden = (1 if size is None else size for size in (self.pool_heads, self.pool_mlp_width))
        _bounded("the number of the pooling head's attention heads", heads, 1, self.blocks.width)
        _bounded("the width of the pooling head's MLP", hidden, 1, 16 * LARGEST_WIDTH)
        if self.blocks.width % heads:
            raise BoundsError(f"a width of {self.blocks.width:,} does not divide into {self.pool_heads} heads.")
        if self.rotary and self.blocks.width // self.blocks.heads % 2:
            raise BoundsError("heads of an odd width cannot be rotated in pairs.")
        if self.stem == "convolutions" and (self.patch % 4 or self.blocks.width % 4):
            raise BoundsError("a stem of convolutions needs patches and a width of four times a number.")
        _bounded("the number of an image's patches", (self.image_size // self.patch) ** 2, 1, MOST_PATCHES)
        _bounded("the width of the joint space", self.embed, 1, LARGEST_WIDTH)


@dataclass(frozen=True)
class ResNetConfig:
    """CLIP's modified ResNet: four stages of bottlenecks and attention pooling."""

    image_size: int
    layers: tuple[int, int, int, int]
    width: int
    heads: int
    embed: int

    def __post_init__(self) -> None:
        _bounded("image_size", self.image_size, 32, LARGEST_IMAGE)
        for count in self.layers:
            _bounded("the number of a stage's blocks", count, 1, MOST_LAYERS)
        _bounded("the width of the ResNet", self.width, 2, LARGEST_WIDTH // 32)
        _bounded("the number of attention heads", self.heads, 1, 32 * self.width)
        _bounded("the width of the joint space", self.embed, 1, LARGEST_WIDTH)
        if 32 * self.width % self.heads:
            raise BoundsError(f"a width of {32 * self.width:,} does not divide into {self.heads:,} attention heads.")


@dataclass(frozen=True)
class StemConfig:
    """`mini`'s image tower: EfficientNet-Lite1 as step 0 in front of transformer blocks, read at the class token."""

    image_size: int
    blocks: BlocksConfig
    embed: int

    def __post_init__(self) -> None:
        _bounded("image_size", self.image_size, 1, LARGEST_IMAGE)
        _bounded("the width of the joint space", self.embed, 1, LARGEST_WIDTH)


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

    def __post_init__(self) -> None:
        _bounded("the size of the vocabulary", self.vocabulary, 1, LARGEST_VOCABULARY)
        _bounded("the length of a text", self.context, 1, LONGEST_CONTEXT)
        _bounded("the width of the joint space", self.embed, 1, LARGEST_WIDTH)
        _bounded("the id of the padding token", self.padding, 0, LARGEST_VOCABULARY)
        _bounded("the id of the end token", self.end or 0, 0, LARGEST_VOCABULARY)


@dataclass(frozen=True)
class BertConfig:
    """A text encoder of BERT's kind: blocks that see the whole text and none of its padding.

    `pooling`: "first" reads the first token, "mean" and "max" look at all. `pooler`: BERT's own behind it, tanh(W x).
    `final_norm`: a norm behind the pooling (AltCLIP). `projection`: "mlp" is W2 gelu(W1 x), of a width between that of
    the tower and that of the joint space; with "none" the pooled vector is the feature.
    """

    vocabulary: int
    context: int
    blocks: BlocksConfig
    embed: int
    padding: int
    pooling: Literal["first", "mean", "max"]
    pooler: bool
    final_norm: bool
    projection: Literal["none", "linear", "mlp"]
    projection_bias: bool

    def __post_init__(self) -> None:
        _bounded("the size of the vocabulary", self.vocabulary, 1, LARGEST_VOCABULARY)
        _bounded("the length of a text", self.context, 1, LONGEST_CONTEXT)
        _bounded("the width of the joint space", self.embed, 1, LARGEST_WIDTH)
        _bounded("the id of the padding token", self.padding, 0, LARGEST_VOCABULARY)
        if self.projection == "none" and self.embed != self.blocks.width:
            raise BoundsError(f"text features are {self.blocks.width:,} wide, but the joint space {self.embed:,}.")

    @property
    def causal(self) -> bool:
        """Every token sees all others."""
        return False

    @property
    def hidden(self) -> int:
        """Width between the two maps of an MLP projection."""
        return (self.blocks.width + self.embed) // 2


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

    @property
    def reducible(self) -> bool:
        """Whether a picture may be decoded at a share of its size, as long as that has pixels enough."""
        return True

    def as_json(self) -> dict[str, Any]:
        """As the record of a model has it."""
        return asdict(self)

    def __post_init__(self) -> None:
        _bounded("the size of a prepared image", self.size, 1, LARGEST_IMAGE)
        _bounded("the color that fills a frame", self.fill, 0, 255)
        for value in self.mean:
            _bounded("the mean of pixels", value, -10, 10)
        for value in self.std:
            _bounded("the standard deviation of pixels", value, -10, 10)
        if min(self.std) < 1e-3:
            raise BoundsError(
                f"The standard deviations of pixels must be above 0 (from 0.001), but the checkpoint says {self.std}."
            )


@dataclass(frozen=True)
class BackboneConfig:
    """Both towers of one checkpoint. `logit_bias`: SigLIP's, added to the scaled cosines."""

    image: ImageConfig | ResNetConfig | StemConfig
    text: TextConfig | BertConfig
    preprocessing: Preprocessing
    logit_bias: bool


# As JSON: a dataclass is an object of its fields; the image tower's says which it is under "kind". So does a text tower
# of BERT's kind; the others came first, and say nothing.
_KINDS: dict[str, type[ImageConfig] | type[ResNetConfig] | type[StemConfig]] = {
    "vit": ImageConfig,
    "resnet": ResNetConfig,
    "stem": StemConfig,
}
_BERT = "bert"

_T = TypeVar("_T")


def described(config: BackboneConfig) -> str:
    """The configuration as one line of JSON, which a fingerprint covers."""
    return json.dumps(_plain(config), sort_keys=True)


def config_to_dict(config: BackboneConfig) -> dict[str, Any]:
    """The configuration as plain JSON values; `config_from_dict` gives it back."""
    plain: dict[str, Any] = _plain(config)
    kind = next(name for name, cls in _KINDS.items() if isinstance(config.image, cls))
    plain["image"] = {"kind": kind, **plain["image"]}
    if isinstance(config.text, BertConfig):
        plain["text"] = {"kind": _BERT, **plain["text"]}
    return plain


def config_from_dict(plain: Mapping[str, Any], where: str = "The configuration") -> BackboneConfig:
    """The configuration that `config_to_dict` wrote. `where` (a file, say) begins the message of an error.

    Raises ShotfitError if an entry is missing, unknown or of another type.
    """
    if not isinstance(plain.get("image"), Mapping):
        raise ShotfitError(f"{where}: 'image' is missing or no object.")
    image = dict(plain["image"])
    kind = image.pop("kind", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ShotfitError(f"{where}: image.kind is {_short(kind)}, expected one of {', '.join(_KINDS)}.")
    tower = _build(_KINDS[kind], image, f"{where}: image.")
    text = plain.get("text")
    if isinstance(text, Mapping) and "kind" in text:
        entries = dict(text)
        if (named := entries.pop("kind")) != _BERT:
            raise ShotfitError(f"{where}: text.kind is {_short(named)}, expected {_BERT!r} or nothing.")
        text = _build(BertConfig, entries, f"{where}: text.")
    return _build(BackboneConfig, {**plain, "image": tower, "text": text}, f"{where}: ")


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {
            entry.name: _plain(getattr(value, entry.name))
            for entry in fields(value)
            if not (entry.metadata.get("added") and getattr(value, entry.name) == entry.default)
        }
    return list(value) if isinstance(value, tuple) else value


def _build(cls: type[_T], plain: Mapping[str, Any], where: str) -> _T:
    hints, given = get_type_hints(cls), fields(cast(Any, cls))
    plain = {**{entry.name: entry.default for entry in given if entry.metadata.get("added")}, **plain}
    missing, unknown = sorted(hints.keys() - plain.keys()), sorted(plain.keys() - hints.keys())
    if missing or unknown:
        problem, names = ("missing", missing) if missing else ("unknown", unknown)
        raise ShotfitError(f"{where}{first_few([str(name)[:80] for name in names])}: {problem}.")
    values = {name: _checked(plain[name], hints[name], f"{where}{name}") for name in hints}
    try:
        return cls(**values)
    except BoundsError as error:
        raise ShotfitError(f"{where.rstrip('. ')}: {error}") from None


def _checked(value: Any, hint: Any, where: str) -> Any:
    """A JSON value as the field's type, or a ShotfitError."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        if type(value) in options:  # a tower, built before
            return value
        hint, origin, options = options[0], get_origin(options[0]), get_args(options[0])
    if hasattr(hint, "__dataclass_fields__") and isinstance(value, Mapping):
        return _build(hint, value, f"{where}.")
    if origin is tuple and isinstance(value, (list, tuple)) and len(value) == len(options):
        return tuple(
            _checked(item, option, f"{where}[{index}]")
            for index, (item, option) in enumerate(zip(value, options, strict=True))
        )
    if origin is Literal and isinstance(value, str) and value in options:
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e300 else float("inf")
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    expected = " or ".join(repr(option) for option in options) if origin is Literal else getattr(hint, "__name__", hint)
    raise ShotfitError(f"{where} is {_short(value)}, expected {expected}.")
