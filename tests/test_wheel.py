"""The wheel: what is in it, and that it predicts where the source tree is not at hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from shotfit.fit import fit
from shotfit.store import MemoryStore
from shotfit.testing import tiny_backbone, tiny_task

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    program = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    built = subprocess.run([sys.executable, "-c", program, source], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return source / built.stdout.splitlines()[-1]


def test_wheel_holds_the_package_its_types_its_weights_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "shotfit").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {name for name in names if ".dist-info/" not in name}
    assert "shotfit/py.typed" in held
    assert held == expected
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_wheel_predicts_without_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    tiny_backbone(tmp_path / "backbone")
    task = tiny_task(tmp_path / "photos")
    fit(task, "zero_shot", shots=1, backbone=str(tmp_path / "backbone"), store=MemoryStore()).save(tmp_path / "model")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    words = [sys.executable, "-m", "shotfit", "predict", "model", "photos", "--format", "jsonl"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(list((tmp_path / "photos").rglob("*.png")))
    program = [sys.executable, "-c", "import shotfit; print(shotfit.__file__)"]
    found = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(tmp_path / "installed"))
