"""What `adapter.json` and `adapter.safetensors` of a saved model hold, and how they are read and checked."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from shotfit.errors import ShotfitError, UsageError
from shotfit.files import MODEL_BYTES, SETTINGS_BYTES, UnreadableError, read_bytes, read_text
from shotfit.fitting.folder import RECORD, WEIGHTS
from shotfit.methods import address, find, in_file
from shotfit.methods.base import Method
from shotfit.towers.backbone import Backbone

__all__ = ["FORMAT", "damaged", "kind_of", "mark_of", "read_record", "read_tensors", "record_of"]

FORMAT = 2  # 1: without what `trust.py` keeps


def record_of(method: Method, backbone: Backbone) -> dict[str, Any]:
    """What `adapter.json` says of any fitted method."""
    return {
        "format": FORMAT,
        "method": method.name,
        "found_at": address(type(method)),
        "options": method.options(),
        "classes": [asdict(task) for task in method.classes],
        "backbone": {"name": backbone.name, "fingerprint": backbone.fingerprint},
        "precision": str(backbone.dtype).removeprefix("torch."),
        "preprocessing": asdict(backbone.config.preprocessing),
        "versions": {name: version(name) for name in ("shotfit", "torch")} | {"python": platform.python_version()},
    }


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
            return all(isinstance(text, str) for text in (*names, *templates))
    return False


def read_tensors(folder: Path, record: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    try:
        content = read_bytes(path, MODEL_BYTES, "what a method learned")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != "shotfit":
                raise ShotfitError(f"{path} was not written by shotfit: fit the model again.")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
    except UnreadableError as error:
        if not error.missing:
            raise
        raise ShotfitError(f"{folder} lacks {WEIGHTS}: fit the model again.") from None
    except (SafetensorError, OSError):
        raise ShotfitError(f"{path} is damaged or cut off: fit the model again.") from None
    if hashlib.sha256(content).hexdigest() != record["weights"] or metadata.get("classes") != mark_of(
        record["classes"]
    ):
        raise ShotfitError(f"{path} is not the file that {RECORD} was written with: fit the model again.")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ShotfitError(f"{path} holds numbers that are not finite ({name}): fit the model again.")
    return tensors
