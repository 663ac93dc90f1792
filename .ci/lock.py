"""Remake the locks: `make lock`, after a dependency was added to pyproject.toml or a pin of constraints.txt changed.

    constraints.txt              the versions; pins that are there stay, what is new gets its newest version
    requirements/demo.txt        what shotfit needs, with the hashes of all files of each version, but for torch
    requirements/test.txt        the same with every extra
    requirements/originals.txt   what tests compare with, installed apart: open_clip, timm, and their torchvision
    requirements/torch.txt       torch as the registry has it, with what its build for NVIDIA GPUs needs
    requirements/torch-cpu.txt   torch's builds for CPUs alone, which are found beside pip (PIP_FIND_LINKS, an index)
    sbom.cdx.json                the bill of materials that goes into the wheel

`pip install --require-hashes` takes nothing whose hash is not listed. The locks serve Python 3.11 and newer on every
platform that the registry has files for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"
APART = ("open-clip-torch", "timm", "torchvision")  # tests/originals.py says why
GPU = re.compile(r"nvidia-|cuda-|triton$")  # what torch's build for NVIDIA GPUs needs, and nothing else
COMPILE = (
    *(
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--fork-strategy",
        "fewest",
        "--python-version",
        "3.11",
        "--generate-hashes",
        "--no-header",
    ),
    *("--no-annotate", "--constraint", "constraints.txt", "pyproject.toml"),
)
HEAD = "# Made by `make lock`: do not edit.\n"

Entries = dict[str, str]  # a requirement with its marker and hashes, by the name of the project


def main() -> None:
    """Write every file of the list above."""
    demo, test = compiled(), compiled("--all-extras")
    LOCKS.mkdir(exist_ok=True)
    torch = {name: entry for name, entry in test.items() if name == "torch" or GPU.match(name)}
    version = version_of(torch["torch"])
    cpu = {**known_builds(version), **found_builds(version)}
    write(LOCKS / "demo.txt", without(demo, torch))
    write(LOCKS / "test.txt", without(test, {**torch, **dict.fromkeys(APART, "")}))
    write(LOCKS / "originals.txt", (test[name] for name in APART))
    write(LOCKS / "torch.txt", torch.values())
    lines = "".join(f" \\\n    --hash=sha256:{digest}" for digest in cpu)
    write(LOCKS / "torch-cpu.txt", [f"torch=={version}+cpu{lines}\n"])
    pinned = {name: entry for name, entry in test.items() if not GPU.match(name)}
    pins = sorted(f"{name}=={version_of(entry)}\n" for name, entry in pinned.items())
    constraints = ROOT / "constraints.txt"
    comments = [line for line in constraints.read_text().splitlines(keepends=True) if line.startswith("#")]
    constraints.write_text("".join([*comments, *pins]))
    (ROOT / "sbom.cdx.json").write_text(bill_of_materials())


def compiled(*options: str) -> Entries:
    """What uv resolves from pyproject.toml."""
    done = subprocess.run(
        [sys.executable, "-m", *COMPILE, *options], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return entries(done.stdout)


def entries(text: str) -> Entries:
    """The requirements of a lock, by name."""
    found = re.findall(r"^([a-z0-9._-]+)==(?:.*\\\n)*.*\n", text, re.MULTILINE)
    parts = re.findall(r"^[a-z0-9._-]+==(?:.*\\\n)*.*\n", text, re.MULTILINE)
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise SystemExit(f"{', '.join(twice)}: no one version serves every Python and platform. Pin one that does.")
    return dict(zip(found, parts, strict=True))


def version_of(entry: str) -> str:
    """The version that an entry pins."""
    return re.split(r"[ ;\\\n]", entry.partition("==")[2])[0]


def without(all_of_them: Entries, others: Mapping[str, str]) -> Iterable[str]:
    """Those that are not among the others."""
    return (entry for name, entry in all_of_them.items() if name not in others)


def write(path: Path, parts: Iterable[str]) -> None:
    path.write_text(HEAD + "".join(parts))


def known_builds(version: str) -> dict[str, None]:
    """Hashes of CPU builds that an earlier run found, if they are of this version."""
    path = LOCKS / "torch-cpu.txt"
    text = path.read_text() if path.exists() else ""
    return dict.fromkeys(re.findall(r"sha256:(\w+)", text)) if f"=={version}+cpu" in text else {}


def found_builds(version: str) -> dict[str, None]:
    """Hashes of CPU builds in the folders where pip looks for wheels."""
    folders = map(Path, os.environ.get("PIP_FIND_LINKS", "").split())
    wheels = [wheel for folder in folders if folder.is_dir() for wheel in sorted(folder.glob(f"torch-{version}+cpu-*"))]
    return {hashlib.sha256(wheel.read_bytes()).hexdigest(): None for wheel in wheels}


def bill_of_materials() -> str:
    """CycloneDX 1.6: what the wheel carries, and the versions of what it needs that the tests ran with.

    It has no date and no number of its own, so that the same locks give the same file.
    """
    project = (ROOT / "pyproject.toml").read_text()
    version = re.findall(r'^version = "(.*)"', project, re.MULTILINE)[0]
    needed = entries((LOCKS / "demo.txt").read_text()) | entries((LOCKS / "torch.txt").read_text())
    libraries: list[dict[str, Any]] = [
        {"type": "library", "name": name, "version": version_of(entry)}
        for name, entry in sorted(needed.items())
        if not GPU.match(name)
    ]
    for library in libraries:
        library["purl"] = library["bom-ref"] = f"pkg:pypi/{library['name']}@{library['version']}"
    weights = sorted((ROOT / "src" / "shotfit" / "assets").glob("*/model.safetensors"))
    models: list[dict[str, Any]] = [
        {
            "type": "machine-learning-model",
            "bom-ref": f"model:{path.parent.name}",
            "name": path.parent.name,
            "version": path.parent.name.rpartition("-")[2],
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}],
        }
        for path in weights
    ]
    page = ROOT / "src" / "shotfit" / "assets" / "web"
    (shown,) = re.findall(r"ONNX Runtime Web v(\S+)", (page / "ort.js").read_text(encoding="utf-8")[:200])
    runtime: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"pkg:npm/onnxruntime-web@{shown}",
        "name": "onnxruntime-web",
        "version": shown,
        "purl": f"pkg:npm/onnxruntime-web@{shown}",
        "licenses": [{"license": {"id": "MIT"}}],
        "components": [
            {
                "type": "file",
                "name": name,
                "hashes": [{"alg": "SHA-256", "content": hashlib.sha256((page / name).read_bytes()).hexdigest()}],
            }
            for name in ("ort.js", "ort.wasm.gz")
        ],
    }
    carried = [*models, runtime, *libraries]
    purl = f"pkg:pypi/shotfit@{version}"
    whole = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": purl,
                "name": "shotfit",
                "version": version,
                "purl": purl,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": carried,
        "dependencies": [{"ref": purl, "dependsOn": [part["bom-ref"] for part in carried]}],
    }
    return json.dumps(whole, indent=2) + "\n"


if __name__ == "__main__":
    main()
