"""open_clip's checkpoints: `open_clip_config.json` beside the weights, under OpenAI's names.

Ilharco et al., OpenCLIP, 2021, doi 10.5281/zenodo.5143773.

The configuration decides everything that OpenAI's files leave unsaid: the activation (exact GELU unless `quick_gelu`),
head and MLP widths, pooling, the causal mask. An entry that changes a tower in a way that shotfit does not implement,
or that is not known here, is refused by name: a checkpoint is never loaded with half of its rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional

from shotfit.checkpoints.bert_text import OPEN_CLIP, BertTables, bert_of_open_clip, open_clip_projection, take_bert
from shotfit.checkpoints.cleaning import CLEANINGS
from shotfit.checkpoints.openai import CLIP_MEAN, CLIP_STD, IGNORED, take_resnet, take_text, take_vit
from shotfit.checkpoints.settings import Settings, shown
from shotfit.checkpoints.state_dict import StateDict
from shotfit.checkpoints.timm_trunks import take_trunk, trunk_config
from shotfit.checkpoints.tokenizers import TokenizerKind
from shotfit.checkpoints.unread import Tensors, content_of
from shotfit.errors import ShotfitError
from shotfit.towers.config import (
    Activation,
    BackboneConfig,
    BertConfig,
    BlocksConfig,
    ImageConfig,
    Preprocessing,
    ResNetConfig,
    TextConfig,
)

__all__ = ["CONFIG", "WEIGHTS", "read_open_clip", "tokenizer_kind"]

CONFIG = "open_clip_config.json"
# the first that exists is read; LAION's older repositories use the second name
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")

# entries that are read; every other one must be absent, null, or have the value that changes nothing
_MODEL = {
    "embed_dim",
    "vision_cfg",
    "text_cfg",
    "quick_gelu",
    "custom_text",
    "init_logit_scale",
    "init_logit_bias",
    "nonscalar_logit_scale",
    "cast_dtype",
    "output_dict",
    "multimodal_cfg",  # CoCa's half that writes captions, which is left out
}
_VISION = {
    "image_size",
    "layers",
    "width",
    "head_width",
    "mlp_ratio",
    "patch_size",
    "pool_type",
    "no_ln_pre",
    "act_kwargs",
    "norm_kwargs",
    "patch_dropout",
    "output_tokens",
    "ls_init_value",
    "final_ln_after_pool",
    "timm_model_name",
    "timm_pool",
    "timm_proj",
    "timm_proj_bias",
}
_TEXT = {
    "context_length",
    "vocab_size",
    "width",
    "heads",
    "layers",
    "mlp_ratio",
    "pool_type",
    "no_causal_mask",
    "proj_type",
    "proj_bias",
    "ls_init_value",
    "hf_tokenizer_name",
    "tokenizer_kwargs",
    "pad_id",
    "eos_id",
    "act_kwargs",
    "norm_kwargs",
    "output_tokens",
}
_NEUTRAL: dict[str, Any] = {"pos_embed_type": "learnable", "hf_model_pretrained": True}
# of models that are refused by another entry, or that say how training began
_WITHOUT_EFFECT = {
    "attn_pooler_heads",
    "attn_pooler_queries",
    "timm_drop",
    "timm_drop_path",
    "timm_model_pretrained",
    "hf_model_pretrained",
    "hf_pooler_type",
    "hf_proj_type",
}
_PREPROCESS = {"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"}


def read_open_clip(
    settings: Settings, tensors: Callable[[], Tensors], where: str, folder: Path | None = None
) -> tuple[BackboneConfig, dict[str, Tensor]]:
    """Configuration and weights (shotfit's names) of an open_clip checkpoint.

    settings: of its `open_clip_config.json`. tensors: reads those of the weights file `where`, once the configuration
    is known to be one that is supported. folder: where the configuration of a text model of another library may lie.

    Raises ShotfitError if the configuration asks for something that is not implemented, by name, or if the weights are
    damaged, lack a tensor or have one too many.
    """
    model = settings.section("model_cfg")
    _refuse(model, _MODEL)
    vision, text = model.section("vision_cfg", {}), model.section("text_cfg", {})
    _refuse(vision, _VISION)
    named = text.has("hf_model_name")
    _refuse(text, OPEN_CLIP if named else _TEXT)
    image_config = _image_config(model, vision)
    bert = bert_of_open_clip(text, model.integer("embed_dim"), folder) if named else None
    config = BackboneConfig(
        image_config,
        bert[0] if bert else _text_config(model, text),
        _preprocessing(settings.section("preprocess_cfg", {}), image_config.image_size),
        logit_bias=model.has("init_logit_bias"),
    )
    read = tensors()
    if isinstance(image_config, ImageConfig):
        read = _resized_positions(read, image_config)
    return config, _convert(read, config, where, model, bert[1] if bert else None)


def tokenizer_kind(settings: Settings) -> TokenizerKind:
    """By which rules texts are read: CLIP's, or those of a tokenizer that the configuration names.

    Raises ShotfitError for a way of cleaning that is not known.
    """
    text = settings.section("model_cfg").section("text_cfg", {})
    options = text.section("tokenizer_kwargs", {})
    if unknown := sorted(options.entries.keys() - {"clean", "strip_sep_token"}):
        raise ShotfitError(f"{options.where}: {unknown[0][:80]} is not known, so texts might be read wrongly.")
    if not text.has("hf_tokenizer_name") and not text.has("hf_model_name"):
        if options.entries:
            raise text.error("tokenizer_kwargs", "none without hf_tokenizer_name")
        return "clip"
    clean = options.choice("clean", CLEANINGS, "whitespace")
    if not options.flag("strip_sep_token", False):
        return cast(TokenizerKind, f"pieces:{clean}")
    if clean != "whitespace":
        raise options.error("clean", "whitespace where separators are stripped")
    return "pieces:stripped"


def _refuse(settings: Settings, known: set[str]) -> None:
    """Raises ShotfitError for an entry that would change the model and is not implemented."""
    for name, value in settings.entries.items():
        if name in known or name in _WITHOUT_EFFECT or value is None or value is False:
            continue
        if name in _NEUTRAL and value == _NEUTRAL[name]:
            continue
        raise ShotfitError(
            f"{settings.where}: {name[:80]} = {shown(value)} is not supported. shotfit reads open_clip's own ViT, "
            "ResNet and text towers, and some of timm's; docs/backbones.md lists them."
        )


def _blocks(settings: Settings, width: int, heads: int, quick_gelu: bool) -> BlocksConfig:
    if heads < 1 or width % heads:
        raise ShotfitError(f"{settings.where}: a width of {width} does not divide into {heads} heads.")
    activation: Activation = "quick_gelu" if quick_gelu else "gelu"
    options = settings.section("act_kwargs", {})
    if options.entries:
        approximate = options.choice("approximate", ("none", "tanh"))
        if options.entries.keys() != {"approximate"} or quick_gelu:
            raise settings.error("act_kwargs", "approximate alone, without quick_gelu")
        activation = "gelu_tanh" if approximate == "tanh" else "gelu"
    norm = settings.section("norm_kwargs", {})
    if norm.entries.keys() - {"eps"}:
        raise settings.error("norm_kwargs", "eps alone")
    mlp_width = int(width * settings.number("mlp_ratio", 4.0))
    return BlocksConfig(width, settings.integer("layers", 12), heads, mlp_width, activation, norm.number("eps", 1e-5))


def _image_config(model: Settings, vision: Settings) -> ImageConfig | ResNetConfig:
    embed, width = model.integer("embed_dim"), vision.integer("width", 768)
    if vision.has("timm_model_name"):
        return trunk_config(vision, embed)
    head_width, size = vision.integer("head_width", 64), vision.square("image_size", 224)
    layers = vision.raw("layers", 12)
    if isinstance(layers, list):
        if len(layers) != 4 or any(not isinstance(count, int) or count < 1 for count in layers):
            raise vision.error("layers", "four numbers of blocks, or one number of layers")
        heads = width * 32 // head_width
        if heads < 1 or width * 32 % heads or size % 32 or width % 2:
            raise ShotfitError(
                f"{vision.where}: width {width}, head_width {head_width} and image_size {size} disagree."
            )
        first, second, third, fourth = layers
        return ResNetConfig(size, (first, second, third, fourth), width, heads, embed)
    patch = vision.square("patch_size", 16)
    if patch > size:
        raise vision.error("patch_size", f"no more than image_size ({size})")
    pooling = {"tok": "token", "avg": "mean"}[vision.choice("pool_type", ("tok", "avg"), "tok")]
    return ImageConfig(
        size,
        patch,
        _blocks(vision, width, width // head_width, model.flag("quick_gelu", False)),
        embed,
        class_token=True,
        patch_bias=False,
        pre_norm=not vision.flag("no_ln_pre", False),
        pooling=cast(Literal["token", "mean"], pooling),
        projection=True,
        norm_after_pool=vision.flag("final_ln_after_pool", False) and pooling == "mean",
    )


def _text_config(model: Settings, text: Settings) -> TextConfig:
    width, embed = text.integer("width", 512), model.integer("embed_dim")
    projection = text.choice("proj_type", ("linear", "none"), "linear") == "linear"
    if not projection and width != embed:
        raise ShotfitError(
            f"{text.where}: text features without a projection are {width} wide, but embed_dim is {embed}."
        )
    words = {"argmax": "largest", "eos": "end", "first": "first", "last": "last"}
    pooling = words[text.choice("pool_type", words, "argmax")]
    return TextConfig(
        text.integer("vocab_size", 49408),
        text.integer("context_length", 77),
        _blocks(text, width, text.integer("heads", 8), model.flag("quick_gelu", False)),
        embed,
        causal=not text.flag("no_causal_mask", False),
        pooling=cast(Literal["largest", "end", "first", "last"], pooling),
        end=text.integer("eos_id", 2, least=0) if pooling == "end" else None,
        padding=text.integer("pad_id", 0, least=0),
        projection_bias=projection and text.flag("proj_bias", False),
    )


def _preprocessing(settings: Settings, size: int) -> Preprocessing:
    unknown = [name for name in settings.entries if name not in _PREPROCESS]
    if unknown:
        raise ShotfitError(f"{settings.where}: {unknown[0][:80]} is not known, so images might be prepared wrongly.")
    if settings.has("size"):
        given = settings.raw("size")
        channels_first = isinstance(given, list) and len(given) == 3  # [3, height, width] in some files
        named = Settings({"size": given[1:] if channels_first else given}, settings.where).square("size")
        if named != size:
            raise settings.error("size", f"vision_cfg's image_size ({size})")
    settings.choice("mode", ("RGB",), "RGB")
    return Preprocessing(
        size,
        settings.triple("mean", CLIP_MEAN),
        settings.triple("std", CLIP_STD),
        cast(Any, settings.choice("interpolation", ("bicubic", "bilinear"), "bicubic")),
        cast(Any, settings.choice("resize_mode", ("shortest", "squash", "longest"), "shortest")),
        crop_offset="round",
        rgb="last",
        transparency="drop",
        fill=settings.integer("fill_color", 0, least=0),
    )


def _resized_positions(tensors: Tensors, image: ImageConfig) -> Tensors:
    """Fits image positions of another grid, as open_clip does: bicubic, antialiased, the class token's kept."""
    name, grid = "visual.positional_embedding", image.image_size // image.patch
    shape = tuple(tensors[name].shape) if name in tensors else ()
    side = math.isqrt(max(shape[0] - 1, 0)) if len(shape) == 2 else 0
    if side in (0, grid) or side * side != shape[0] - 1:
        return tensors  # fitting, or no grid: the shape is refused with the others
    positions = content_of(tensors[name]).float()
    table = positions[1:].T.reshape(1, -1, side, side)
    resized = functional.interpolate(table, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return {**tensors, name: torch.cat([positions[:1], resized.flatten(2)[0].T])}


def _convert(
    tensors: Tensors, config: BackboneConfig, where: str, model: Settings, tables: BertTables | None
) -> dict[str, Tensor]:
    weights = StateDict(tensors, where)
    weights.drop(*IGNORED)
    if model.has("multimodal_cfg"):
        weights.drop(r"text_decoder\..*")
    image, vision, text = config.image, model.section("vision_cfg", {}), model.section("text_cfg", {})
    if vision.has("timm_model_name"):
        assert isinstance(image, ImageConfig)
        converted = take_trunk(weights, vision.raw("timm_model_name"), image, head=not vision.raw("timm_proj", ""))
    elif isinstance(image, ImageConfig):
        converted = take_vit(weights, image, vision.has("ls_init_value"))
    else:
        assert isinstance(image, ResNetConfig)
        converted = take_resnet(weights, image)
    if isinstance(config.text, BertConfig):
        assert tables is not None
        converted |= take_bert(weights, "text.transformer.", config.text, tables)
        converted |= open_clip_projection(weights, config.text)
    else:
        custom = model.flag("custom_text", False)  # older files of such models have the text tower's own names
        prefix = "text." if custom and "positional_embedding" not in tensors else ""
        projection = text.raw("proj_type", "linear") == "linear"
        converted |= take_text(weights, config.text, prefix, text.has("ls_init_value"), projection)
    converted["logit_scale"] = weights.take("logit_scale")
    if config.logit_bias:
        converted["logit_bias"] = weights.take("logit_bias")
    weights.close()
    return converted
