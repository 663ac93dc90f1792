"""Towers equal the Hugging Face library's CLIPModel and SiglipModel on random tiny configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from shotfit.checkpoints.weights import load_backbone
from shotfit.engine.frozen import Frozen, Images
from shotfit.towers.layout import Savings
from shotfit.towers.texts import Texts

SIZES: list[dict[str, Any]] = [
    {"width": 48, "heads": 3, "layers": 3, "mlp": 80, "patch": 8, "embed": 24},
    {"width": 64, "heads": 1, "layers": 1, "mlp": 256, "patch": 16, "embed": 40},
]


def configuration(kind: Any, size: dict[str, Any], **more: Any) -> Any:
    text = {"vocab_size": 99, "max_position_embeddings": 12, "hidden_size": size["width"] // 2}
    both = {"intermediate_size": size["mlp"], "num_hidden_layers": size["layers"], "num_attention_heads": size["heads"]}
    vision = {"hidden_size": size["width"], "image_size": 32, "patch_size": size["patch"]}
    special = {"bos_token_id": 97, "eos_token_id": 98, "pad_token_id": 98}
    return kind(
        text_config=text | both | more | special, vision_config=vision | both | more, projection_dim=size["embed"]
    )


def same(actual: Tensor, expected: Tensor) -> None:
    assert float((actual - expected).abs().max() / expected.abs().max()) < 1e-5


def randomized(model: Any) -> Any:
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() > 0:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def features(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("size", SIZES, ids=["three-blocks", "one-block"])
@pytest.mark.parametrize("savings", [Savings(), Savings.none()], ids=["savings", "none"])
def test_clip_equals_transformers(activation: str, size: dict[str, Any], savings: Savings, tmp_path: Path) -> None:
    config = configuration(transformers.CLIPConfig, size, hidden_act=activation)
    model = randomized(transformers.CLIPModel(config))
    model.save_pretrained(tmp_path)
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path)
    frozen = Frozen(load_backbone(str(tmp_path)), savings=savings)
    pixels, ids = torch.randn(3, 3, 32, 32), torch.randint(1, 97, (4, 12))
    ids[:, 0], ids[0, 5:], ids[1:, 8:] = 97, 98, 98
    with torch.no_grad():
        same(frozen.image(Images.of(pixels)), features(model.get_image_features(pixel_values=pixels)))
        same(frozen.text(Texts.of(ids.tolist())), features(model.get_text_features(input_ids=ids)))


def test_metaclip_2_equals_transformers(tmp_path: Path) -> None:
    special = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # an end that is the wrong one of CLIP's
    config = configuration(transformers.MetaClip2Config, SIZES[0], hidden_act="gelu")
    for name, token in special.items():
        setattr(config.text_config, name, token)
    model = randomized(transformers.MetaClip2Model(config))
    model.save_pretrained(tmp_path)
    frozen = Frozen(load_backbone(str(tmp_path)))
    pixels, ids = torch.randn(3, 3, 32, 32), torch.randint(3, 97, (4, 12))
    ids[:, 0], ids[:, 8], ids[:, 9:] = 0, 2, 1
    with torch.no_grad():
        same(frozen.image(Images.of(pixels)), features(model.get_image_features(pixel_values=pixels)))
        same(frozen.text(Texts.of(ids.tolist())), features(model.get_text_features(input_ids=ids)))


@pytest.mark.parametrize("size", SIZES[:1])
def test_siglip_equals_transformers(size: dict[str, Any], tmp_path: Path) -> None:
    size = size | {"width": 48, "heads": 2}
    text = {"vocab_size": 99, "max_position_embeddings": 12, "projection_size": 48}
    both = {
        "hidden_size": 48,
        "intermediate_size": size["mlp"],
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"],
    }
    vision = {"image_size": 32, "patch_size": size["patch"]}
    config = transformers.SiglipConfig(text_config=text | both, vision_config=vision | both)
    model = randomized(transformers.SiglipModel(config))
    model.save_pretrained(tmp_path)
    transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path))
    frozen = Frozen(backbone)
    pixels, ids = torch.randn(3, 3, 32, 32), torch.randint(2, 99, (4, 12))
    ids[0, 6:] = 1
    with torch.no_grad():
        same(frozen.image(Images.of(pixels)), features(model.get_image_features(pixel_values=pixels)))
        same(frozen.text(Texts.of(ids.tolist())), features(model.get_text_features(input_ids=ids)))
        assert backbone.logit_bias is not None
        joint = model(input_ids=ids, pixel_values=pixels).logits_per_image
        ours = frozen.logits(frozen.image(Images.of(pixels)), frozen.text(Texts.of(ids.tolist()))) + backbone.logit_bias
        same(ours, joint)
