"""Checkpoints: what is read, by which rules, and the one sentence for what cannot be."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from shotfit.checkpoints.weights import load_backbone, save_backbone
from shotfit.errors import ShotfitError, UsageError
from shotfit.towers.config import ImageConfig, TextConfig, config_from_dict, config_to_dict

from .checkpoints import (
    HUGGINGFACE_CONFIG,
    OPEN_CLIP_CONFIG,
    huggingface_weights,
    openai_weights,
    write_huggingface,
    write_open_clip,
)


def changed(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a configuration with the entry at a dotted path set."""
    copied = copy.deepcopy(config)
    *sections, name = path.split(".")
    section = copied
    for key in sections:
        section = section.setdefault(key, {})
    section[name] = value
    return copied


def image_config(folder: Path) -> ImageConfig:
    image = load_backbone(folder).config.image
    assert isinstance(image, ImageConfig)
    return image


# What is read


def test_the_same_weights_in_two_formats_give_the_same_towers(tmp_path: Path) -> None:
    torch.save(openai_weights(), tmp_path / "clip.pt")
    one, other = load_backbone(tmp_path / "clip.pt"), load_backbone(write_huggingface(tmp_path / "hf"))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_openai_sizes_follow_from_shapes(tmp_path: Path) -> None:
    torch.save(openai_weights(), tmp_path / "clip.pt")
    config = load_backbone(tmp_path / "clip.pt").config
    assert isinstance(config.image, ImageConfig)
    assert (config.image.image_size, config.image.patch, config.image.blocks.heads) == (32, 16, 1)
    assert (config.text.vocabulary, config.text.context, config.text.embed) == (40, 10, 16)


def test_openai_integer_entries_are_ignored(tmp_path: Path) -> None:
    entries = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(10), "vocab_size": 40}
    torch.save(openai_weights() | entries, tmp_path / "clip.pt")
    assert load_backbone(tmp_path / "clip.pt").embed == 16


def test_half_precision_is_widened(tmp_path: Path) -> None:
    torch.save({name: value.half() for name, value in openai_weights().items()}, tmp_path / "clip.pt")
    backbone = load_backbone(tmp_path / "clip.pt")
    assert {value.dtype for value in backbone.state_dict().values()} == {torch.float32}


def test_training_checkpoint_of_a_wrapped_model_loads(tmp_path: Path) -> None:
    wrapped = {f"module.{name}": value for name, value in openai_weights().items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": wrapped}, tmp_path / "epoch_3.pt")
    torch.save(openai_weights(), tmp_path / "clip.pt")
    assert load_backbone(tmp_path / "epoch_3.pt").fingerprint == load_backbone(tmp_path / "clip.pt").fingerprint


def test_safetensors_win_over_a_pickled_file(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path)
    torch.save(huggingface_weights(seed=1), folder / "pytorch_model.bin")
    positions = load_backbone(folder).state_dict()["text.positions"]
    assert torch.equal(positions, openai_weights(seed=0)["positional_embedding"])


def test_pickled_hugging_face_weights_load(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path)
    expected = load_backbone(folder).fingerprint
    (folder / "model.safetensors").unlink()
    torch.save(huggingface_weights(), folder / "pytorch_model.bin")
    assert load_backbone(folder).fingerprint == expected


def test_folder_of_both_libraries_is_read_as_open_clip(tmp_path: Path) -> None:
    write_huggingface(tmp_path)
    write_open_clip(tmp_path)
    assert image_config(tmp_path).blocks.activation == "gelu"  # open_clip's default; Hugging Face's is quick_gelu


def test_safetensors_of_one_library_win_over_the_other_s_pickled_file(tmp_path: Path) -> None:
    write_huggingface(tmp_path)
    write_open_clip(tmp_path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    torch.save(openai_weights(), tmp_path / "open_clip_pytorch_model.bin")
    assert image_config(tmp_path).blocks.activation == "quick_gelu"


def test_weights_file_of_a_folder_is_read_with_its_configuration(tmp_path: Path) -> None:
    write_huggingface(tmp_path)
    write_open_clip(tmp_path)
    assert image_config(tmp_path / "open_clip_model.safetensors").blocks.activation == "gelu"
    assert image_config(tmp_path / "model.safetensors").blocks.activation == "quick_gelu"


def test_open_clips_file_without_its_configuration_is_refused(tmp_path: Path) -> None:
    save_file(openai_weights(), tmp_path / "open_clip_model.safetensors")
    with pytest.raises(ShotfitError, match=r"what its tensors do stands in open_clip_config\.json"):
        load_backbone(tmp_path / "open_clip_model.safetensors")


def test_open_clip_resizes_positions_of_another_grid(tmp_path: Path) -> None:
    config = changed(OPEN_CLIP_CONFIG, "model_cfg.vision_cfg.image_size", 64)
    backbone = load_backbone(write_open_clip(tmp_path, config=config))
    resized, given = backbone.state_dict()["image.embedding.positions"], openai_weights()["visual.positional_embedding"]
    assert resized.shape == (17, 64)
    assert torch.equal(resized[0], given[0])  # the class token's
    torch.testing.assert_close(resized[1:].mean(0), given[1:].mean(0))


def test_hugging_face_does_not_resize_positions(tmp_path: Path) -> None:
    config = changed(HUGGINGFACE_CONFIG, "vision_config.image_size", 64)
    with pytest.raises(ShotfitError, match=r"position_embedding\.weight has shape \[5, 64\], .* asks for \[17, 64\]"):
        load_backbone(write_huggingface(tmp_path, config=config))


def test_absent_entries_have_the_library_s_defaults(tmp_path: Path) -> None:
    config = load_backbone(write_huggingface(tmp_path)).config
    assert config.text.blocks.activation == "quick_gelu"
    assert config.text.blocks.epsilon == 1e-5
    assert isinstance(config.text, TextConfig) and (config.text.pooling, config.text.end) == ("end", 39)


def test_end_token_2_means_the_largest_id(tmp_path: Path) -> None:
    config = changed(HUGGINGFACE_CONFIG, "text_config.eos_token_id", 2)
    assert load_backbone(write_huggingface(tmp_path, config=config)).config.text.pooling == "largest"


def test_early_config_dict_decides_with_its_defaults(tmp_path: Path) -> None:
    own = {**HUGGINGFACE_CONFIG["text_config"], "hidden_act": "gelu"}
    config = changed(HUGGINGFACE_CONFIG, "text_config_dict", own)
    config = changed(config, "text_config.layer_norm_eps", 1e-3)
    blocks = load_backbone(write_huggingface(tmp_path, config=config)).config.text.blocks
    assert (blocks.activation, blocks.epsilon) == ("gelu", 1e-5)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"size": 32, "crop_size": 32, "resample": 3}, "shortest"),
        ({"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}, "shortest"),
        ({"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}}, "squash"),
        ({}, "shortest"),
    ],
)
def test_preprocessing_in_old_and_new_spelling(tmp_path: Path, entry: dict[str, Any], expected: str) -> None:
    folder = write_huggingface(tmp_path)
    (folder / "preprocessor_config.json").write_text(json.dumps(entry))
    assert load_backbone(folder).config.preprocessing.resize == expected


def test_preprocessing_of_the_shared_processor_file(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path)
    processor = {"image_processor": {"image_mean": [0.1, 0.2, 0.3], "size": {"shortest_edge": 32}}}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    assert load_backbone(folder).config.preprocessing.mean == (0.1, 0.2, 0.3)


def test_preprocessing_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path)
    (folder / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 224}, "crop_size": 32}')
    with pytest.raises(ShotfitError, match=r"size is .*224.*, expected the image tower's size \(32\)"):
        load_backbone(folder)


# What is refused


def test_truncated_safetensors_are_named_with_their_size(tmp_path: Path) -> None:
    path = write_huggingface(tmp_path) / "model.safetensors"
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[: whole // 2])
    with pytest.raises(ShotfitError, match=rf"truncated \(expected {whole:,} bytes, found {whole // 2:,}\)"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("length", [0, 7, 300])
def test_file_cut_within_its_header_is_refused(tmp_path: Path, length: int) -> None:
    path = write_huggingface(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ShotfitError, match=r"model\.safetensors is truncated, damaged or no safetensors file"):
        load_backbone(tmp_path)


def test_truncated_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    torch.save(openai_weights(), path)
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(ShotfitError, match=r"clip\.pt is truncated, damaged"):
        load_backbone(path)


def test_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    path = write_huggingface(tmp_path) / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 605157884\n")
    with pytest.raises(ShotfitError, match="git lfs pull"):
        load_backbone(tmp_path)


def test_missing_tensors_are_counted_and_named(tmp_path: Path) -> None:
    weights = huggingface_weights()
    del weights["visual_projection.weight"], weights["text_model.encoder.layers.1.self_attn.k_proj.bias"]
    with pytest.raises(ShotfitError, match=r"lacks 2 tensors: visual_projection\.weight, .*k_proj\.bias\. It is trunc"):
        load_backbone(write_huggingface(tmp_path, weights))


def test_left_over_tensors_are_counted_and_named(tmp_path: Path) -> None:
    weights = openai_weights() | {"visual.adapter.weight": torch.zeros(2), "more": torch.zeros(1)}
    with pytest.raises(ShotfitError, match=r"holds 2 tensors that this architecture has no place for: .*more"):
        load_backbone(write_open_clip(tmp_path, weights))


def test_names_of_tensors_are_shown_short_and_without_control_characters(tmp_path: Path) -> None:
    weights = openai_weights() | {"\x1b[2J\r\n": torch.zeros(1), "n" * 5_000: torch.zeros(1)}
    with pytest.raises(ShotfitError) as caught:
        load_backbone(write_open_clip(tmp_path, weights))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_an_unused_block_is_left_over(tmp_path: Path) -> None:
    config = changed(HUGGINGFACE_CONFIG, "vision_config.num_hidden_layers", 1)
    with pytest.raises(ShotfitError, match=r"has no place for: vision_model\.encoder\.layers\.1\."):
        load_backbone(write_huggingface(tmp_path, config=config))


def test_another_architecture_is_refused_as_openai(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.weight": torch.zeros(10, 64)}, tmp_path / "resnet.pt")
    with pytest.raises(ShotfitError, match=r"resnet\.pt lacks text_projection: it is truncated, or another arch"):
        load_backbone(tmp_path / "resnet.pt")


def test_another_architecture_s_weights_are_refused_as_hugging_face(tmp_path: Path) -> None:
    with pytest.raises(ShotfitError, match=r"lacks \d+ tensors: .*; it holds 1 others, such as fc\.weight"):
        load_backbone(write_huggingface(tmp_path, {"fc.weight": torch.zeros(10, 64)}))


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    weights = openai_weights()
    weights["visual.proj"] = weights["visual.proj"].to(torch.int8)
    with pytest.raises(ShotfitError, match=r"visual\.proj is torch\.int8, expected floating-point"):
        load_backbone(write_open_clip(tmp_path, weights))


def test_siglip_2_of_any_shape_is_refused_and_told_what_to_take(tmp_path: Path) -> None:
    config = changed(HUGGINGFACE_CONFIG, "model_type", "siglip2")
    with pytest.raises(ShotfitError, match=r"NaFlex.*take SigLIP 2 of a fixed size"):
        load_backbone(write_huggingface(tmp_path, config=config))


@pytest.mark.parametrize("name", ["clipseg", "align", "bert", None])
def test_other_model_types_are_refused_by_name(tmp_path: Path, name: str | None) -> None:
    config = changed(HUGGINGFACE_CONFIG, "model_type", name)
    with pytest.raises(ShotfitError, match=f"model_type {name!r} is not supported"):
        load_backbone(write_huggingface(tmp_path, config=config))


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("vision_cfg.attentional_pool", True),
        ("vision_cfg.qk_norm", True),
        ("text_cfg.block_type", "custom"),
        ("text_cfg.embed_cls", True),
        ("an_entry_of_tomorrow", 1),
    ],
)
def test_open_clip_entries_that_are_not_implemented_are_refused_by_name(tmp_path: Path, entry: str, value: Any) -> None:
    config = changed(OPEN_CLIP_CONFIG, f"model_cfg.{entry}", value)
    with pytest.raises(ShotfitError, match=rf"{entry.rpartition('.')[2]} = .* is not supported"):
        load_backbone(write_open_clip(tmp_path, config=config))


@pytest.mark.parametrize("value", [None, False])
def test_open_clip_entries_that_are_off_are_accepted(tmp_path: Path, value: object) -> None:
    config = changed(OPEN_CLIP_CONFIG, "model_cfg.vision_cfg.attentional_pool", value)
    assert load_backbone(write_open_clip(tmp_path, config=config)).embed == 16


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("vision_config.num_attention_heads", 5, r"num_attention_heads is 5, expected a divisor of hidden_size \(64\)"),
        ("vision_config.hidden_size", "64", "hidden_size is '64', expected a whole number"),
        ("vision_config.hidden_act", "relu", "hidden_act is 'relu', expected one of gelu"),
        ("vision_config.image_size", [32, 64], "image_size is .*, expected a square"),
        ("vision_config.num_channels", 4, "num_channels is 4, expected 3"),
        ("text_config", "clip", "text_config is 'clip', expected an object"),
    ],
)
def test_configuration_of_another_type_is_one_sentence(tmp_path: Path, path: str, value: Any, message: str) -> None:
    with pytest.raises(ShotfitError, match=message):
        load_backbone(write_huggingface(tmp_path, config=changed(HUGGINGFACE_CONFIG, path, value)))


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00"])
def test_damaged_configuration_is_one_sentence(tmp_path: Path, content: str) -> None:
    folder = write_huggingface(tmp_path)
    (folder / "config.json").write_text(content)
    with pytest.raises(ShotfitError, match=r"config\.json (is not|holds no) JSON"):
        load_backbone(folder)


def shard(folder: Path) -> dict[str, str]:
    """Splits a folder's weights into two shards with an index, which is returned."""
    weights = sorted(huggingface_weights().items())
    (folder / "model.safetensors").unlink()
    parts = {"model-00001-of-00002.safetensors": weights[:20], "model-00002-of-00002.safetensors": weights[20:]}
    for name, part in parts.items():
        save_file(dict(part), folder / name)
    index = {name: file for file, part in parts.items() for name, _ in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return index


def test_shards_equal_one_file(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path)
    whole = load_backbone(folder).fingerprint
    shard(folder)
    assert load_backbone(folder).fingerprint == whole


def test_missing_shard_is_named(tmp_path: Path) -> None:
    shard(write_huggingface(tmp_path))
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ShotfitError, match=r"model-00002-of-00002\.safetensors is missing"):
        load_backbone(tmp_path)


def test_index_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    index = shard(write_huggingface(tmp_path))
    index["logit_scale"] = "../elsewhere.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ShotfitError, match="weight_map must name a file of the same folder"):
        load_backbone(tmp_path)


def test_folder_without_a_checkpoint_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ShotfitError, match=r"holds no checkpoint: expected config\.json"):
        load_backbone(tmp_path)


def test_folder_without_weights_says_what_was_expected(tmp_path: Path) -> None:
    (write_huggingface(tmp_path) / "model.safetensors").unlink()
    with pytest.raises(ShotfitError, match=r"has config\.json, but no weights: .*model\.safetensors"):
        load_backbone(tmp_path)


def test_revision_of_a_local_folder_is_a_wrong_call(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave the revision out"):
        load_backbone(write_huggingface(tmp_path), revision="main")


# Our own form


def test_saved_backbone_opens_as_the_same(tmp_path: Path) -> None:
    backbone = load_backbone(write_open_clip(tmp_path / "given"))
    save_backbone(backbone, tmp_path / "saved")
    assert load_backbone(tmp_path / "saved").fingerprint == backbone.fingerprint


def test_interrupted_save_leaves_nothing_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone(write_open_clip(tmp_path / "given"))
    save_backbone(backbone, tmp_path / "saved")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shotfit.checkpoints.saved.write_atomically", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_backbone(backbone, tmp_path / "saved")
    with pytest.raises(ShotfitError, match="holds no checkpoint"):
        load_backbone(tmp_path / "saved")


def test_saved_backbone_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    save_backbone(load_backbone(write_open_clip(tmp_path / "given")), tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(record | {"version": 99}))
    with pytest.raises(ShotfitError, match="written by a newer shotfit"):
        load_backbone(tmp_path)


def test_saved_backbone_without_a_tensor_is_refused(tmp_path: Path) -> None:
    backbone = load_backbone(write_open_clip(tmp_path / "given"))
    save_backbone(backbone, tmp_path)
    weights = {name: value for name, value in backbone.state_dict().items() if name != "text.positions"}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ShotfitError, match=r"lacks 1 tensor.*: text\.positions"):
        load_backbone(tmp_path)


def test_configuration_as_json_comes_back(tmp_path: Path) -> None:
    config = load_backbone(write_open_clip(tmp_path)).config
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("image.kind", "cnn", "image.kind is 'cnn', expected one of vit"),
        ("image.patch", "16", "image.patch is '16', expected int"),
        ("image.pooling", "max", "image.pooling is 'max', expected 'token' or"),
        ("image.extra", 1, "extra: unknown"),
        ("text.causal", 1, "text.causal is 1, expected bool"),
        ("preprocessing.mean", [0.5, 0.5], r"preprocessing.mean is \[0.5, 0.5\], expected tuple"),
    ],
)
def test_configuration_that_is_not_ours_is_one_sentence(tmp_path: Path, path: str, value: Any, message: str) -> None:
    plain = config_to_dict(load_backbone(write_open_clip(tmp_path)).config)
    with pytest.raises(ShotfitError, match=message):
        config_from_dict(changed(plain, path, value))


# What is asked of a checkpoint beyond its place


def small_architecture(patch: pytest.MonkeyPatch) -> None:
    model = OPEN_CLIP_CONFIG["model_cfg"] | {"quick_gelu": True}
    table = {"ViT-tiny": {"model_cfg": model}, "ViT-other": {"model_cfg": {"embed_dim": 16}}}
    patch.setattr("shotfit.checkpoints.asked._table", lambda: table)


def test_weights_alone_are_read_as_the_architecture_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_architecture(monkeypatch)
    torch.save(openai_weights(), tmp_path / "remote.pt")
    asked = load_backbone(tmp_path / "remote.pt", architecture="ViT-tiny")
    described = load_backbone(
        write_open_clip(tmp_path / "folder", config=changed(OPEN_CLIP_CONFIG, "preprocess_cfg", {}))
    )
    assert isinstance(asked.config.image, ImageConfig) and asked.config.image.blocks.activation == "quick_gelu"
    assert all(torch.equal(value, described.state_dict()[name]) for name, value in asked.state_dict().items())
    again = load_backbone(asked.name)
    assert (again.name, again.fingerprint) == (f"{tmp_path}/remote.pt#architecture=ViT-tiny", asked.fingerprint)


def test_an_architecture_that_is_not_known_is_refused_with_close_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_architecture(monkeypatch)
    torch.save(openai_weights(), tmp_path / "remote.pt")
    with pytest.raises(UsageError, match="There is no architecture ViT-tinny: did you mean ViT-tiny"):
        load_backbone(f"{tmp_path}/remote.pt#architecture=ViT-tinny")
    with pytest.raises(UsageError, match="is for a file of weights alone"):
        load_backbone(write_huggingface(tmp_path / "folder"), architecture="ViT-tiny")


def test_an_unfitting_architecture_is_refused_by_shapes(tmp_path: Path) -> None:
    torch.save(openai_weights(), tmp_path / "remote.pt")
    with pytest.raises(ShotfitError, match=r"visual\.\S+ has shape .*, but the configuration asks for"):
        load_backbone(tmp_path / "remote.pt", architecture="ViT-B-32")


def test_a_configuration_that_only_maps_to_code_gives_way_to_open_clips(tmp_path: Path) -> None:
    write_open_clip(tmp_path)
    (tmp_path / "open_clip_model.safetensors").rename(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "custom", "auto_map": {"AutoModel": "code.Model"}}))
    assert load_backbone(tmp_path).config.image == load_backbone(write_open_clip(tmp_path / "plain")).config.image


def test_two_tables_of_positions_are_one_from_place_20_on(tmp_path: Path) -> None:
    weights = openai_weights()
    first, second = torch.randn(30, 64), torch.randn(30, 64)
    torch.save(weights | {"positional_embedding": first, "positional_embedding_res": second}, tmp_path / "long.pt")
    positions = load_backbone(tmp_path / "long.pt").text.positions
    assert torch.equal(positions, torch.cat([first[:20], second[20:]]))
    torch.save(weights | {"positional_embedding_res": second}, tmp_path / "odd.pt")
    with pytest.raises(ShotfitError, match="must be two tables of one size"):
        load_backbone(tmp_path / "odd.pt")
