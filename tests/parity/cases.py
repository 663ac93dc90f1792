"""Parity cases: recorded parameters, inputs and results of the official programs, as pytest parameters.

    @pytest.mark.parametrize("case", cases("taskres"))
    def test_taskres_equals_the_official_program(case: Case) -> None:
        weights = case.backbone()                       # OpenAI's names, float32
        logits = ...                                    # from case.settings, case["in/images"], case["param/NAME"]
        assert_close(logits, case["out/logits"], 1e-5)

Cases come from two places: the folder named by SHOTFIT_PARITY (else `../shared/parity` beside the repository, where it
exists), and the selection that lies in the repository, which always runs.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["SELECTION", "Case", "assert_close", "backbone", "cases", "folders", "picked", "roots"]

SELECTION = Path(__file__).resolve().parent / "selection"

FINGERPRINTS = {
    "vit": "0ac5649b24719fb1",
    "vit-deep": "2f44539c37979f30",
    "vit-wide": "fb7ca51b6f7e0c78",
    "rn": "16f377609b2b6145",
}

_picked: set[Path] = set()


def roots() -> list[Path]:
    """The parity folders to run: the large one where there is one, then the repository's selection."""
    named = os.environ.get("SHOTFIT_PARITY")
    if named is not None:
        large = Path(named)
        if not large.is_dir():
            raise FileNotFoundError(f"SHOTFIT_PARITY names {named}, which is no folder")
        found = [large.resolve()]
    else:
        large = Path(__file__).resolve().parents[2].parent / "shared" / "parity"
        found = [large] if large.is_dir() else []
    return [*(root for root in found if root != SELECTION), SELECTION]  # naming the selection runs it alone


@dataclass(frozen=True)
class Case:
    """One recorded case. Metadata and tensors are read when first asked for."""

    root: Path
    folder: str
    name: str

    @property
    def id(self) -> str:
        return f"{'selection:' if self.root == SELECTION else ''}{self.folder}/{self.name}"

    @property
    def path(self) -> Path:
        """The case's safetensors file."""
        return self.root / self.folder / f"{self.name}.safetensors"

    @property
    def meta(self) -> dict[str, Any]:
        """The JSON object under the metadata key `case`."""
        return _meta(self.path)

    @property
    def method(self) -> str:
        """What the case is of: a method's name, "tokenizer", "preprocess", "checkpoint", ..."""
        return str(self.meta["method"])

    @property
    def settings(self) -> dict[str, Any]:
        """The case's hyper-parameters and sizes."""
        settings: dict[str, Any] = self.meta["settings"]
        return settings

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors under their recorded names. Shared between tests: not to be written to."""
        return _tensors(self.path)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix`, under the rest of their names."""
        return {name[len(prefix) :]: value for name, value in self.tensors.items() if name.startswith(prefix)}

    def backbone(self) -> dict[str, Tensor]:
        """The weights of the backbone that the case names, under OpenAI's names, float32."""
        return backbone(self.meta["backbone"], self.root)


@functools.cache
def _meta(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        meta: dict[str, Any] = json.loads(file.metadata()["case"])
    return meta


@functools.lru_cache(maxsize=4)
def _tensors(path: Path) -> dict[str, Tensor]:
    return dict(load_file(path))


def folders(root: Path) -> list[str]:
    """The folders of a root that hold cases, sorted."""
    return sorted({path.parent.name for path in root.glob("*/*.safetensors")})


def cases(folder: str, keep: Callable[[Case], bool] = lambda case: True, *, partly: bool = False) -> list[Any]:
    """Every case of a folder (of both roots) that `keep` accepts, as pytest parameters with readable ids.

    What is returned counts as picked up by a test: `test_coverage.py` fails where a case of a covered folder is not.
    With `partly` it does not count: for a test that reads only a corner of its cases.
    """
    found = [
        Case(root, folder, path.stem) for root in roots() for path in sorted((root / folder).glob("*.safetensors"))
    ]
    kept = [case for case in found if keep(case)]
    if not partly:
        _picked.update(case.path for case in kept)
    return [pytest.param(case, id=case.id) for case in kept]


def picked() -> frozenset[Path]:
    """The files of all cases that the modules imported so far have asked for."""
    return frozenset(_picked)


@functools.lru_cache(maxsize=8)
def backbone(name: str, root: Path = SELECTION) -> dict[str, Tensor]:
    """The weights of a parity backbone, made by the root's own `backbone.py`, under OpenAI's names, float32.

    A root without one takes the repository's copy, which is held to the fingerprints recorded with it. Shared between
    tests: not to be written to.
    """
    root = root if (root / "backbone.py").is_file() else SELECTION
    spec = importlib.util.spec_from_file_location(f"parity_backbone_{_digest(str(root))}", root / "backbone.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name while the class is made
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    arrays: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = module.state_dict(name)
    if root == SELECTION:
        assert module.fingerprint(arrays) == FINGERPRINTS[name], f"backbone {name!r} has other weights than recorded"
    return {key: torch.from_numpy(np.array(value, dtype=np.float32)) for key, value in arrays.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, what: str = "") -> None:
    """Compare with a recorded tensor: `tolerance` is relative to the largest absolute entry of the expected one.

    Shapes must be equal. Where everything expected is zero the tolerance is absolute.
    """
    name = f"{what}: " if what else ""
    actual, expected = actual.detach().cpu(), expected.detach().cpu()
    assert actual.shape == expected.shape, f"{name}shape {tuple(actual.shape)}, recorded {tuple(expected.shape)}"
    if expected.numel() == 0:
        return
    difference = (actual.double() - expected.double()).abs()
    largest = float(expected.double().abs().max())
    worst = float(difference.max())
    bound = tolerance * (largest if largest > 0 else 1.0)
    if not worst <= bound:  # also where either is not a number
        flat = int(difference.nan_to_num(torch.inf).argmax())
        position = tuple(int(index) for index in np.unravel_index(flat, expected.shape))
        raise AssertionError(
            f"{name}differs by {worst:.3g} = {worst / (largest or 1.0):.3g} of the largest entry {largest:.6g} "
            f"(allowed {tolerance:g}); at {position}: {float(actual[position]):.8g}, recorded "
            f"{float(expected[position]):.8g}; {int((~(difference <= bound)).sum())} of {expected.numel()} entries off"
        )
