"""The wheel: what is in it, that it declares what it needs, and that it predicts where nothing else is installed."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable, Sequence
from email import message_from_bytes
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from shotfit.engine.store import MemoryStore
from shotfit.fitting.fit import fit
from shotfit.testing.tiny import tiny_task

ROOT = Path(__file__).parent.parent
DISTRIBUTIONS = {  # where a module is called otherwise
    "PIL": "pillow", "open_clip": "open-clip-torch", "sklearn": "scikit-learn", "yaml": "pyyaml",
}  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "sbom.cdx.json", "README.md", "LICENSE"):
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


def test_wheel_holds_its_bill_of_materials(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as held:
        (name,) = (name for name in held.namelist() if name.endswith(".dist-info/sboms/sbom.cdx.json"))
        assert held.read(name) == (ROOT / "sbom.cdx.json").read_bytes()
        (record,) = (name for name in held.namelist() if name.endswith(".dist-info/RECORD"))
        assert name in held.read(record).decode()
        version = message_from_bytes(held.read(record.replace("RECORD", "METADATA")))["Version"]
    bill = json.loads((ROOT / "sbom.cdx.json").read_text())
    assert bill["metadata"]["component"]["version"] == version


def test_every_import_is_a_declared_dependency(wheel: Path) -> None:
    declared = {requirement.name for requirement in _requirements(wheel)}
    known = sys.stdlib_module_names | {"shotfit", "tomllib"}  # tomllib: from 3.11 on, and asked for only there
    undeclared = {
        f"{module} in {path.name}"
        for path in (ROOT / "src").rglob("*.py")
        for module in _imported(path)
        if module not in known and DISTRIBUTIONS.get(module, module.replace("_", "-")) not in declared
    }
    assert undeclared == set()


def test_wheel_installs_beside_its_dependencies_alone_and_predicts(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    (installed,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    for path in _closure(_requirements(wheel)):
        (installed / path.name).symlink_to(path)
    pip = [sys.executable, "-m", "pip", "--python", python]
    _run([*pip, "install", "--no-deps", "--no-index", wheel])
    _run([*pip, "check"])  # what the wheel and its dependencies ask for is there, in versions that they accept

    task = tiny_task(tmp_path / "photos")
    fit(task, "zero_shot", shots=1, backbone="mini", store=MemoryStore()).save(tmp_path / "model")
    predicted = _run([python.with_name("shotfit"), "predict", "model", "photos", "--format", "jsonl"], tmp_path)
    assert len(predicted.splitlines()) == len(list((tmp_path / "photos").rglob("*.png")))
    assert _run([python, "-c", "import shotfit; print(shotfit.__file__)"]).startswith(str(installed))


def _run(words: Sequence[object], folder: Path | None = None) -> str:
    """What a command prints; it sees no other place to import from than its own environment."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([str(word) for word in words], cwd=folder, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _requirements(wheel: Path) -> list[Requirement]:
    """What the wheel says it needs, its extras too."""
    with zipfile.ZipFile(wheel) as held:
        (name,) = (name for name in held.namelist() if name.endswith(".dist-info/METADATA"))
        lines = message_from_bytes(held.read(name)).get_all("Requires-Dist") or []
    return [Requirement(line) for line in lines]


def _imported(path: Path) -> set[str]:
    """The packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def _closure(requirements: Iterable[Requirement]) -> set[Path]:
    """What an installer would put into site-packages for these requirements, as it lies in this environment."""
    waiting = [(requirement, "") for requirement in requirements]  # and the extra that it belongs to
    seen, paths = set[tuple[Requirement, str]](), set[Path]()
    while waiting:
        needed = waiting.pop()
        wanted, extra = needed
        if needed in seen or not (wanted.marker is None or wanted.marker.evaluate({"extra": extra})):
            continue
        seen.add(needed)
        found = distribution(wanted.name)
        tops = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
        paths |= {Path(str(found.locate_file(top))) for top in tops}
        waiting += [(Requirement(line), asked) for line in found.requires or () for asked in ("", *wanted.extras)]
    return paths
