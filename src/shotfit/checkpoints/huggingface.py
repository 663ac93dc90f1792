"""Hugging Face checkpoints of CLIP, MetaCLIP 2, SigLIP and SigLIP 2 (of a fixed size), and of CLIP's image tower with a
text tower of BERT's kind (`bert_text.py`): `config.json` and the weights.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv 2103.00020;
Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, arXiv 2303.15343; Chuang et al., "MetaCLIP 2: A
Worldwide Scaling Recipe", arXiv 2507.22062.

`config.json` leaves out what equals the library's defaults, so those stand here. `preprocessor_config.json` (or the
`image_processor` part of `processor_config.json`) says how images are prepared, in an older and a newer spelling; a
folder that has neither is prepared by the library's defaults at the configuration's image size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor

from shotfit.checkpoints.bert_text import (
    DUAL_ENCODERS,
    TEXT_MODELS,
    BertTables,
    bert_of_dual_encoder,
    image_names,
    take_dual_encoder,
)
from shotfit.checkpoints.openai import CLIP_MEAN, CLIP_STD
from shotfit.checkpoints.settings import Settings, read_json, shown
from shotfit.checkpoints.state_dict import StateDict
from shotfit.checkpoints.tokenizers import TokenizerKind
from shotfit.checkpoints.unread import Tensors
from shotfit.errors import ShotfitError
from shotfit.towers.config import (
    Activation,
    BackboneConfig,
    BertConfig,
    BlocksConfig,
    ImageConfig,
    Preprocessing,
    TextConfig,
)

__all__ = ["CONFIG", "WEIGHTS", "describes", "read_huggingface", "tokenizer_kind"]

CONFIG = "config.json"
# the first that exists is read
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

_ACTIVATIONS: dict[str, Activation] = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",  # the same formula, written out
}

_CLIP_TEXT = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "eos_token_id": 49407,
}
_CLIP_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_SIGLIP_TEXT = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "pad_token_id": 1,
}
_SIGLIP_VISION = {
    **{name: value for name, value in _SIGLIP_TEXT.items() if name not in ("vocab_size", "max_position_embeddings")},
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "vision_use_head": True,
}
_TOKENIZERS: dict[str, TokenizerKind] = {
    **{"clip": "clip", "metaclip_2": "pieces:plain", "siglip": "siglip"},
    **dict.fromkeys(DUAL_ENCODERS, "pieces:plain"),
}
_WRONG_END = 2  # an end token that older configurations carry by mistake: the library then reads the largest id

_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_PROCESSORS = {
    "CLIPFeatureExtractor": "clip",
    "CLIPImageProcessor": "clip",
    "CLIPImageProcessorFast": "clip",
    "CLIPImageProcessorPil": "clip",
    "ChineseCLIPFeatureExtractor": "clip",
    "ChineseCLIPImageProcessor": "clip",
    "ChineseCLIPImageProcessorFast": "clip",
    "ChineseCLIPImageProcessorPil": "clip",
    "SiglipImageProcessor": "siglip",
    "SiglipImageProcessorFast": "siglip",
    "SiglipImageProcessorPil": "siglip",
}


def model_type(folder: Path) -> str:
    """Which of the architectures a folder holds. Raises ShotfitError for any other, by name."""
    settings = read_json(folder / CONFIG)
    found = settings.raw("model_type", None)
    if found == "siglip2":
        raise ShotfitError(
            f"{settings.where}: model_type 'siglip2' (NaFlex) reads images of any shape, which is not supported; take "
            "SigLIP 2 of a fixed size, such as google/siglip2-base-patch16-224."
        )
    if not isinstance(found, str) or found not in _TOKENIZERS:
        raise ShotfitError(
            f"{settings.where}: model_type {shown(found)} is not supported, expected one of "
            f"{', '.join(map(repr, _TOKENIZERS))}, with both towers."
        )
    return found


def describes(folder: Path) -> bool:
    """Whether the configuration describes a model, and neither its text tower alone nor where code for one is."""
    settings = read_json(folder / CONFIG)
    found = settings.raw("model_type", None)
    return not settings.has("auto_map") and found is not None and found not in TEXT_MODELS


def tokenizer_kind(folder: Path) -> TokenizerKind:
    """By which rules the folder's texts are read."""
    return _TOKENIZERS[model_type(folder)]


def read_huggingface(
    folder: Path, tensors: Callable[[], Tensors], where: str
) -> tuple[BackboneConfig, dict[str, Tensor]]:
    """Configuration and weights (shotfit's names) of a Hugging Face folder.

    tensors: reads those of the weights file `where`, once the configuration is known to be one that is supported.

    Raises ShotfitError if the model is of another type, if its configuration asks for something that is not
    implemented, or if the weights are damaged, lack a tensor or have one too many.
    """
    kind, settings = model_type(folder), read_json(folder / CONFIG)
    text: TextConfig | BertConfig
    tables: BertTables | None = None
    if kind in DUAL_ENCODERS:
        text, tables = bert_of_dual_encoder(settings, kind, _tower(settings, "text", {}))
        image = _clip_image(_tower(settings, "vision", _CLIP_VISION), text.embed)
    else:
        image, text = _siglip_configs(settings) if kind == "siglip" else _clip_configs(settings, kind == "clip")
    prepared = _preprocessing(folder, "siglip" if kind == "siglip" else "clip", image.image_size)
    config = BackboneConfig(image, text, prepared, logit_bias=kind == "siglip")
    return config, _convert(tensors(), config, where, kind, tables)


def _tower(settings: Settings, name: str, defaults: dict[str, Any]) -> Settings:
    """One tower's entries over the library's defaults.

    Early configurations also have `text_config_dict` and `vision_config_dict`; where there is one the library takes
    all that it knows from it, defaults included.
    """
    given = settings.section(f"{name}_config", {}).entries
    given = {key: value for key, value in given.items() if value is not None}
    if settings.has(f"{name}_config_dict"):
        given = settings.section(f"{name}_config_dict").entries
    return Settings({**defaults, **given}, f"{settings.where}: {name}_config")


def _blocks(tower: Settings) -> BlocksConfig:
    width, heads = tower.integer("hidden_size"), tower.integer("num_attention_heads")
    if width % heads:
        raise tower.error("num_attention_heads", f"a divisor of hidden_size ({width})")
    return BlocksConfig(
        width,
        tower.integer("num_hidden_layers"),
        heads,
        tower.integer("intermediate_size"),
        _ACTIVATIONS[tower.choice("hidden_act", _ACTIVATIONS)],
        tower.number("layer_norm_eps"),
    )


def _patches(vision: Settings) -> tuple[int, int]:
    """Image size and patch size."""
    size, patch = vision.square("image_size"), vision.square("patch_size")
    if patch > size:
        raise vision.error("patch_size", f"no more than image_size ({size})")
    if vision.integer("num_channels") != 3:
        raise vision.error("num_channels", "3")
    return size, patch


def _clip_image(vision: Settings, embed: int) -> ImageConfig:
    size, patch = _patches(vision)
    return ImageConfig(size, patch, _blocks(vision), embed, True, False, True, "token", projection=True)


def _clip_configs(settings: Settings, older: bool) -> tuple[ImageConfig, TextConfig]:
    """CLIP's, or MetaCLIP 2's. older: a configuration may carry the wrong end token."""
    text, embed = _tower(settings, "text", _CLIP_TEXT), settings.integer("projection_dim", 512)
    end = text.integer("eos_token_id", least=0)
    wrong = older and end == _WRONG_END
    return (
        _clip_image(_tower(settings, "vision", _CLIP_VISION), embed),
        TextConfig(
            text.integer("vocab_size"),
            text.integer("max_position_embeddings"),
            _blocks(text),
            embed,
            causal=True,
            pooling="largest" if wrong else "end",
            end=None if wrong else end,
            padding=text.integer("pad_token_id", least=0),
            projection_bias=False,
        ),
    )


def _siglip_configs(settings: Settings) -> tuple[ImageConfig, TextConfig]:
    text, vision = _tower(settings, "text", _SIGLIP_TEXT), _tower(settings, "vision", _SIGLIP_VISION)
    if not vision.flag("vision_use_head", True):
        raise vision.error("vision_use_head", "true: without its pooling head the image tower has no feature")
    (size, patch), blocks = _patches(vision), _blocks(vision)
    embed = text.integer("projection_size", text.integer("hidden_size"))
    if embed != blocks.width:
        raise ShotfitError(f"{settings.where}: text features are {embed} wide, image features {blocks.width}.")
    return (
        ImageConfig(size, patch, blocks, embed, False, True, False, "attention", projection=False),
        TextConfig(
            text.integer("vocab_size"),
            text.integer("max_position_embeddings"),
            _blocks(text),
            embed,
            causal=False,
            pooling="last",
            end=None,
            padding=text.integer("pad_token_id", least=0),
            projection_bias=True,
        ),
    )


def _preprocessing(folder: Path, kind: Literal["clip", "siglip"], size: int) -> Preprocessing:
    settings = _processor(folder)
    if settings.has("image_processor_type") or settings.has("feature_extractor_type"):
        name = settings.raw("image_processor_type", settings.raw("feature_extractor_type", None))
        if not isinstance(name, str) or name not in _PROCESSORS:
            raise ShotfitError(f"{settings.where}: the image processor {shown(name)} is not supported.")
        kind = cast(Literal["clip", "siglip"], _PROCESSORS[name])
    if not settings.flag("do_resize", True) or not settings.flag("do_rescale", True):
        raise ShotfitError(f"{settings.where}: do_resize and do_rescale must be true.")
    if abs(settings.number("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise settings.error("rescale_factor", "1/255")
    resample = settings.raw("resample", 3)
    if not isinstance(resample, int) or resample not in _RESAMPLE:
        raise settings.error("resample", "2 (bilinear) or 3 (bicubic)")
    clip_like = kind == "clip"
    mean, std = (CLIP_MEAN, CLIP_STD) if clip_like else ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    mean, std = settings.triple("image_mean", mean), settings.triple("image_std", std)
    if not settings.flag("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return Preprocessing(
        size,
        mean,
        std,
        cast(Any, _RESAMPLE[resample]),
        _resize(settings, size, clip_like),
        crop_offset="floor",
        rgb="first",
        transparency="white",
    )


def _processor(folder: Path) -> Settings:
    """The image processor's entries: in a file of its own, or within the newer `processor_config.json`."""
    own, shared = folder / "preprocessor_config.json", folder / "processor_config.json"
    if own.is_file():
        return read_json(own)
    if shared.is_file() and read_json(shared).has("image_processor"):
        return read_json(shared).section("image_processor")
    return Settings({}, f"{folder}: the default image processor")


def _resize(settings: Settings, size: int, crops: bool) -> Literal["shortest", "squash"]:
    """How an image becomes size x size. CLIP's processor crops unless told otherwise, SigLIP's does not."""
    given = settings.raw("size", {"shortest_edge": size} if crops else {"height": size, "width": size})
    crop = settings.flag("do_center_crop", crops)
    if isinstance(given, int) and crops:
        given = {"shortest_edge": given}
    shortest = isinstance(given, dict) and given.get("shortest_edge") is not None
    edge = Settings({"size": given["shortest_edge"] if shortest else given}, settings.where).square("size")
    if edge != size:
        raise settings.error("size", f"the image tower's size ({size})")
    if crop and settings.square("crop_size", size) != size:
        raise settings.error("crop_size", f"the image tower's size ({size})")
    if shortest and not crop:
        raise settings.error("do_center_crop", "true where size is the shortest edge")
    return "shortest" if shortest else "squash"


def _convert(
    tensors: Tensors, config: BackboneConfig, where: str, kind: str, tables: BertTables | None
) -> dict[str, Tensor]:
    image, text = config.image, config.text
    assert isinstance(image, ImageConfig)
    weights = StateDict(tensors if tables is None else image_names(tensors), where)
    weights.drop(r"(vision|text)_model\.embeddings\.position_ids")
    converted = _take_image(weights, image)
    if isinstance(text, BertConfig):
        assert tables is not None
        converted |= take_dual_encoder(weights, kind, text, tables)
    else:
        converted |= _take_text(weights, text)
    converted["logit_scale"] = weights.take("logit_scale")
    if config.logit_bias:
        converted["logit_bias"] = weights.take("logit_bias")
    weights.close()
    return converted


def _take_text(weights: StateDict, text: TextConfig) -> dict[str, Tensor]:
    width, embeddings = text.blocks.width, "text_model.embeddings."
    taken = {
        "text.token_embedding.weight": weights.take(f"{embeddings}token_embedding.weight", text.vocabulary, width),
        "text.positions": weights.take(f"{embeddings}position_embedding.weight", text.context, width),
    }
    taken |= _take_blocks(weights, "text_model.encoder.layers.", "text.blocks.", text.blocks)
    taken |= weights.layer("text_model.final_layer_norm", "text.final_norm", width)
    if text.projection_bias:
        return taken | weights.layer("text_model.head", "text.projection", text.embed, width)
    return taken | {"text.projection.weight": weights.take("text_projection.weight", text.embed, width)}


def _take_image(weights: StateDict, image: ImageConfig) -> dict[str, Tensor]:
    width, patch, grid = image.blocks.width, image.patch, image.image_size // image.patch
    embeddings = "vision_model.embeddings."
    taken = {
        "image.embedding.patch.weight": weights.take(f"{embeddings}patch_embedding.weight", width, 3, patch, patch),
        "image.embedding.positions": weights.take(
            f"{embeddings}position_embedding.weight", grid * grid + image.class_token, width
        ),
    }
    if image.class_token:
        taken["image.embedding.class_token"] = weights.take(f"{embeddings}class_embedding", width)
    if image.patch_bias:
        taken["image.embedding.patch.bias"] = weights.take(f"{embeddings}patch_embedding.bias", width)
    if image.pre_norm:
        taken |= weights.layer("vision_model.pre_layrnorm", "image.embedding.norm", width)  # the library's spelling
    taken |= _take_blocks(weights, "vision_model.encoder.layers.", "image.blocks.", image.blocks)
    taken |= weights.layer("vision_model.post_layernorm", "image.post_norm", width)
    if image.projection:
        taken["image.projection.weight"] = weights.take("visual_projection.weight", image.embed, width)
    if image.pooling == "attention":
        head, hidden = "vision_model.head.", image.blocks.mlp_width
        taken["image.pool.probe"] = weights.take(f"{head}probe", 1, 1, width).reshape(width)
        taken["image.pool.attention.qkv.weight"] = weights.take(f"{head}attention.in_proj_weight", 3 * width, width)
        taken["image.pool.attention.qkv.bias"] = weights.take(f"{head}attention.in_proj_bias", 3 * width)
        taken |= weights.layer(f"{head}attention.out_proj", "image.pool.attention.out", width, width)
        taken |= weights.layer(f"{head}layernorm", "image.pool.norm", width)
        taken |= weights.layer(f"{head}mlp.fc1", "image.pool.mlp.up", hidden, width)
        taken |= weights.layer(f"{head}mlp.fc2", "image.pool.mlp.down", width, hidden)
    return taken


def _take_blocks(weights: StateDict, source: str, target: str, blocks: BlocksConfig) -> dict[str, Tensor]:
    width, hidden = blocks.width, blocks.mlp_width
    taken: dict[str, Tensor] = {}
    for index in weights.blocks(source, blocks.layers):
        old, new = f"{source}{index}.", f"{target}{index}."
        for norm in ("1", "2"):
            taken |= weights.layer(f"{old}layer_norm{norm}", f"{new}norm{norm}", width)
        names = [f"{old}self_attn.{name}_proj" for name in "qkv"]
        taken |= weights.stacked(names, f"{new}attention.qkv", width, width)
        taken |= weights.layer(f"{old}self_attn.out_proj", f"{new}attention.out", width, width)
        taken |= weights.layer(f"{old}mlp.fc1", f"{new}mlp.up", hidden, width)
        taken |= weights.layer(f"{old}mlp.fc2", f"{new}mlp.down", width, hidden)
    return taken
