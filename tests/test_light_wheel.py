"""The wheel of shotfit-light: the modules that it needs, nothing else, and that it predicts with these alone."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from PIL import Image

from shotfit.data.toml import read_toml

from .exports import by_hand
from .pictures import save
from .test_light import BLOCKED, HEAVY

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """packages/light/setup.py, as a module."""
    spec = importlib.util.spec_from_file_location("light_setup", ROOT / "packages" / "light" / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("light-wheel")
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, place)
    for name in ("src", "packages"):
        unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "assets", "build")
        shutil.copytree(ROOT / name, place / name, ignore=unwanted)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    words = [sys.executable, "-c", build, str(place)]
    built = subprocess.run(words, cwd=place / "packages" / "light", capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return place / built.stdout.splitlines()[-1]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return by_hand(tmp_path / "export")


def test_wheel_holds_what_prediction_reaches_and_nothing_else(wheel: Path, program: ModuleType) -> None:
    with zipfile.ZipFile(wheel) as held:
        names = {name for name in held.namelist() if ".dist-info/" not in name}
        for name in names:
            assert held.read(name) == (ROOT / "src" / name).read_bytes()  # so that both distributions are alike
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in held.namelist())
    files = {program.file_of(module).relative_to(ROOT / "src").as_posix() for module in program.modules()}
    assert names == files | {"shotfit/py.typed"}
    assert {"shotfit/light.py", "shotfit/data/headers.py", "shotfit/commands/predict.py"} < names
    assert not {"shotfit/fitting/model.py", "shotfit/fitting/fit.py", "shotfit/engine/store.py"} & names


def test_wheel_asks_for_what_shotfit_asks_for_and_has_its_version(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as held:
        (name,) = (name for name in held.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(held.read(name))
    project = read_toml(ROOT / "pyproject.toml", "a project")["project"]
    lines = [*project["dependencies"], *(line for more in project["optional-dependencies"].values() for line in more)]
    whole = {requirement.name: requirement.specifier for requirement in map(Requirement, lines)}
    asked = [Requirement(line) for line in metadata.get_all("Requires-Dist") or []]
    assert {one.name for one in asked} == {"numpy", "onnxruntime", "pillow", "rich", "typer", "pillow-heif"}
    assert all(one.specifier == whole[one.name] for one in asked)
    assert metadata["Version"] == project["version"]


def test_wheel_predicts_alone_and_says_what_it_leaves_out(wheel: Path, export: Path, tmp_path: Path) -> None:
    save(tmp_path / "green.png", Image.new("RGB", (30, 20), (10, 200, 20)))
    with zipfile.ZipFile(wheel) as held:
        held.extractall(tmp_path / "installed")
    start = BLOCKED.format(blocked=HEAVY) + (
        "import shotfit\nfrom shotfit.commands.cli import main\n"
        "assert shotfit.__file__.startswith(sys.argv[1]), shotfit.__file__\nsys.exit(main(sys.argv[2:]))\n"
    )

    def run(*words: object) -> tuple[int, str, str]:
        found = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
        command = [sys.executable, "-c", start, str(tmp_path / "installed"), *map(str, words)]
        done = subprocess.run(command, env=found, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    code, out, err = run("predict", export, "green.png", "--top", 2)
    assert (code, err) == (0, "")
    assert out.split()[:2] == ["green.png", "green"]
    for words in (["fit", "photos"], ["predict", tmp_path, "green.png"], ["methods"]):
        code, out, err = run(*words)
        assert (code, out) == (2, "")
        assert err.startswith("error: shotfit-light predicts with exports and does nothing else.")
