"""Numbers of a checkpoint's configuration: what no tower can have is one line, before memory is taken for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from shotfit.checkpoints.weights import load_backbone, save_backbone
from shotfit.errors import ShotfitError
from shotfit.towers.config import BlocksConfig, BoundsError

from .checkpoints import HUGGINGFACE_CONFIG, OPEN_CLIP_CONFIG, openai_weights, write_huggingface, write_open_clip
from .test_checkpoints import changed

ODD: list[Any] = [10**9, 10**18, 10**400, -1, True, "12", float("nan"), float("inf"), -1e300, 1e300, 2.5, [], {}, [[1]]]
WHOLE = [0, *ODD]

OPEN_CLIP = {
    **{f"model_cfg.vision_cfg.{name}": WHOLE for name in ("image_size", "layers", "width", "patch_size", "head_width")},
    **{f"model_cfg.text_cfg.{name}": WHOLE for name in ("context_length", "vocab_size", "width", "heads", "layers")},
    "model_cfg.embed_dim": WHOLE,
    "model_cfg.text_cfg.pad_id": ODD,
    "model_cfg.vision_cfg.timm_model_name": [*WHOLE, "vit_base_patch16_224"],  # of another size
    "model_cfg.vision_cfg.final_ln_after_pool": [value for value in WHOLE if value is not True],
    "model_cfg.vision_cfg.ls_init_value": WHOLE,  # the weights have no layer scale
    "model_cfg.text_cfg.tokenizer_kwargs": [value for value in WHOLE if value != {}] + [{"clean": 1}, {"loud": True}],
    "model_cfg.vision_cfg.mlp_ratio": [0, *(value for value in ODD if value != 2.5)],
    "model_cfg.vision_cfg.norm_kwargs": [{"eps": value} for value in WHOLE],
    "preprocess_cfg.mean": [[0.5, 0.5, value] for value in ODD if value not in (-1, 2.5)],
    "preprocess_cfg.std": [[0.5, 0.5, value] for value in WHOLE if value != 2.5],
    "preprocess_cfg.fill_color": ODD,
    "preprocess_cfg.size": [value for value in WHOLE if value != []],
}
HUGGINGFACE = {
    **{
        f"{tower}_config.{name}": WHOLE
        for tower in ("text", "vision")
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "layer_norm_eps")
    },
    **{f"text_config.{name}": WHOLE for name in ("vocab_size", "max_position_embeddings")},
    **{f"vision_config.{name}": WHOLE for name in ("image_size", "patch_size", "num_channels")},
    **{f"text_config.{name}": ODD for name in ("eos_token_id", "pad_token_id")},
    "projection_dim": WHOLE,
}
OURS = {
    **{
        f"backbone.{tower}.blocks.{name}": WHOLE
        for tower in ("image", "text")
        for name in ("width", "layers", "heads", "mlp_width", "epsilon")
    },
    **{f"backbone.image.{name}": WHOLE for name in ("image_size", "patch", "embed")},
    **{f"backbone.image.{name}": WHOLE for name in ("pool_heads", "pool_mlp_width")},
    **{
        f"backbone.image.{name}": [value for value in WHOLE if value is not True]
        for name in ("norm_after_pool", "rotary", "stem")
    },
    **{f"backbone.text.{name}": WHOLE for name in ("vocabulary", "context", "embed")},
    **{f"backbone.text.{name}": ODD for name in ("padding", "end")},
    "backbone.preprocessing.size": WHOLE,
    "backbone.preprocessing.mean": [[0.5, 0.5, value] for value in ODD if value not in (-1, 2.5)],
    "backbone.preprocessing.std": [[0.5, 0.5, value] for value in WHOLE if value != 2.5],
}


def refuses(folder: Path, file: str, config: dict[str, Any], path: str, value: Any) -> None:
    (folder / file).write_text(json.dumps(changed(config, path, value)))
    with pytest.raises(ShotfitError) as caught:
        load_backbone(folder)
    message = str(caught.value)
    assert "\n" not in message, (path, value)
    assert len(message) < 400 + len(str(folder)), (path, value)


@pytest.mark.parametrize("path", OPEN_CLIP)
def test_open_clip_s_numbers(tmp_path: Path, path: str) -> None:
    write_open_clip(tmp_path)
    for value in OPEN_CLIP[path]:
        refuses(tmp_path, "open_clip_config.json", OPEN_CLIP_CONFIG, path, value)


@pytest.mark.parametrize("path", HUGGINGFACE)
def test_hugging_face_s_numbers(tmp_path: Path, path: str) -> None:
    write_huggingface(tmp_path)
    for value in HUGGINGFACE[path]:
        refuses(tmp_path, "config.json", HUGGINGFACE_CONFIG, path, value)


@pytest.mark.parametrize("path", OURS)
def test_our_own_numbers(tmp_path: Path, path: str) -> None:
    save_backbone(load_backbone(write_open_clip(tmp_path / "given")), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for value in OURS[path]:
        refuses(tmp_path, "config.json", config, path, value)


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize("name", ["image_mean", "image_std", "size", "crop_size", "rescale_factor", "resample"])
def test_numbers_of_preprocessing(tmp_path: Path, file: str, name: str) -> None:
    write_huggingface(tmp_path)
    for value in (10**9, 10**400, -1, True, float("nan"), float("inf"), [[1]], [1e300] * 3, [-1e9] * 3, "12"):
        entries = {name: value}
        (tmp_path / file).write_text(json.dumps(entries if file[:3] == "pre" else {"image_processor": entries}))
        with pytest.raises(ShotfitError) as caught:
            load_backbone(tmp_path)
        assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_layers_are_counted_in_the_file_before_they_are_taken(tmp_path: Path) -> None:
    write_open_clip(tmp_path, config=changed(OPEN_CLIP_CONFIG, "model_cfg.text_cfg.layers", 1_000))
    with pytest.raises(ShotfitError, match=r"lacks 12 tensors: transformer\.resblocks\.2\."):
        load_backbone(tmp_path)


def test_positions_are_not_resized_beyond_bounds(tmp_path: Path) -> None:
    weights = openai_weights() | {"visual.conv1.weight": torch.zeros(64, 3, 1, 1)}
    config = changed(OPEN_CLIP_CONFIG, "model_cfg.vision_cfg.patch_size", 1)
    write_open_clip(tmp_path, weights, changed(config, "model_cfg.vision_cfg.image_size", 2_048))
    with pytest.raises(ShotfitError, match=r"the number of an image's patches is 4194304, expected 1 to 16,384"):
        load_backbone(tmp_path)


def test_a_number_out_of_bounds_names_its_file(tmp_path: Path) -> None:
    write_huggingface(tmp_path, config=changed(HUGGINGFACE_CONFIG, "text_config.num_hidden_layers", 10**9))
    with pytest.raises(ShotfitError) as caught:
        load_backbone(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: the number of layers is 1000000000, expected 1 to 1,024. The configuration is wrong, or not this "
        "checkpoint's."
    )


def test_a_tower_in_python_is_bounded_too() -> None:
    with pytest.raises(BoundsError, match="a width of 64 does not divide into 3 attention heads"):
        BlocksConfig(64, 2, 3, 256, "gelu", 1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    save_file(openai_weights() | {"logit_scale": torch.tensor(value)}, tmp_path / "clip.safetensors")
    with pytest.raises(ShotfitError, match=r"logit_scale holds numbers that are not finite"):
        load_backbone(tmp_path / "clip.safetensors")


def test_a_scale_that_makes_every_logit_infinite_is_refused(tmp_path: Path) -> None:
    save_file(openai_weights() | {"logit_scale": torch.tensor(1_000.0)}, tmp_path / "clip.safetensors")
    with pytest.raises(ShotfitError, match=r"its logit_scale is 1e\+03, expected at most 20"):
        load_backbone(tmp_path / "clip.safetensors")


# Headers of safetensors files


def entry(dtype: str = "F32", shape: list[Any] | None = None, offsets: list[Any] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [4] if shape is None else shape, "data_offsets": offsets or [0, 16]}


HEADERS: dict[str, Any] = {
    "overlapping": {"a": entry(), "b": entry(offsets=[8, 24])},
    "the same bytes": {"a": entry(), "b": entry()},
    "beyond the file": {"a": entry(shape=[2**40], offsets=[0, 2**42])},
    "a huge offset": {"a": entry(offsets=[0, 10**300])},
    "backwards": {"a": entry(offsets=[16, 0])},
    "negative": {"a": entry(offsets=[-16, 0])},
    "a product that overflows": {"a": entry(shape=[2**33, 2**33])},
    "a shape that is none": {"a": entry(shape=["4"])},
    "an unknown type": {"a": entry(dtype="F99")},
    "no entry": {"a": 3},
    "nothing": {},
    "a list": [1],
    "a long name": {"n" * 100_000: entry()},
    "control characters": {"\x1b[2J\r\n": entry()},
}


@pytest.mark.parametrize("kind", HEADERS)
def test_safetensors_of_an_odd_header_are_refused_in_a_line(tmp_path: Path, kind: str) -> None:
    header = json.dumps(HEADERS[kind]).encode()
    path = tmp_path / "clip.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(ShotfitError) as caught:
        load_backbone(path)
    assert len(str(caught.value)) < 400 + len(str(path))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("header", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff" * 10])
@pytest.mark.parametrize("length", [None, 2**63, 2**64 - 1, 50])
def test_safetensors_whose_header_is_none_are_refused_in_a_line(
    tmp_path: Path, header: bytes, length: int | None
) -> None:
    path = tmp_path / "clip.safetensors"
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header)
    with pytest.raises(ShotfitError, match=r"is truncated") as caught:
        load_backbone(path)
    assert len(str(caught.value)) < 400 + len(str(path))
