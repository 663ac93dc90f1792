"""Text towers of BERT's kind equal the Hugging Face library's and open_clip's, on random tiny configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from shotfit.checkpoints.weights import load_backbone
from shotfit.engine.frozen import Frozen, Images
from shotfit.towers.backbone import Backbone
from shotfit.towers.layout import Savings
from shotfit.towers.texts import Texts

from .checkpoints import openai_weights
from .test_transformers_equality import features, randomized

WIDTH, EMBED, VOCABULARY, POSITIONS = 48, 16, 99, 24
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
}
CONFIGS: dict[str, Any] = {
    "bert": transformers.BertConfig(**SIZES),
    "roberta": transformers.RobertaConfig(**SIZES),
    "xlm-roberta": transformers.XLMRobertaConfig(**SIZES, type_vocab_size=1, layer_norm_eps=1e-5),
}
BOTH = pytest.mark.parametrize("savings", [Savings(), Savings.none()], ids=["savings", "none"])


def rows(padding: int, longest: int = 12) -> tuple[Tensor, Tensor]:
    """Four texts of unequal lengths filled up with padding, and which tokens are none: each [4, longest]."""
    ids = torch.randint(3, VOCABULARY, (4, longest), generator=torch.Generator().manual_seed(2))
    for row, length in enumerate((longest, 5, 2, 8)):
        ids[row, length:] = padding
    return ids, ids != padding


def same(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert float((actual - expected).abs().max() / expected.abs().max()) < tolerance


def pooled(model: Any, ids: Tensor, mask: Tensor, pooler: str) -> Tensor:
    """The text model's vector as open_clip's pooler of this name takes it."""
    output = model(input_ids=ids, attention_mask=mask.long())
    if pooler == "cls_pooler":
        found: Tensor = output.pooler_output
        return found
    hidden, among = output.last_hidden_state, mask[..., None]
    if pooler == "mean_pooler":
        return (hidden * among).sum(1) / among.sum(1)
    return hidden[:, 0] if pooler.startswith("cls") else hidden.masked_fill(~among, -torch.inf).amax(1)


def write_open_clip(folder: Path, kind: str, pooler: str, projection: str | None) -> Any:
    """An open_clip folder with the text model's configuration beside it; gives the text model and its projection."""
    config = CONFIGS[kind]
    made: Any = transformers.AutoModel
    model = randomized(made.from_config(config, add_pooling_layer=pooler == "cls_pooler"))
    head: Any = torch.nn.Identity()
    embed = WIDTH if projection is None else EMBED
    if projection == "linear":
        head = torch.nn.Linear(WIDTH, EMBED, bias=False)
    elif projection == "mlp":
        inner = (WIDTH + EMBED) // 2
        head = torch.nn.Sequential(
            torch.nn.Linear(WIDTH, inner, bias=False), torch.nn.GELU(), torch.nn.Linear(inner, EMBED, bias=False)
        )
    weights = {name: value for name, value in openai_weights().items() if name.startswith("visual.")}
    if embed != EMBED:
        weights["visual.proj"] = torch.randn(64, embed, generator=torch.Generator().manual_seed(3))
    weights |= {f"text.transformer.{name}": value for name, value in model.state_dict().items()}
    weights |= {f"text.proj.{name}": value for name, value in head.state_dict().items()}
    weights["logit_scale"] = torch.tensor(2.0)
    weights["text.transformer.embeddings.position_ids"] = torch.arange(POSITIONS)[None]  # older files have them
    model_cfg = {
        "embed_dim": embed,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": {
            "hf_model_name": "anybody/any-text-model",
            "hf_tokenizer_name": "anybody/any-text-model",
            "hf_pooler_type": pooler,
            "hf_proj_type": projection,
            "context_length": 20,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": {}}))
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "open_clip_model.safetensors")
    return torch.nn.ModuleList([model, head]).eval()


def texts_of(backbone: Backbone, ids: Tensor, savings: Savings = Savings()) -> Tensor:
    with torch.no_grad():
        return Frozen(backbone, savings=savings).text(Texts.of(ids.tolist()))


@BOTH
@pytest.mark.parametrize("pooler", ["mean_pooler", "max_pooler", "cls_pooler", "cls_last_hidden_state_pooler"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_text_model_equals_transformers(kind: str, pooler: str, savings: Savings, tmp_path: Path) -> None:
    projection = {"bert": "mlp", "roberta": "linear", "xlm-roberta": None}[kind]
    model, head = write_open_clip(tmp_path, kind, pooler, projection)
    backbone = load_backbone(tmp_path)
    ids, mask = rows(CONFIGS[kind].pad_token_id)
    with torch.no_grad():
        same(texts_of(backbone, ids, savings), head(pooled(model, ids, mask, pooler)))
        double = head.double()(pooled(model.double(), ids, mask, pooler))
    same(texts_of(backbone.double(), ids, savings), double, 1e-12)


DUAL: dict[str, Any] = {
    "chinese_clip": lambda text, vision: transformers.ChineseCLIPModel(
        transformers.ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=EMBED)
    ),
    "altclip": lambda text, vision: transformers.AltCLIPModel(
        transformers.AltCLIPConfig(
            text_config={**text, "project_dim": 20, "type_vocab_size": 1}, vision_config=vision, projection_dim=EMBED
        )
    ),
    "vision-text-dual-encoder": lambda text, vision: transformers.VisionTextDualEncoderModel(
        transformers.VisionTextDualEncoderConfig(
            text_config={**text, "model_type": "roberta"},
            vision_config={**vision, "model_type": "clip_vision_model"},
            projection_dim=EMBED,
        )
    ),
}


@BOTH
@pytest.mark.parametrize("kind", DUAL)
def test_dual_encoder_equals_transformers(kind: str, savings: Savings, tmp_path: Path) -> None:
    vision = {key: value for key, value in SIZES.items() if not key.startswith(("vocab", "max"))}
    model = randomized(DUAL[kind](SIZES, {**vision, "image_size": 32, "patch_size": 16}))
    model.save_pretrained(tmp_path)
    if kind == "vision-text-dual-encoder" and savings == Savings():  # as earlier versions of the library wrote it
        weights = load_file(tmp_path / "model.safetensors")
        older = {name.replace("vision_model.", "vision_model.vision_model."): value for name, value in weights.items()}
        save_file(older, tmp_path / "model.safetensors")
    frozen = Frozen(load_backbone(tmp_path), savings=savings)
    pixels, (ids, mask) = torch.randn(3, 3, 32, 32), rows(model.config.text_config.pad_token_id)
    with torch.no_grad():
        same(frozen.image(Images.of(pixels)), features(model.get_image_features(pixel_values=pixels)))
        text = features(model.get_text_features(input_ids=ids, attention_mask=mask.long()))
        same(frozen.text(Texts.of(ids.tolist())), text)
    same(frozen.backbone.logit_scale, model.logit_scale.detach())
