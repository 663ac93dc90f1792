"""Checkpoints in the layouts in which they are published: which files of a folder or repository are read."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor

from shotfit.checkpoints.names import NAMES, find
from shotfit.checkpoints.openai import CLIP_MEAN
from shotfit.checkpoints.weights import load_backbone, load_known
from shotfit.errors import ActivationWarning, UsageError
from shotfit.testing.tiny import tiny_backbone
from shotfit.towers.config import BackboneConfig

from .checkpoints import (
    OPEN_CLIP_CONFIG,
    huggingface_weights,
    openai_weights,
    write_huggingface,
    write_open_clip,
)
from .test_hub import snapshot

WEIGHTS = openai_weights()


@pytest.fixture
def fingerprint(tmp_path: Path) -> str:
    """Of the weights in open_clip's own layout."""
    return load_backbone(write_open_clip(tmp_path / "plain")).fingerprint


def written(folder: Path, **files: Any) -> Path:
    """A folder of JSON files, by their names without the ending, and of open_clip's configuration."""
    folder.mkdir()
    for name, content in {"open_clip_config": OPEN_CLIP_CONFIG, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("saved", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "vit_base_patch16_clip_224", "num_classes": 16, "pretrained_cfg": {}},
        {"model_type": "mine", "auto_map": {"AutoModel": "modeling.Mine"}},
        {"model_type": "bert", "hidden_size": 64},
    ],
    ids=["timm", "code", "text model"],
)
def test_another_model_s_weights_beside_open_clips_are_left_alone(
    config: dict[str, Any], saved: str, fingerprint: str, tmp_path: Path
) -> None:
    folder = written(tmp_path / "repository", config=config)
    trunk = {name.removeprefix("visual."): value for name, value in WEIGHTS.items() if name.startswith("visual.")}
    save_file(trunk, folder / "model.safetensors")
    torch.save(trunk, folder / "pytorch_model.bin")
    (save_file if saved.endswith("safetensors") else torch.save)(WEIGHTS, folder / saved)
    assert load_backbone(folder).fingerprint == fingerprint
    assert load_backbone(folder / saved).fingerprint == fingerprint


def test_open_clip_s_configuration_under_hugging_face_s_name_is_read(fingerprint: str, tmp_path: Path) -> None:
    folder = tmp_path / "renamed"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(OPEN_CLIP_CONFIG))
    save_file(WEIGHTS, folder / "model.safetensors")
    assert load_backbone(folder).fingerprint == fingerprint


def test_the_text_tower_s_older_names_are_read(fingerprint: str, tmp_path: Path) -> None:
    """Models with a text tower of their own class were first saved as those without."""
    config = {**OPEN_CLIP_CONFIG, "model_cfg": OPEN_CLIP_CONFIG["model_cfg"] | {"custom_text": True}}
    text = ("token_embedding", "positional_embedding", "text_projection", "transformer.", "ln_final")
    newer = {f"text.{name}" if name.startswith(text) else name: value for name, value in WEIGHTS.items()}
    for number, weights in enumerate((WEIGHTS, newer)):
        folder = write_open_clip(tmp_path / str(number), weights, config)
        assert load_backbone(folder).fingerprint == fingerprint


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_shards_in_half_precision_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = {name: value.to(dtype) for name, value in huggingface_weights().items()}
    whole = load_backbone(write_huggingface(tmp_path / "whole", weights))
    folder = write_huggingface(tmp_path / "shards")
    (folder / "model.safetensors").unlink()
    halves = [dict(list(weights.items())[part::2]) for part in range(2)]
    files = [f"model-0000{part + 1}-of-00002.safetensors" for part in range(2)]
    for file, half in zip(files, halves, strict=True):
        save_file(half, folder / file)
    places = {name: file for file, half in zip(files, halves, strict=True) for name in half}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert load_backbone(folder).fingerprint == whole.fingerprint


@pytest.mark.parametrize("own", [False, True], ids=["trained elsewhere", "OpenAI's"])
def test_a_file_that_does_not_say_its_activation_is_read_with_a_warning(own: bool, tmp_path: Path) -> None:
    numbers = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(10)} if own else {}
    torch.save(WEIGHTS | numbers, tmp_path / "clip.pt")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_backbone(tmp_path / "clip.pt")
    assert [one.category for one in caught] == ([] if own else [ActivationWarning])
    if not own:
        assert "--architecture ViT-B-32" in str(caught[0].message)


@pytest.mark.parametrize("architecture", [None, "ViT-tiny"])
def test_a_tokenizer_beside_weights_alone_is_read(
    architecture: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.13 has no package with CLIP's vocabulary."""
    model = OPEN_CLIP_CONFIG["model_cfg"]
    table = {"ViT-tiny": {"model_cfg": model | {"text_cfg": model["text_cfg"] | {"vocab_size": 258}}}}
    monkeypatch.setattr("shotfit.checkpoints.asked._table", lambda: table)
    tiny_backbone(tmp_path / "tiny")
    torch.save(WEIGHTS | {"token_embedding.weight": torch.randn(258, 64)}, tmp_path / "clip.pt")
    assert load_backbone(tmp_path / "clip.pt", architecture=architecture).tokenizer is None
    (tmp_path / "tiny" / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    assert load_backbone(tmp_path / "clip.pt", architecture=architecture).encode(["a"]) == [[256, 64, 257]]


@pytest.mark.parametrize(
    ("name", "texts", "mean", "resize"),
    [
        ("ViT-B-32", "clip", CLIP_MEAN, "shortest"),
        ("ViT-B-16-SigLIP2", "pieces:canonicalize", (0.5, 0.5, 0.5), "squash"),
        ("ViT-L-14-CLIPA", "pieces:stripped", (0.485, 0.456, 0.406), "squash"),
        ("MobileCLIP-B", "clip", (0.0, 0.0, 0.0), "shortest"),
        ("xlm-roberta-base-ViT-B-32", "pieces:whitespace", CLIP_MEAN, "shortest"),
    ],
)
def test_an_architecture_says_how_texts_and_images_are_read(
    name: str, texts: str, mean: tuple[float, ...], resize: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def given(config: BackboneConfig, weights: Any, tokenizer: Any, name: str, dtype: Any) -> Any:
        return SimpleNamespace(config=config, closed=True)

    kinds = []
    monkeypatch.setattr("shotfit.checkpoints.open_clip._convert", lambda *_: {})
    monkeypatch.setattr("shotfit.checkpoints.weights.load_tokenizer", lambda *asked: kinds.append(asked[2]))
    monkeypatch.setattr("shotfit.checkpoints.weights.Backbone", given)
    torch.save(WEIGHTS, tmp_path / "own.pt")
    prepared = load_backbone(tmp_path / "own.pt", architecture=name).config.preprocessing
    assert (kinds, prepared.mean, prepared.resize) == ([texts], mean, resize)


# Names of the table


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's client, offline, and one architecture of the tiny weights' size."""
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path / "own"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = OPEN_CLIP_CONFIG["model_cfg"]
    tiny = {"ViT-B-32": {"model_cfg": model}, "ViT-B-32-quickgelu": {"model_cfg": model | {"quick_gelu": True}}}
    monkeypatch.setattr("shotfit.checkpoints.asked._table", lambda: tiny)
    return tmp_path / "cache"


def remoteclip(cache: Path, weights: dict[str, Tensor] = WEIGHTS) -> None:
    entry = find("RemoteCLIP")
    assert entry is not None and entry.repository is not None
    folder = snapshot(cache, entry.repository)
    folder.mkdir(parents=True)
    torch.save(weights, folder / entry.file)


def test_a_name_of_weights_alone_has_its_architecture(cache: Path, tmp_path: Path) -> None:
    remoteclip(cache)
    backbone = load_backbone("remoteclip")
    torch.save(WEIGHTS, tmp_path / "own.pt")
    asked = load_backbone(tmp_path / "own.pt", architecture="ViT-B-32")
    assert (backbone.name, backbone.fingerprint) == ("RemoteCLIP", asked.fingerprint)
    assert load_known("RemoteCLIP").fingerprint == asked.fingerprint
    other = load_backbone("RemoteCLIP", architecture="ViT-B-32-quickgelu")
    assert other.name == "RemoteCLIP#architecture=ViT-B-32-quickgelu" and other.fingerprint != asked.fingerprint


def test_a_repository_of_several_files_is_told_apart_by_its_user(cache: Path) -> None:
    with pytest.raises(UsageError, match=r"fetch the one .* --architecture .*; GeoRSCLIP is ViT-B-32-quickgelu"):
        load_backbone("GeoRSCLIP")


@pytest.mark.parametrize("name", [entry.name for entry in NAMES if entry.closed_name])
def test_a_name_without_own_towers_says_what_opens_it_and_fetches_nothing(name: str, cache: Path) -> None:
    entry = find(name)
    assert entry is not None
    with pytest.raises(UsageError, match=rf"as a closed encoder, open_clip:hf-hub:{entry.repository}, or"):
        load_backbone(name)


def test_open_clips_spelling_of_a_repository_is_recognised() -> None:
    with pytest.raises(UsageError, match="Did you mean owner/name"):
        load_backbone("hf-hub:owner/name")
