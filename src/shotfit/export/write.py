"""Take a fitted model elsewhere: `export_model` makes a folder that needs neither shotfit nor torch.

    export_model("my-model", to="onnx", out="my-export")

Nothing is written before it was compared with the model, opened in float32; then the folder is there as a whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import torch

from shotfit.calls import checked
from shotfit.checkpoints.weights import load_backbone
from shotfit.engine.frozen import Frozen
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError, first_few
from shotfit.export.comparing import check_equal, compared, generated
from shotfit.export.graph import run_graph, write_graph
from shotfit.export.libraries import check_installed
from shotfit.export.readme import readme
from shotfit.export.record import RECORD, record_of
from shotfit.export.traced import Traced, attached
from shotfit.files import SETTINGS_BYTES, UnreadableError, can_hold, read_text, write_folder
from shotfit.fitting.folder import SYSTEM_FILES
from shotfit.fitting.model import Model, load
from shotfit.printing import printable

__all__ = ["Export", "Kind", "Precision", "export_model"]

Kind = Literal["onnx", "openvino", "classifier"]
Precision = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class Export:
    """A folder that was written, and what its `export.json` says."""

    folder: Path
    record: dict[str, Any]


@checked
def export_model(
    model: Model | str | Path,
    to: Kind = "onnx",
    out: str | Path = "shotfit-export",
    *,
    precision: Precision = "float32",
    images: str | Path | None = None,
    task: str | None = None,
) -> Export:
    """Write a fitted model as a folder for another runtime, once that computes what the model computes."""
    if to != "onnx" or precision != "float32" or images is not None:
        raise UsageError("Only onnx in float32 can be written so far.")
    check_installed(to)
    folder = Path(out)
    check_target(folder)
    opened = model if isinstance(model, Model) else load(model)
    reference = in_float32(opened if task is None else opened.for_task(task))
    pictures = generated(reference.frozen.backbone.image.image_size)
    with TemporaryDirectory(prefix="shotfit-") as place:
        graph = Path(place) / "model.onnx"
        write_graph(Traced(reference), graph)
        found = compared(reference, pictures, run_graph(graph))
        check_equal(found, to)
        record = record_of(reference, to, graph.name, "float32")
        record["compared"] = {
            "images": found.images,
            "given": False,
            "difference": found.difference,
            "same": found.same,
        }
        files = {path.name: path.read_bytes() for path in sorted(Path(place).iterdir())}
    return save(folder, record, files)


def in_float32(model: Model) -> Model:
    """The model on its backbone in float32 on the CPU, however it was opened."""
    backbone = model.frozen.backbone
    if backbone.dtype != torch.float32:
        loaded = load_backbone(backbone.name)
        if loaded.fingerprint != backbone.fingerprint:
            raise ShotfitError(f"{backbone.name} has changed since the model was opened: open the model again.")
        backbone = loaded
    elif backbone.device.type != "cpu":
        raise UsageError('An export is made on the CPU: open the model with device="cpu".')
    frozen = Frozen(backbone, MemoryStore())
    return Model(attached(model.method, frozen), frozen, model.record, model.task, model.learned, model.trust)


def save(folder: Path, record: Mapping[str, Any], files: Mapping[str, bytes]) -> Export:
    """Write the files with their record and a README, all or nothing."""
    files = {**files, "README.md": readme(record).encode()}
    written = dict(record) | {"sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}}
    content = json.dumps(written, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
    try:
        write_folder(folder, {**files, RECORD: content})
    except OSError as error:
        raise ShotfitError(
            f"{printable(folder)} cannot be written ({error.strerror}): choose another --out."
        ) from error
    return Export(folder, written)


def check_target(folder: Path) -> None:
    """Refuse, in a sentence, a folder that no export may replace: one that holds anything but an older export."""
    if folder.is_dir():
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        others = sorted(names - _files_of(folder) - {RECORD, *SYSTEM_FILES})
        if others:
            raise UsageError(
                f"{folder} holds {first_few(others)}, which is no part of an export, and would be replaced as a whole: "
                "choose another --out."
            )
        if folder.resolve() in (Path.cwd(), *Path.cwd().parents):
            raise UsageError(f"{folder} is where you are, and would be replaced as a whole: choose another --out.")
    elif folder.exists():
        raise UsageError(f"{folder} is a file: choose another --out.")
    if not can_hold(folder.absolute()):
        raise UsageError(f"{folder} cannot be made there: choose another --out.")


def _files_of(folder: Path) -> set[str]:
    """The files that an export in this folder wrote; none where there is none."""
    try:
        record = json.loads(read_text(folder / RECORD, SETTINGS_BYTES, "the record of an export"))
    except (UnreadableError, ValueError, RecursionError):
        return set()
    match record:
        case {"format": int(), "kind": str(), "sha256": dict() as hashes}:
            return {str(name) for name in hashes}
    return set()


KINDS = get_args(Kind)
