"""Two encoders that were never trained together, in one space: a folder that `shotfit align` wrote.

    joined/joined.json              the two encoders by name and fingerprint, how they were joined, what was measured
    joined/joined.safetensors       of each encoder a mean [width] and a map [width, embed]
    joined/README.md                a card

    load_backbone("joined/")                                    # of encoders that libraries load by a public name
    load_backbone("joined/+my.py:images+my.py:texts")           # of encoders of your own, named again
    open_joined("joined/", image=object, text=object)           # of objects of Python

    feature = (encoder(x) / |encoder(x)| - mean) @ map          # [n, embed]

The folder runs no code and opens no path: it says what the encoders are called, and whoever opens it names those that
are files. They must have the fingerprints that they were joined with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from shotfit.calls import checked
from shotfit.checkpoints.closed import (
    JOIN,
    OBJECT,
    closed_half,
    joined_parts,
    named_by_library,
    opened_again,
    with_places,
)
from shotfit.checkpoints.examined import fingerprint_of
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import MODEL_BYTES, SETTINGS_BYTES, UnreadableError, read_bytes, read_text
from shotfit.towers.backbone import LARGEST_SCALE, Backbone
from shotfit.towers.closed import ClosedBackbone

__all__ = ["CARD", "RECORD", "WEIGHTS", "Maps", "files_of", "is_joined", "join", "load_joined", "open_joined"]

RECORD, WEIGHTS, CARD = "joined.json", "joined.safetensors", "README.md"
FORMAT = 1
NAMES = ("image_mean", "image_map", "text_mean", "text_map")


@dataclass(frozen=True, eq=False)
class Maps:
    """Into the joint space: means [image] and [text], maps [image, embed] and [text, embed], all float32."""

    image_mean: Tensor
    image_map: Tensor
    text_mean: Tensor
    text_map: Tensor
    logit_scale: float

    @property
    def embed(self) -> int:
        """Width of the joint space."""
        return self.image_map.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """By their names in the file."""
        return {name: getattr(self, name).detach().cpu().float().contiguous() for name in NAMES}

    def images(self, features: Tensor) -> Tensor:
        """Features [n, image] of the image encoder in the joint space, [n, embed]."""
        return _mapped(features, self.image_mean, self.image_map)

    def texts(self, features: Tensor) -> Tensor:
        """Features [n, text] of the text encoder in the joint space, [n, embed]."""
        return _mapped(features, self.text_mean, self.text_map)


def _mapped(features: Tensor, mean: Tensor, into: Tensor) -> Tensor:
    unit = features.to(into.dtype) / features.to(into.dtype).norm(dim=1, keepdim=True)
    return (unit - mean.to(unit.device)) @ into.to(unit.device)


class Joined:
    """The two encoders behind their maps, as one that `towers/closed.py` runs."""

    def __init__(self, image: ClosedBackbone, text: ClosedBackbone, maps: Maps) -> None:
        self.image, self.text, self.maps = image.encoder[0], text.encoder[0], maps
        self.embed, self.logit_scale = maps.embed, maps.logit_scale
        if image.moves and text.moves:
            self.to = self._to

    def preprocess(self, image: Image.Image) -> Any:
        return self.image.preprocess(image)

    def encode_images(self, pixels: Tensor) -> Tensor:
        return self.maps.images(self.image.encode_images(pixels))

    def encode_texts(self, texts: list[str]) -> Tensor:
        return self.maps.texts(self.text.encode_texts(texts))

    def _to(self, device: torch.device) -> None:
        movable: tuple[Any, Any] = (self.image, self.text)
        for encoder in movable:
            encoder.to(device)


def is_joined(folder: Path) -> bool:
    """Whether a folder is one that `shotfit align` wrote."""
    return (folder / RECORD).is_file()


def join(
    image: ClosedBackbone, text: ClosedBackbone, maps: Maps, name: str = "", reopens: bool = False
) -> ClosedBackbone:
    """The backbone of two halves that were examined. reopens: any process opens it by the name."""
    encoder = Joined(image, text, maps)
    digest = hashlib.sha256(save(maps.tensors())).hexdigest()
    fingerprint = fingerprint_of("joined", image.fingerprint, text.fingerprint, digest, round(maps.logit_scale, 4))
    rule = image.config.preprocessing
    name = name or f"{OBJECT}joined {image.name} and {text.name}"
    again = (opened_again, (name, fingerprint)) if reopens else None
    return ClosedBackbone(encoder, name, fingerprint, rule.size, rule.function, maps.logit_scale, image.device, again)


def files_of(image: ClosedBackbone, text: ClosedBackbone, maps: Maps, record: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a joined folder but its card. record: what else its `joined.json` says."""
    weights = save(maps.tensors(), metadata={"format": "pt"})
    told = {
        "format": "shotfit-joined",
        "version": FORMAT,
        "embed": maps.embed,
        "logit_scale": maps.logit_scale,
        "image": _told(image),
        "text": _told(text),
        "weights": hashlib.sha256(weights).hexdigest(),
        **record,
    }
    content = json.dumps(told, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return {WEIGHTS: weights, RECORD: content + b"\n"}


def _told(half: ClosedBackbone) -> dict[str, Any]:
    """Of an encoder: its name, whether that is of a file or object of this machine, and its fingerprint."""
    name = _portable(half.name)
    file = not named_by_library(half.name) or name != half.name
    return {"name": name, "file": file, "fingerprint": half.fingerprint}


def _portable(name: str) -> str:
    """The name of an encoder without a folder of this machine."""
    return with_places(name, lambda place: Path(place).name)


def load_joined(source: str | Path) -> ClosedBackbone:
    """The backbone of `FOLDER`, or of `FOLDER+IMAGE+TEXT`, which names its encoders.

    Raises ShotfitError and UsageError in a sentence.
    """
    folder, image, text = joined_parts(str(source)) or (str(source), None, None)
    return _opened(Path(folder), image, text)


@checked
def open_joined(folder: str | Path, image: Any, text: Any) -> Backbone:
    """The backbone that `align` saved in a folder, with its two encoders, by name or as objects.

    Raises ShotfitError for a folder that is none, is damaged, or was made of other encoders.

    Example (needs a folder of `shotfit align`):
        backbone = open_joined("joined", my_images, "sentence-transformers:all-MiniLM-L6-v2")
    """
    return _opened(Path(folder), image, text)


def _opened(folder: Path, image: Any, text: Any) -> ClosedBackbone:
    record = _record(folder)
    maps = _maps(folder, record)
    halves = []
    for kind, given in (("image", image), ("text", text)):
        own = record[kind]["name"]
        if given is None:
            if not named_by_library(own) or record[kind].get("file", True):
                raise UsageError(
                    f"{folder} was made of the {kind} encoder {own}, which is a file or an object of its maker's: name "
                    f"both encoders again, as {folder}{JOIN}FILE.py:IMAGES{JOIN}FILE.py:TEXTS (in Python open_joined)."
                )
            given = own
        half = closed_half(given, "images" if kind == "image" else "texts")
        if half.fingerprint != record[kind]["fingerprint"]:
            raise ShotfitError(
                f"{folder} was made of the {kind} encoder {own} (fingerprint {record[kind]['fingerprint'][:12]}), but "
                f"{half.name} has fingerprint {half.fingerprint[:12]}: name that one, or align again."
            )
        width = getattr(maps, f"{kind}_map").shape[0]
        if half.embed != width:
            raise _damaged(folder)
        halves.append(half)
    place = str(folder.absolute())
    if image is not None or text is not None:
        place = JOIN.join([place, *(half.name for half in halves)])
    reopens = all(half.again is not None for half in halves)
    return join(halves[0], halves[1], maps, place if reopens else "", reopens)


def _record(folder: Path) -> dict[str, Any]:
    """What `joined.json` says, once every field that is used is there and of its type."""
    try:
        record = json.loads(read_text(folder / RECORD, SETTINGS_BYTES, "the record of joined encoders"))
    except UnreadableError as error:
        raise ShotfitError(f"{folder} is not what `shotfit align` wrote: {error}") from None
    except (ValueError, RecursionError):
        raise _damaged(folder) from None
    match record:
        case {
            "format": "shotfit-joined",
            "version": int(version),
            "logit_scale": float(scale),
            "image": {"name": str(), "fingerprint": str()},
            "text": {"name": str(), "fingerprint": str()},
            "weights": str(),
        } if abs(scale) <= LARGEST_SCALE:
            if version > FORMAT:
                raise ShotfitError(f"{folder / RECORD} was written by a newer shotfit. Update shotfit to open it.")
            return dict(record)
    raise _damaged(folder)


def _maps(folder: Path, record: Mapping[str, Any]) -> Maps:
    try:
        content = read_bytes(folder / WEIGHTS, MODEL_BYTES, "the maps of joined encoders")
        tensors = load(content)
    except (SafetensorError, ValueError, OSError, RecursionError, UnreadableError):
        raise _damaged(folder) from None
    whole = hashlib.sha256(content).hexdigest() == record["weights"] and tensors.keys() == {*NAMES}
    if not whole or not all(value.dtype == torch.float32 and value.isfinite().all() for value in tensors.values()):
        raise _damaged(folder)
    shapes = [tensors[name].shape for name in NAMES]
    fits = [len(shape) for shape in shapes] == [1, 2, 1, 2] and shapes[1][1] == shapes[3][1]
    if not fits or shapes[0][0] != shapes[1][0] or shapes[2][0] != shapes[3][0]:
        raise _damaged(folder)
    own = [tensors[name].clone() for name in NAMES]  # of memory of their own, aligned
    return Maps(own[0], own[1], own[2], own[3], float(record["logit_scale"]))


def _damaged(folder: Path) -> ShotfitError:
    return ShotfitError(f"{folder} is damaged or of another version of shotfit: align again.")
