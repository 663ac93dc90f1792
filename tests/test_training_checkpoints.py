"""Checkpoints as training programs write them: where the weights are, what they are called, what lies beside them."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from shotfit.checkpoints.weights import load_backbone
from shotfit.errors import ShotfitError
from shotfit.towers.config import TextConfig

from .checkpoints import HUGGINGFACE_CONFIG, OPEN_CLIP_CONFIG, huggingface_weights, openai_weights, write_open_clip

WEIGHTS = openai_weights()
OTHERS = {name: value + 1 for name, value in WEIGHTS.items()}


def prefixed(prefix: str, weights: dict[str, Tensor] = WEIGHTS) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in weights.items()}


class Options:
    """A training program's own class of settings."""

    rate = 1e-3


@pytest.fixture(scope="module")
def fingerprint(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plain") / "clip.pt"
    torch.save(WEIGHTS, path)
    return load_backbone(path).fingerprint


def optimizer_state() -> dict[str, Any]:
    layer = nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.zeros(1, 4)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


WRAPPED: dict[str, Any] = {
    "compiled": prefixed("_orig_mod."),
    "parallel": prefixed("module."),
    "compiled in parallel": {"state_dict": prefixed("module._orig_mod.")},
    "a compiled part": {name.replace("visual.", "visual._orig_mod."): value for name, value in WEIGHTS.items()},
    "sharded": prefixed("_fsdp_wrapped_module."),
    "under model": {"model": WEIGHTS, "iteration": 7},
    "under model_state_dict": {"epoch": 1, "model_state_dict": WEIGHTS, "optimizer_state_dict": {}, "loss": 0.1},
    "under a name of its own": {"clip": WEIGHTS, "step": 3},
    "two dicts around": {"checkpoint": {"model": {"state_dict": WEIGHTS}}, "version": "2"},
    "with an optimizer": {"model": WEIGHTS, "optimizer": optimizer_state(), "scheduler": {"last": 3}},
    "numpy numbers": {
        "state_dict": WEIGHTS,
        "best": np.float64(0.5),
        "seen": np.int64(3),
        "curve": np.arange(4.0),
        "optimizer": {"param_groups": [{"lr": np.float32(1e-3)}]},
    },
    "settings": {
        "state_dict": WEIGHTS,
        "args": argparse.Namespace(lr=0.1, out=Path("runs")),
        "options": Options(),
        "when": datetime.datetime(2026, 1, 1),
        "seen": {1, 2},
        "counts": collections.Counter("aab"),
        "groups": collections.defaultdict(list, a=[1]),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
    },
    "lightning": {
        "epoch": 1,
        "pytorch-lightning_version": "2.5",
        "state_dict": {**prefixed("model.clip."), "criterion.weight": torch.zeros(3)},
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [optimizer_state()],
        "hyper_parameters": {"lr": 0.1},
    },
    "weights and their average": {"model": WEIGHTS, "model_ema": OTHERS, "epoch": 3},
    "an average alone": {"ema_state_dict": WEIGHTS, "epoch": 3},
    "averaged model": {**prefixed("module."), "n_averaged": torch.tensor(3)},
    "student and teacher": {**prefixed("student."), **prefixed("teacher_ema.", OTHERS)},
    "parameters": {name: nn.Parameter(value) for name, value in WEIGHTS.items()},
    "ordered": collections.OrderedDict(WEIGHTS),
    "a tensor beside": {"epoch": torch.tensor(3), "state_dict": WEIGHTS},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_training_checkpoint_gives_the_weights_that_it_keeps(tmp_path: Path, kind: str, fingerprint: str) -> None:
    torch.save(WRAPPED[kind], tmp_path / "last.ckpt")
    assert load_backbone(tmp_path / "last.ckpt").fingerprint == fingerprint


@pytest.mark.parametrize("kind", ["numpy numbers", "settings", "lightning", "with an optimizer"])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_newer_pickles_are_read_too(tmp_path: Path, kind: str, protocol: int, fingerprint: str) -> None:
    torch.save(WRAPPED[kind], tmp_path / "last.ckpt", pickle_protocol=protocol)
    assert load_backbone(tmp_path / "last.ckpt").fingerprint == fingerprint


@pytest.mark.parametrize("kind", ["numpy numbers", "settings", "lightning", "with an optimizer"])
def test_the_older_form_is_read_too(tmp_path: Path, kind: str, fingerprint: str) -> None:
    torch.save(WRAPPED[kind], tmp_path / "last.ckpt", _use_new_zipfile_serialization=False)
    assert load_backbone(tmp_path / "last.ckpt").fingerprint == fingerprint


def test_wrapped_safetensors_give_the_same(tmp_path: Path, fingerprint: str) -> None:
    save_file(prefixed("_orig_mod.module."), tmp_path / "best.safetensors")
    assert load_backbone(tmp_path / "best.safetensors").fingerprint == fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"first": WEIGHTS, "second": OTHERS}, r"holds several models \(first, second\)"),
        ({**prefixed("image."), **prefixed("text.")}, r"holds several models \(image\., text\.\)"),
        ({**WEIGHTS, **prefixed("module.", OTHERS)}, r"twice, with and without the words of a wrapper"),
        (nn.Linear(2, 2), r"no state dict but a whole object \(torch\.nn\.modules\.linear\.Linear\)"),
        ({"model": nn.Linear(2, 2)}, "holds no state dict: model is no tensor"),
        ({"optimizer": optimizer_state(), "epoch": 3}, "holds no state dict: optimizer is no tensor"),
        ({**WEIGHTS, "visual.proj": WEIGHTS["visual.proj"].numpy()}, r"visual\.proj is no tensor"),
    ],
)
def test_what_holds_no_one_model_is_refused_in_a_line(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ShotfitError, match=message):
        load_backbone(tmp_path / "last.ckpt")


# A configuration beside a file of any name


@pytest.mark.parametrize("name", ["epoch_3.pt", "best.safetensors", "pytorch_model.bin", "model.safetensors"])
def test_open_clip_s_configuration_beside_a_file_is_read(tmp_path: Path, name: str) -> None:
    expected = load_backbone(write_open_clip(tmp_path / "named"))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP_CONFIG))
    save = save_file if name.endswith("safetensors") else torch.save
    save(prefixed("module."), folder / name)
    (tmp_path / "latest.pt").symlink_to(folder / name)
    for path in (folder / name, *([tmp_path / "latest.pt"] if name.endswith(".pt") else [])):
        assert load_backbone(path).fingerprint == expected.fingerprint


def test_hugging_face_s_configuration_beside_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HUGGINGFACE_CONFIG))
    torch.save({"model": prefixed("module.", huggingface_weights())}, tmp_path / "step_100.pt")
    text = load_backbone(tmp_path / "step_100.pt").config.text
    assert isinstance(text, TextConfig) and text.end == 39


def test_with_both_configurations_the_names_of_the_tensors_decide(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HUGGINGFACE_CONFIG))
    (tmp_path / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP_CONFIG))
    torch.save(huggingface_weights(), tmp_path / "theirs.pt")
    torch.save(WEIGHTS, tmp_path / "ours.pt")
    assert load_backbone(tmp_path / "theirs.pt").config.preprocessing.crop_offset == "floor"
    assert load_backbone(tmp_path / "ours.pt").config.preprocessing.std == (0.25, 0.25, 0.25)


def test_open_clip_s_configuration_under_the_other_name_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(OPEN_CLIP_CONFIG))
    torch.save(WEIGHTS, tmp_path / "epoch_3.pt")
    assert load_backbone(tmp_path / "epoch_3.pt").config.preprocessing.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("config", "weights", "message"),
    [
        ("config.json", WEIGHTS, r"config\.json beside it describes a checkpoint of Hugging Face: put open_clip"),
        ("open_clip_config.json", huggingface_weights(), r"beside it is open_clip_config\.json alone"),
    ],
)
def test_another_library_s_configuration_is_refused(
    tmp_path: Path, config: str, weights: dict[str, Tensor], message: str
) -> None:
    content = HUGGINGFACE_CONFIG if config == "config.json" else OPEN_CLIP_CONFIG
    (tmp_path / config).write_text(json.dumps(content))
    torch.save(weights, tmp_path / "epoch_3.pt")
    with pytest.raises(ShotfitError, match=message):
        load_backbone(tmp_path / "epoch_3.pt")


def test_a_training_program_s_own_configuration_is_none_of_a_checkpoint(tmp_path: Path, fingerprint: str) -> None:
    (tmp_path / "config.json").write_text('{"learning_rate": 0.1}')
    torch.save(WEIGHTS, tmp_path / "epoch_3.pt")
    assert load_backbone(tmp_path / "epoch_3.pt").fingerprint == fingerprint


def test_folder_of_another_file_name_says_to_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP_CONFIG))
    torch.save(WEIGHTS, tmp_path / "epoch_3.pt")
    with pytest.raises(ShotfitError, match=r"Or name the file itself: epoch_3\.pt"):
        load_backbone(tmp_path)
