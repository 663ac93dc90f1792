"""What is installed is locked by hash, and what is locked is what pyproject.toml asks for."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from shotfit.data.toml import read_toml

ROOT = Path(__file__).parent.parent
LOCKS = ROOT / "requirements"


def program(name: str) -> ModuleType:
    """A program of `.ci`, as a module."""
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lock, audit = program("lock"), program("audit")


def locked(*names: str) -> dict[str, str]:
    """Versions by package, of some locks."""
    found: dict[str, str] = {}
    for name in names:
        entries = lock.entries((LOCKS / f"{name}.txt").read_text())
        found |= {package: lock.version_of(entry) for package, entry in entries.items()}
    return found


def asked(extras: bool) -> list[Requirement]:
    project = read_toml(ROOT / "pyproject.toml", "a project")["project"]
    more = [line for lines in project["optional-dependencies"].values() for line in lines] if extras else []
    return [Requirement(line) for line in (*project["dependencies"], *more)]


@pytest.mark.parametrize(("name", "extras"), [("demo", False), ("test", True)])
def test_everything_that_is_asked_for_is_locked_in_a_version_that_serves(name: str, extras: bool) -> None:
    versions = locked(name, "torch", *(["originals"] if extras else []))
    for requirement in asked(extras):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.11"}):
            version = versions.get(canonicalize_name(requirement.name))
            assert version is not None, f"run make lock: {requirement.name} is not in requirements/{name}.txt"
            assert requirement.specifier.contains(version), f"run make lock: {requirement}, locked {version}"


@pytest.mark.parametrize("name", ["demo", "test", "originals", "torch", "torch-cpu"])
def test_every_locked_version_has_hashes(name: str) -> None:
    text = (LOCKS / f"{name}.txt").read_text()
    found = lock.entries(text)
    assert found
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry) for entry in found.values())
    assert sum(map(len, found.values())) == len(text) - len(lock.HEAD)  # nothing else is in it


def test_constraints_are_the_locked_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = locked("test", "originals", "torch")
    assert pins == {package: version for package, version in versions.items() if not lock.GPU.match(package)}


def test_bill_of_materials_is_that_of_the_locks_and_names_the_weights() -> None:
    text = (ROOT / "sbom.cdx.json").read_text()
    assert text == lock.bill_of_materials(), "run make lock"
    bill = json.loads(text)
    names = {part["bom-ref"] for part in bill["components"]}
    assert {"model:mini-6", "pkg:npm/onnxruntime-web@1.30.0"} < names
    assert {f"pkg:pypi/{name}@{version}" for name, version in locked("demo").items()} < names
    assert set(bill["dependencies"][0]["dependsOn"]) == names


def test_runtime_of_the_web_page_is_the_published_one() -> None:
    page = (ROOT / "docs" / "supply-chain.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(ort\.\S+)` \|.*`([0-9a-f]{64})`", page, re.MULTILINE))
    held = {name: (ROOT / "src" / "shotfit" / "assets" / "web" / name).read_bytes() for name in rows}
    found = {name: gzip.decompress(data) if name.endswith(".gz") else data for name, data in held.items()}
    assert {name: hashlib.sha256(data).hexdigest() for name, data in found.items()} == rows
    assert rows.keys() == {"ort.js", "ort.wasm.gz"}


PACKAGES: list[dict[str, Any]] = [
    {"name": "one", "version": "1.0", "vulns": []},
    {"name": "two", "version": "2.0", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.1"]}]},
]


def test_known_hole_without_an_exception_fails_the_audit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "looked_up", lambda: {"dependencies": PACKAGES})
    assert audit.main() == 1
    assert "two 2.0 has PYSEC-1, mended in 2.1" in capsys.readouterr().out
    assert audit.holes(PACKAGES, audit.exceptions("# why\nCVE-1 the part is not used\n")) == []
    with pytest.raises(SystemExit, match="names CVE-1 without a reason"):
        audit.exceptions("CVE-1\n")


@pytest.mark.parametrize("answer", [None, {"dependencies": [{"name": "one", "skip_reason": "not found"}]}])
def test_database_out_of_reach_is_said_and_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: dict[str, Any] | None
) -> None:
    monkeypatch.setattr(audit, "looked_up", lambda: answer)
    assert audit.main() == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_exceptions_have_reasons() -> None:
    audit.exceptions(audit.EXCEPTIONS.read_text())
