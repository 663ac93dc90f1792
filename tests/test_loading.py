"""Loading keeps the precision of a file until the towers take theirs, its fingerprint, and takes little more memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.loading import LOADED, written
from shotfit.checkpoints.state_dict import read_tensors
from shotfit.checkpoints.weights import load_backbone, load_in
from shotfit.errors import ShotfitError

from .checkpoints import openai_weights, write_open_clip


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return written(LOADED["ViT-S/32"], tmp_path_factory.mktemp("checkpoints"))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is Linux's to tell")
@pytest.mark.parametrize("form", ["open_clip", "huggingface", "OpenAI's zip"])
def test_loading_takes_little_more_memory_than_the_file(form: str, checkpoints: dict[str, Path]) -> None:
    place = checkpoints[form]
    (file,) = place.glob("*.safetensors") if place.is_dir() else [place]
    command = [sys.executable, "-m", "benchmarks.loading", "--load", str(place), "--precision", "bfloat16"]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, cwd=Path(__file__).parent.parent)
    found = json.loads(ended.stdout)
    largest = 2 * 49408 * 384  # bytes of the table of words, a third of this small file
    beside = 24 * 2**20  # a tokenizer, modules that are imported late: nothing beside a file of the usual size
    assert found["peak"] < 1.2 * file.stat().st_size + largest + beside
    assert found["after"] < 1.2 * file.stat().st_size


def test_the_three_formats_hold_the_same_weights(tmp_path: Path) -> None:
    places = written(LOADED["tiny"], tmp_path)
    weights = [load_backbone(place).state_dict() for place in places.values()]
    for name, value in weights[0].items():
        assert all(torch.equal(value, other[name]) for other in weights[1:]), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fingerprint_is_that_of_the_weights_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    half = {name: value.to(dtype) for name, value in openai_weights().items()}
    found = load_backbone(write_open_clip(tmp_path / "half", half))
    whole = load_backbone(write_open_clip(tmp_path / "whole", {name: value.float() for name, value in half.items()}))
    assert found.fingerprint == whole.fingerprint
    assert (found.precision, whole.precision) == ("float32", "float32")
    for precision in ("bfloat16", "int8"):
        assert load_in(str(tmp_path / "half"), precision).fingerprint == whole.fingerprint


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4), "b": torch.ones(4)}, tmp_path / "a.safetensors")
    torch.save({"a": torch.zeros(4), "b": torch.ones(4)}, tmp_path / "a.pt")
    for path in (tmp_path / "a.safetensors", tmp_path / "a.pt"):
        tensors = read_tensors(path)
        assert tensors["b"].read().tolist() == [1, 1, 1, 1]
        path.write_bytes(path.read_bytes() + b"more")
        with pytest.raises(ShotfitError, match=r"was changed while it was read\. Load it again"):
            tensors["a"].read()


def test_tensors_of_one_storage_are_read_together(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    torch.save({"a": whole, "b": whole.t(), "c": whole[1]}, tmp_path / "a.pt")
    tensors = read_tensors(tmp_path / "a.pt")
    for name, value in (("a", whole), ("b", whole.t()), ("c", whole[1])):
        assert torch.equal(tensors[name].read(), value)
    assert tensors["b"].shape == (4, 3)
