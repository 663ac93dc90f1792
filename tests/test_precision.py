"""The precision of the towers: chosen by the processor, kept with the model, never that of what is learned."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from shotfit.checkpoints.weights import load_in
from shotfit.engine.store import MemoryStore
from shotfit.errors import UsageError
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers import precision
from shotfit.towers.precision import fast_precision


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_is_what_the_processor_is_fast_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    tiny_backbone(tmp_path)
    monkeypatch.setattr(precision, "fast_precision", lambda device: dtype)
    assert load_in(str(tmp_path)).dtype == dtype
    assert load_in(str(tmp_path), "float32").dtype == torch.float32


def test_emulated_bfloat16_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert fast_precision(torch.device("cpu")) == torch.float32


def test_a_backbone_that_is_given_stays_as_it_is(tmp_path: Path) -> None:
    given = tiny_backbone(tmp_path).double()
    assert load_in(given) is given
    other = load_in(given, "bfloat16")
    assert (other.dtype, given.dtype) == (torch.bfloat16, torch.float64)
    assert other.fingerprint == given.fingerprint


def test_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no precision 'half': use auto, float32, bfloat16, int8"):
        load_in(tiny_backbone(tmp_path), "half")  # type: ignore[arg-type]


def test_device_is_a_gpu_only_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_backbone(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match=r"no device cuda:1: torch finds 1 CUDA GPUs here\. Use cpu or auto"):
        load_in(str(tmp_path), device="cuda:1")
    with pytest.raises(UsageError, match="no device 'gpu': use auto, cpu, mps, cuda or, of several GPUs, cuda:1"):
        load_in(str(tmp_path), device="gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load_in(str(tmp_path)).device == load_in(str(tmp_path), device="cpu").device == torch.device("cpu")


def test_model_opens_in_the_precision_it_was_fitted_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, folder = tiny_task(tmp_path / "images"), tmp_path / "backbone"
    tiny_backbone(folder)
    fitted = fit(
        task, "coop", options={"length": "3"}, shots=2, epochs=2, backbone=str(folder), precision="bfloat16",
        store=MemoryStore(), keep=True, check=False,
    )  # fmt: skip
    assert fitted.method.get_parameter("context").dtype == torch.float32
    saved, path = fitted.save(tmp_path / "model"), task.train[0].picture.path
    opened = Model.open(saved, trust_backbone=True)
    assert opened.predict(path, top=3) == fitted.predict(path, top=3)
    slow = fast_precision(torch.device("cpu")) != torch.bfloat16
    assert ("--precision float32 is faster" in capsys.readouterr().err) == slow
    exact = Model.open(saved, precision="float32", trust_backbone=True).predict(path, top=3)[0]
    rough = dict(zip(opened.predict(path, top=3)[0].labels, opened.predict(path, top=3)[0].probabilities, strict=True))
    for label, probability in zip(exact.labels, exact.probabilities, strict=True):
        assert abs(rough[label] - probability) < 0.02
