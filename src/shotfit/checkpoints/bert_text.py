"""Text towers of BERT's kind in checkpoints of other libraries: BERT, RoBERTa and XLM-RoBERTa.

open_clip's configuration names such a tower and leaves its sizes to the Hugging Face library (`hf_model_name`). Here
they come from the text model's own `config.json` beside the weights, or for a name of `KNOWN` from that table. Either
way the weights must have the same sizes. Names are compared and never fetched, and code that a configuration names
(`auto_map`) is never run.

The Hugging Face library's own dual encoders have theirs in their configuration: Chinese-CLIP (Yang et al., 2022, arXiv
2211.01335), AltCLIP (Chen et al., 2022, arXiv 2211.06679) and `VisionTextDualEncoder`.

RoBERTa counts positions from the padding's id on, so the rows of its table up to that one are left out. Of the types of
tokens only the first is taken: a text is one segment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from shotfit.checkpoints.settings import Settings, read_json, shown
from shotfit.checkpoints.state_dict import StateDict
from shotfit.checkpoints.unread import Tensors
from shotfit.errors import ShotfitError
from shotfit.towers.config import Activation, BertConfig, BlocksConfig

__all__ = [
    "DUAL_ENCODERS",
    "KNOWN",
    "OPEN_CLIP",
    "TEXT_MODELS",
    "BertTables",
    "bert_of_dual_encoder",
    "bert_of_open_clip",
    "bert_sizes",
    "image_names",
    "open_clip_projection",
    "take_bert",
    "take_dual_encoder",
]

CONFIG = "config.json"

_BASE: Mapping[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
# What each architecture's configuration leaves out equals these, the library's defaults.
_DEFAULTS: dict[str, Mapping[str, Any]] = {
    "bert": _BASE,
    "roberta": {**_BASE, "vocab_size": 50265, "pad_token_id": 1},
    "xlm-roberta": {**_BASE, "pad_token_id": 1},
}
TEXT_MODELS = tuple(_DEFAULTS)  # by the library's `model_type`

_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_ROBERTA = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
_XLM = {**_ROBERTA, "vocab_size": 250002}

# Architecture, and what differs from its defaults, of the names that open_clip's configurations use. The sizes are
# those of the papers (`towers/bert.py`; PubMedBERT: Gu et al., 2020, arXiv 2007.15779, a BERT-base of its own words).
KNOWN: dict[str, tuple[str, Mapping[str, Any]]] = {
    "bert-base-uncased": ("bert", {}),
    "bert-large-uncased": ("bert", _LARGE),
    "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract": ("bert", {}),
    "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract-fulltext": ("bert", {}),
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract": ("bert", {}),
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext": ("bert", {}),
    "roberta-base": ("roberta", _ROBERTA),
    "roberta-large": ("roberta", {**_ROBERTA, **_LARGE}),
    "xlm-roberta-base": ("xlm-roberta", _XLM),
    "xlm-roberta-large": ("xlm-roberta", {**_XLM, **_LARGE}),
}
# Hugging Face's models of CLIP's image tower with such a text tower, which must be of one of these architectures.
DUAL_ENCODERS = ("chinese_clip", "altclip", "vision-text-dual-encoder")

_OWNERS = ("google-bert/", "FacebookAI/")  # under which the library's own names were moved

_ACTIVATIONS: dict[str, Activation] = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}

# Entries of open_clip's text_cfg that belong to such a tower. Sizes in it are of open_clip's own and have no effect.
OPEN_CLIP = {
    "hf_model_name",
    "hf_tokenizer_name",
    "hf_model_pretrained",
    "hf_proj_type",
    "hf_pooler_type",
    "context_length",
    "output_tokens",
    "vocab_size",
    "width",
    "heads",
    "layers",
}
# open_clip's word: where the tower is read, and whether BERT's own pooler stands behind it
_POOLERS: dict[str, tuple[Literal["first", "mean", "max"], bool]] = {
    "mean_pooler": ("mean", False),
    "max_pooler": ("max", False),
    "cls_pooler": ("first", True),
    "cls_last_hidden_state_pooler": ("first", False),
}
_CONTEXT = 77  # tokens of open_clip's texts, unless its configuration says otherwise


@dataclass(frozen=True)
class BertTables:
    """Sizes of a text tower of BERT's kind as its library writes them.

    `positions`: rows of the table of positions, of which the first `skipped` belong to padding. `types`: of tokens.
    """

    vocabulary: int
    positions: int
    skipped: int
    types: int
    padding: int
    blocks: BlocksConfig

    def text(self, embed: int, context: int, **rest: Any) -> BertConfig:
        """The tower's configuration; `context` at most. rest: pooling and what stands behind it."""
        room = self.positions - self.skipped
        return BertConfig(self.vocabulary, min(context, room), self.blocks, embed, self.padding, **rest)


def bert_sizes(settings: Settings, kind: str) -> BertTables:
    """The sizes in a text model's configuration.

    kind: "bert", "roberta" or "xlm-roberta", whose defaults the configuration leaves out. Raises ShotfitError for
    one that is no such encoder, or one with code of its own.
    """
    if settings.has("auto_map"):
        raise _has_code(settings)
    given = {key: value for key, value in settings.entries.items() if value is not None}
    settings = Settings({**_DEFAULTS[kind], **given}, settings.where)
    settings.choice("position_embedding_type", ("absolute",), "absolute")
    for name in ("is_decoder", "add_cross_attention"):
        if settings.flag(name, False):
            raise settings.error(name, "false")
    width, heads = settings.integer("hidden_size"), settings.integer("num_attention_heads")
    if width % heads:
        raise settings.error("num_attention_heads", f"a divisor of hidden_size ({width})")
    padding = settings.integer("pad_token_id", least=0)
    skipped = 0 if kind == "bert" else padding + 1
    positions = settings.integer("max_position_embeddings")
    if positions <= skipped:
        raise settings.error("max_position_embeddings", f"more than the {skipped} rows that belong to padding")
    blocks = BlocksConfig(
        width,
        settings.integer("num_hidden_layers"),
        heads,
        settings.integer("intermediate_size"),
        _ACTIVATIONS[settings.choice("hidden_act", _ACTIVATIONS)],
        settings.number("layer_norm_eps"),
        norm="sum",
    )
    types = settings.integer("type_vocab_size")
    return BertTables(settings.integer("vocab_size"), positions, skipped, types, padding, blocks)


def _has_code(settings: Settings) -> ShotfitError:
    return ShotfitError(
        f"{settings.where} names code of its own (auto_map), which shotfit does not run: take a checkpoint of BERT, "
        "RoBERTa or XLM-RoBERTa as the library has them."
    )


def bert_of_open_clip(text: Settings, embed: int, folder: Path | None) -> tuple[BertConfig, BertTables]:
    """The text tower that open_clip's `text_cfg` names, by the configuration in `folder` or by its name.

    Raises ShotfitError for a pooler, projection or text model that is not known.
    """
    tables = _named(text, folder)
    default = "cls_pooler" if tables.skipped == 0 else "mean_pooler"  # of an entry that is null: by architecture
    unsaid = "hf_pooler_type" not in text.entries
    pooling, pooler = _POOLERS[text.choice("hf_pooler_type", _POOLERS, "mean_pooler" if unsaid else default)]
    unsaid = "hf_proj_type" not in text.entries
    projection: Any = text.choice("hf_proj_type", ("linear", "mlp", "none"), "mlp" if unsaid else "none")
    return (
        tables.text(
            embed,
            text.integer("context_length", _CONTEXT),
            pooling=pooling,
            pooler=pooler,
            final_norm=False,
            projection=projection,
            projection_bias=False,
        ),
        tables,
    )


def _named(text: Settings, folder: Path | None) -> BertTables:
    name = text.raw("hf_model_name")
    if folder is not None and (folder / CONFIG).is_file():
        settings = read_json(folder / CONFIG)
        kind = settings.raw("model_type", None)
        if isinstance(kind, str) and kind in _DEFAULTS:
            return bert_sizes(settings, kind)
    plain = name
    for owner in _OWNERS:
        plain = plain.removeprefix(owner) if isinstance(plain, str) else plain
    if not isinstance(plain, str) or plain not in KNOWN:
        raise ShotfitError(
            f"{text.where}: hf_model_name {shown(name)} is no text tower whose sizes shotfit knows. If it is BERT, "
            f"RoBERTa or XLM-RoBERTa, put its {CONFIG} beside the weights; docs/backbones.md lists what is read."
        )
    kind, sizes = KNOWN[plain]
    return bert_sizes(Settings(sizes, f"{text.where}: hf_model_name {name}"), kind)


def take_bert(weights: StateDict, prefix: str, text: BertConfig, tables: BertTables) -> dict[str, Tensor]:
    """The tower under `prefix` (with a dot at its end) by the Hugging Face library's names, projection apart."""
    source = re.escape(prefix)
    weights.drop(rf"{source}embeddings\.(position|token_type)_ids")
    if not text.pooler:
        weights.drop(rf"{source}pooler\.dense\.(weight|bias)")
    width, hidden, first = text.blocks.width, text.blocks.mlp_width, tables.skipped
    embeddings = f"{prefix}embeddings."
    positions = weights.take(f"{embeddings}position_embeddings.weight", tables.positions, width)
    taken = {
        "text.token_embedding.weight": weights.take(f"{embeddings}word_embeddings.weight", text.vocabulary, width),
        "text.positions": positions[first : first + text.context].contiguous(),
        "text.token_type": weights.take(f"{embeddings}token_type_embeddings.weight", tables.types, width)[0].clone(),
        **weights.layer(f"{embeddings}LayerNorm", "text.embedding_norm", width),
    }
    for index in weights.blocks(f"{prefix}encoder.layer.", text.blocks.layers):
        old, new = f"{prefix}encoder.layer.{index}.", f"text.blocks.{index}."
        names = [f"{old}attention.self.{name}" for name in ("query", "key", "value")]
        taken |= weights.stacked(names, f"{new}attention.qkv", width, width)
        taken |= weights.layer(f"{old}attention.output.dense", f"{new}attention.out", width, width)
        taken |= weights.layer(f"{old}attention.output.LayerNorm", f"{new}norm1", width)
        taken |= weights.layer(f"{old}intermediate.dense", f"{new}mlp.up", hidden, width)
        taken |= weights.layer(f"{old}output.dense", f"{new}mlp.down", width, hidden)
        taken |= weights.layer(f"{old}output.LayerNorm", f"{new}norm2", width)
    if text.pooler:
        taken |= weights.layer(f"{prefix}pooler.dense", "text.pooler.0", width, width)
    return taken


def open_clip_projection(weights: StateDict, text: BertConfig) -> dict[str, Tensor]:
    """open_clip's `text.proj`: a matrix, two with GELU between them, or none."""
    width, source, target = text.blocks.width, "text.proj.", "text.projection."
    if text.projection == "none":
        return {}
    if text.projection == "linear":
        return {f"{target}weight": weights.take(f"{source}weight", text.embed, width)}
    return {
        f"{target}0.weight": weights.take(f"{source}0.weight", text.hidden, width),
        f"{target}2.weight": weights.take(f"{source}2.weight", text.embed, text.hidden),
    }


def bert_of_dual_encoder(settings: Settings, kind: str, text: Settings) -> tuple[BertConfig, BertTables]:
    """The text tower of one of `DUAL_ENCODERS`. settings: the whole configuration, text: that of the text tower."""
    if settings.has("auto_map"):
        raise _has_code(settings)
    embed, architecture, more = settings.integer("projection_dim", 512), "bert", dict[str, Any]()
    if kind == "altclip":
        embed, architecture, more = settings.integer("projection_dim", 768), "xlm-roberta", {**_XLM, **_LARGE}
    if kind == "vision-text-dual-encoder":
        settings.section("vision_config").choice("model_type", ("clip_vision_model",))
        architecture = text.choice("model_type", _DEFAULTS)
    tables = bert_sizes(Settings({**more, **text.entries}, text.where), architecture)
    config = tables.text(
        embed,
        tables.positions,
        pooling="first",
        pooler=kind == "vision-text-dual-encoder",
        final_norm=kind == "altclip",
        projection="linear",
        projection_bias=kind == "altclip",
    )
    return config, tables


def image_names(tensors: Tensors) -> Tensors:
    """The tensors of a dual encoder with the image tower's names as CLIP has them.

    `VisionTextDualEncoder` used to write its image tower's name twice, and AltCLIP's blocks are `layer` in newer files.
    """
    twice, layer = r"^vision_model\.vision_model\.", r"^(vision_model\.encoder\.)layer\."
    return {re.sub(layer, r"\1layers.", re.sub(twice, "vision_model.", name)): value for name, value in tensors.items()}


def take_dual_encoder(weights: StateDict, kind: str, text: BertConfig, tables: BertTables) -> dict[str, Tensor]:
    """The text tower of one of `DUAL_ENCODERS`."""
    if kind != "altclip":
        taken = take_bert(weights, "text_model.", text, tables)
        projection = weights.take("text_projection.weight", text.embed, text.blocks.width)
        return taken | {"text.projection.weight": projection}
    width, prefix = text.blocks.width, "text_model."
    taken = take_bert(weights, f"{prefix}roberta.", text, tables)
    taken |= weights.layer(f"{prefix}pre_LN", "text.final_norm", width)
    # Two matrices with nothing between them: the first has a bias, and the width of the teacher.
    inner, _ = weights.shape(f"{prefix}transformation.weight", 2)
    first = weights.layer(f"{prefix}transformation", "first", inner, width)
    second = weights.take("text_projection.weight", text.embed, inner)
    if not any(part.is_meta for part in (second, *first.values())):
        taken["text.projection.weight"] = (second.double() @ first["first.weight"].double()).float()
        taken["text.projection.bias"] = (second.double() @ first["first.bias"].double()).float()
    return taken
