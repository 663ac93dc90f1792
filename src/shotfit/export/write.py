"""Take a fitted model elsewhere: `export_model` makes a folder that needs neither shotfit nor torch.

    export_model("my-model", to="onnx", out="my-export")

Nothing is written before it was compared with the model, opened in float32; then the folder is there as a whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from shotfit.calls import checked
from shotfit.checkpoints.weights import load_backbone
from shotfit.engine.frozen import Frozen
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.export.classifier import class_matrix
from shotfit.export.comparing import Agreement, check_equal, check_finite, classes_of, compared, pixels_of
from shotfit.export.graph import Run, run_graph, write_graph
from shotfit.export.libraries import check_installed
from shotfit.export.lower import in_half, in_int8
from shotfit.export.openvino import run_openvino, write_openvino
from shotfit.export.pictures import Pictures, generated_pictures, given_pictures
from shotfit.export.readme import readme
from shotfit.export.record import RECORD, record_of
from shotfit.export.traced import Traced, attached
from shotfit.export.web import check_size, page_files
from shotfit.files import SETTINGS_BYTES, UnreadableError, read_text, write_folder
from shotfit.fitting.folder import SYSTEM_FILES, check_replaceable
from shotfit.fitting.model import Model, load
from shotfit.fitting.several_labels import refuse
from shotfit.printing import printable
from shotfit.towers.backbone import Backbone
from shotfit.towers.precision import in_precision

__all__ = ["Export", "Kind", "Precision", "export_model"]

Kind = Literal["onnx", "openvino", "classifier", "web"]
Precision = Literal["float32", "float16", "int8"]
NAMED = 3  # files that are told of a folder that may not be replaced


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
    """Write a fitted model as a folder for another runtime, once that computes what the model computes.

    model: a model, or the folder of a saved one. to: "onnx", "openvino", "classifier", the class matrix alone, or
    "web", a page that classifies in the browser.
    precision: "float16" keeps weights in half precision; "int8" computes the image tower in 8 bits. images: a folder of
    pictures, or labelled data as `read_task` reads them, that the export is compared on, and int8 calibrated on;
    without them pictures are generated. task: which one, of a model of several.

    Raises:
        UsageError: a library that is missing, a folder that may not be replaced, a method that has no class matrix,
            int8 without images.
        ShotfitError: an export that computes something else than the model; nothing is written.

    Example (needs the extra onnx):
        export_model("my-model", "onnx", "my-export").record["compared"]
    """
    check_installed(to)
    if to == "classifier" and precision != "float32":
        raise UsageError(f"A classifier is a small matrix, in float32 alone: leave out --precision {precision}.")
    if precision == "int8" and images is None:
        raise UsageError("int8 is calibrated on pictures: name some with --images FOLDER (in Python images=...).")
    folder = Path(out)
    check_target(folder)
    opened = model if isinstance(model, Model) else load(model, precision="float32", device="cpu")
    reference = in_float32(opened if task is None else opened.for_task(task))
    reference.one_task()
    if opened.rule:
        raise UsageError(
            f"The model was fitted with {opened.rule.flags()}, and an export reads pictures as they are stored: "
            "predict with shotfit, or save the pictures in 8 bits and fit again."
        )
    if reference.several_labels:
        raise refuse("Exports")
    if reference.frozen.backbone.closed:
        raise UsageError(
            f"{reference.frozen.backbone.name} is closed, and only shotfit's own towers are exported: write features "
            "with `shotfit embed`, or fit on a backbone of docs/backbones.md."
        )
    size = reference.frozen.backbone.config.preprocessing.size
    pictures = generated_pictures(size) if images is None else given_pictures(Path(images), reference)
    if precision == "int8" and not pictures.calibrating:
        raise UsageError(
            f"{images} holds no picture beside those that the export is measured on, and int8 is calibrated on others: "
            "name a folder with more."
        )
    with TemporaryDirectory(prefix="shotfit-") as place:
        made = _made(reference, to, precision, pictures, Path(place))
        found = compared(reference, pictures.measured, made.run)
        if precision == "float32":
            check_equal(found, to)
        check_finite(found, to)
        record = record_of(reference, to, made.files[0].name, precision) | made.more
        record["compared"] = _compared_record(reference, found, pictures)
        if precision == "int8":
            record["compared"]["calibrated_on"] = len(pictures.calibrating)
        files = {path.name: path.read_bytes() for path in made.files}
        if to == "web":
            check_size(files)
            files |= page_files()
        return save(folder, record, files)


@dataclass(frozen=True)
class Made:
    """What lies in a temporary folder: the files, the model first; how to run them; what the record says of them."""

    files: list[Path]
    run: Run
    more: dict[str, Any]


def _made(model: Model, to: Kind, precision: Precision, pictures: Pictures, place: Path) -> Made:
    if to == "classifier":
        matrix, file = class_matrix(model), place / "classifier.safetensors"
        file.write_bytes(matrix.content())
        features = {"name": "features", "type": "float32", "shape": ["n", model.frozen.embed]}
        more = {"input": features, "scale": matrix.scale, "normalize": matrix.normalize}
        return Made([file], matrix.run(model), more)
    graph, out = place / "traced" / "model.onnx", place / "model.onnx"
    graph.parent.mkdir()
    write_graph(Traced(model), graph)
    if precision != "float32":  # else the caller compares what comes of it
        check_equal(compared(model, pictures.measured, run_graph(graph)), "onnx")
    if precision == "int8":
        in_int8(graph, out, (pixels.numpy() for pixels in pixels_of(model, pictures.calibrating)))
    elif precision == "float16" and to != "openvino":
        in_half(graph, out)
    else:
        out = graph
    if to == "openvino":
        xml = place / "model.xml"
        write_openvino(out, xml, half=precision == "float16")
        return Made([xml, xml.with_suffix(".bin")], run_openvino(xml), {})
    return Made(sorted(out.parent.glob("model.onnx*")), run_graph(out), {})


def _compared_record(model: Model, found: Agreement, pictures: Pictures) -> dict[str, Any]:
    """What `export.json` says of the comparison; accuracies where some of the pictures have labels."""
    labels, told = np.array(pictures.labels), dict[str, Any]()
    known = labels >= 0
    if known.any():
        rows = {"model": found.expected, "export": found.classes}
        told["accuracy"] = {name: float((row == labels)[known].mean()) for name, row in rows.items()}
        told["labelled"] = int(known.sum())
    if model.record["precision"] in ("bfloat16", "int8"):
        as_fitted = float((classes_of(as_it_was_fitted(model), pictures.measured) == found.classes).mean())
        told["as_fitted"] = {"precision": model.record["precision"], "same": as_fitted}
    given = {"images": found.images, "given": pictures.given}
    return given | {"difference": found.difference, "same": found.same} | told


def in_float32(model: Model) -> Model:
    """The model on its backbone in float32 on the CPU, however it was opened.

    Raises ShotfitError for a backbone that has changed since.
    """
    backbone = model.frozen.backbone
    if backbone.precision != "float32" or backbone.device.type != "cpu":
        backbone = load_backbone(backbone.name)
        if backbone.fingerprint != model.frozen.backbone.fingerprint:
            raise ShotfitError(f"{backbone.name} has changed since the model was opened: open the model again.")
    return _on(backbone, model)


def as_it_was_fitted(model: Model) -> Model:
    """The model, opened in float32, on a backbone in the precision that it was fitted in."""
    backbone = model.frozen.backbone
    return _on(in_precision(deepcopy(backbone), model.record["precision"], backbone.device), model)


def _on(backbone: Backbone, model: Model) -> Model:
    frozen = Frozen(backbone, MemoryStore())
    return Model(attached(model.method, frozen), frozen, model.record, model.task, model.learned, model.trust)


def save(folder: Path, record: Mapping[str, Any], files: Mapping[str, bytes]) -> Export:
    """Write the files with their record and a README, all or nothing."""
    files = {**files, "README.md": readme(record).encode()}
    written = dict(record) | {"sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}}
    content = json.dumps(written, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
    try:
        write_folder(folder.resolve(), {**files, RECORD: content})
    except OSError as error:
        raise ShotfitError(
            f"{printable(folder)} cannot be written ({error.strerror}): choose another --out."
        ) from error
    return Export(folder, written)


def check_target(folder: Path) -> None:
    """Refuse, in a sentence, a folder that no export may replace: one that holds anything but an older export."""
    own = _files_of(folder) | {RECORD, *SYSTEM_FILES}
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    others = set(islice((name for name in names if name not in own), NAMED))  # of a whole disk it is no more either
    check_replaceable(folder, others, "an export")


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
