"""What `adapter.json` and `adapter.safetensors` of a saved model hold, and how they are read and checked."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from shotfit.data.tasklist import DEEPEST
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import MODEL_BYTES, SETTINGS_BYTES, UnreadableError, read_bytes, read_text
from shotfit.fitting.folder import EXPORTED, RECORD, WEIGHTS, in_record, out_of_record
from shotfit.methods import address, find, in_file
from shotfit.methods.base import Method
from shotfit.towers.backbone import Backbone

__all__ = [
    "FORMAT",
    "HEADER_BYTES",
    "damaged",
    "encoded",
    "here",
    "kind_of",
    "mark_of",
    "portable",
    "read_record",
    "read_tensors",
    "record_of",
    "weights_of",
]

FORMAT = 2  # 1: without what `trust.py` keeps
HEADER_BYTES = 2**20  # of adapter.safetensors; the largest model of ours has 20 kB
KINDS = (torch.float16, torch.float32, torch.float64, torch.int64)  # of tensors of a saved model


def record_of(method: Method, backbone: Backbone) -> dict[str, Any]:
    """What `adapter.json` says of any fitted method."""
    return {
        "format": FORMAT,
        "method": method.name,
        "found_at": address(type(method)),
        "options": method.options(),
        "classes": [task.as_json() for task in method.classes],
        "backbone": {"name": backbone.name, "fingerprint": backbone.fingerprint},
        "precision": backbone.precision,
        "preprocessing": backbone.config.preprocessing.as_json(),
        "versions": {name: version(name) for name in ("shotfit", "torch")} | {"python": platform.python_version()},
    }


def portable(record: Mapping[str, Any], method: Method, folder: Path) -> dict[str, Any]:
    """The record as it is saved in a folder: paths lead from there, and tell nothing of the machine."""
    file, _, attribute = record["found_at"].rpartition(":")
    files = {str(path) for path in method.files()}
    return dict(record) | {
        "format": FORMAT,
        "found_at": f"{in_record(file, folder)}:{attribute}" if in_file(record["found_at"]) else record["found_at"],
        "options": {
            name: in_record(value, folder) if value in files else value for name, value in record["options"].items()
        },
        "backbone": record["backbone"] | {"name": in_record(record["backbone"]["name"], folder)},
    }


def here(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A record that was read from a folder, with the paths that lead from there as paths of this machine."""
    name = out_of_record(record["backbone"]["name"], folder)
    return dict(record) | {
        "found_at": out_of_record(record["found_at"], folder),
        "backbone": record["backbone"] | {"name": name},
    }


def weights_of(tensors: Mapping[str, Tensor], classes: Sequence[Mapping[str, Any]]) -> bytes:
    """The bytes of `adapter.safetensors`: the same for the same tensors and classes, whenever they are written."""
    content = save(dict(tensors))
    size = int.from_bytes(content[:8], "little")
    # the library writes metadata in an order that changes from process to process
    metadata = {"format": "shotfit", "version": str(FORMAT), "classes": mark_of(classes)}
    header = json.dumps({"__metadata__": metadata} | json.loads(content[8 : 8 + size]), separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def encoded(text: str) -> bytes:
    """As UTF-8; the name of a folder need not be text, and JSON gives back what is escaped."""
    return text.encode("utf-8", "backslashreplace")


def kind_of(folder: Path, record: Mapping[str, Any], method: str | type[Method] | None) -> type[Method]:
    """The method's class. A record may name an installed method; a file of code is run only if the caller names it."""
    found_at, name = record["found_at"], record["method"]
    if method is None and in_file(found_at):
        raise UsageError(
            f"{folder} was fitted by the method {name} of a file, which is run only if you name it: add "
            f"--method {shlex.quote(found_at)} (in Python method=...), or where that file is now."
        )
    kind = find(found_at if method is None else method) if not isinstance(method, type) else method
    if kind.name != name:
        raise UsageError(f"{folder} was saved by the method {name}, not by {kind.name}: name that one, or none.")
    return kind


def mark_of(classes: Sequence[Mapping[str, Any]]) -> str:
    """sha256 over the class lists, which the weights' file holds, so that neither is read with another's."""
    return hashlib.sha256(json.dumps(classes, sort_keys=True).encode()).hexdigest()


def damaged(folder: Path) -> ShotfitError:
    return ShotfitError(f"{folder / RECORD} is damaged or of another version of shotfit: fit the model again.")


def read_record(folder: Path) -> dict[str, Any]:
    """What `adapter.json` of a saved model says, which is not opened.

    Raises ShotfitError for a folder that is no whole model.
    """
    try:
        record = json.loads(read_text(folder / RECORD, SETTINGS_BYTES, "the record of a model"))
    except UnreadableError as error:
        if not error.missing:
            raise
        if (folder / EXPORTED).is_file():
            raise ShotfitError(
                f"{folder} is an export, which `shotfit predict` alone reads: name the model that it was made of."
            ) from None
        raise ShotfitError(
            f"{folder} is not a shotfit model: it has no {RECORD}. Name a folder that `shotfit fit` wrote."
        ) from None
    except (ValueError, RecursionError):
        raise damaged(folder) from None
    match record:
        case {
            "format": int(number),
            "method": str(),
            "found_at": str(),
            "options": dict(),
            "classes": [_, *_] as classes,
            "precision": str(),
            "backbone": {"name": str(), "fingerprint": str()},
            "weights": str(),
        } if number in (1, FORMAT) and all(map(_is_class_list, classes)):
            return dict(record)
    raise damaged(folder)


def _is_class_list(plain: Any) -> bool:
    match plain:
        case {"task": str(), "names": [*names], "templates": [*templates]}:
            parents = plain.get("parents", [])
            whole = isinstance(parents, list) and len(parents) <= DEEPEST
            whole &= plain.get("several_labels", True) is True
            return whole and all(isinstance(text, str) for text in (*names, *templates, *parents))
    return False


def read_tensors(folder: Path, record: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    try:
        content = read_bytes(path, MODEL_BYTES, "what a method learned")
        metadata = _metadata_of(content)
        if metadata.get("format") != "shotfit":
            raise ShotfitError(f"{path} was not written by shotfit: fit the model again.")
        tensors = load(content)
    except UnreadableError as error:
        if not error.missing:
            raise
        raise ShotfitError(f"{folder} lacks {WEIGHTS}: fit the model again.") from None
    except (SafetensorError, OSError, ValueError, RecursionError):
        raise ShotfitError(f"{path} is damaged or cut off: fit the model again.") from None
    if hashlib.sha256(content).hexdigest() != record["weights"] or metadata.get("classes") != mark_of(
        record["classes"]
    ):
        raise ShotfitError(f"{path} is not the file that {RECORD} was written with: fit the model again.")
    for name, tensor in tensors.items():
        if tensor.dtype not in KINDS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ShotfitError(f"{path} has {name} of {kind}, which no method keeps: fit the model again.")
        if not tensor.isfinite().all():
            raise ShotfitError(f"{path} holds numbers that are not finite ({name}): fit the model again.")
    return tensors


def _metadata_of(content: bytes) -> Mapping[str, Any]:
    """What the file says of itself. Raises ValueError, or RecursionError, for a header that shotfit does not write."""
    size = int.from_bytes(content[:8], "little")
    if not 0 < size <= min(HEADER_BYTES, len(content) - 8):
        raise ValueError("no header, or a huge one")
    header = json.loads(content[8 : 8 + size])
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return metadata if isinstance(metadata, dict) else {}
