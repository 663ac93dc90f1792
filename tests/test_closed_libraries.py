"""Encoders of libraries are read as they were trained: where a library would go on with another activation, with
weights drawn at random, or with texts that it does not clean, shotfit does not."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import transformers

from shotfit.checkpoints.weights import load_backbone
from shotfit.engine.frozen import Frozen
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError

from .originals import open_clip
from .test_tokenizer_originals import bert, t5

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_a_tag_of_open_clips_has_the_activation_that_it_was_trained_with(tmp_path: Path) -> None:
    """open_clip warns of `ViT-B-32@openai` that its activation is another, and goes on."""
    (tmp_path / "tiny-quick.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "tiny-quick.json")
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-quick", force_quick_gelu=True)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    tags = {"tiny-quick": {"openai": {"quick_gelu": True}, "laion": {"hf_hub": "x"}}}
    with (
        mock.patch.dict(open_clip.pretrained._PRETRAINED, tags),
        mock.patch.object(open_clip.factory, "download_pretrained", lambda *_, **__: str(tmp_path / "weights.pt")),
    ):
        read = [_text(f"open_clip:tiny-quick@{tag}", "a dog") for tag in ("openai", "laion")]
    with torch.no_grad():
        expected = model.eval().encode_text(open_clip.get_tokenizer("tiny-quick")(["a dog"]))
    assert torch.allclose(read[0], expected, atol=1e-6)
    assert not torch.allclose(read[1], expected, atol=1e-3)


def test_a_folder_of_open_clips_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {}}))
    with pytest.raises(ShotfitError, match=r"cannot be loaded by open_clip .*Required pretrained weights"):
        load_backbone(f"open_clip:local-dir:{tmp_path}")


def siglip(folder: Path) -> Path:
    """A folder of transformers with a tokenizer that leaves texts as they are."""
    t5(folder)
    both = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text: dict[str, Any] = {"vocab_size": 400, "max_position_embeddings": 24, "projection_size": 16}
    config = transformers.SiglipConfig(text_config=both | text, vision_config=both | {"image_size": 32})
    torch.manual_seed(1)
    transformers.SiglipModel(config).save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_siglip_of_transformers_reads_texts_as_it_was_trained(tmp_path: Path) -> None:
    folder = siglip(tmp_path)
    first, second, other = (_text(f"transformers:{folder}", text) for text in ("A Photo.", "a photo", "a dog"))
    assert torch.equal(first, second) and not torch.allclose(first, other, atol=1e-3)


def test_align_divides_by_its_temperature(tmp_path: Path) -> None:
    bert(tmp_path)
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {"image_size": 32, "width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 16}
    config = transformers.AlignConfig(
        text_config=text | {"vocab_size": 400}, vision_config=vision, projection_dim=32, temperature_init_value=0.05
    )
    torch.manual_seed(1)
    model = transformers.AlignModel(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    model.save_pretrained(tmp_path)
    transformers.EfficientNetImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    backbone = load_backbone(f"transformers:{tmp_path}")
    assert float(backbone.logit_scale.exp()) == pytest.approx(20)


def test_a_folder_of_transformers_without_a_tower_is_refused(tmp_path: Path) -> None:
    folder = siglip(tmp_path)
    model = transformers.SiglipModel.from_pretrained(folder)
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith("vision_model")}
    model.save_pretrained(folder, state_dict=kept)
    with pytest.raises(ShotfitError, match=r"lacks \d+ tensors, which the library would draw at random: vision_model"):
        load_backbone(f"transformers:{folder}")


def _text(name: str, text: str) -> torch.Tensor:
    frozen = Frozen(load_backbone(name), MemoryStore())
    return frozen.text(frozen.encode([text]))
