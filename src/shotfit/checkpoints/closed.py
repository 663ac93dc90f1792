"""From a name to a closed backbone: encoders that another library, or the user's own code, runs.

    my.py:make                              a function without arguments that gives the encoder (towers/closed.py)
    open_clip:ViT-B-16-SigLIP2@webli        any model of open_clip, with any of its weights
    transformers:google/siglip2-base-patch16-224        a model of two encoders, by id or folder
    joined/                                 two encoders that `shotfit align` put into one space (joined.py)

Of a file of code the user's word alone is taken: no model names one that is run. The libraries load weights as they do,
without code from a repository.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from shotfit.checkpoints.code import is_code, named_in
from shotfit.checkpoints.examined import (
    device_of_encoder,
    fingerprint_of,
    images_half,
    logit_scale_of,
    texts_half,
    weights_digest,
)
from shotfit.checkpoints.libraries import BOTH, HALVES, of_library
from shotfit.errors import ShotfitError, UsageError
from shotfit.towers.backbone import Backbone
from shotfit.towers.closed import ClosedBackbone, called

__all__ = [
    "JOIN", "OBJECT", "close", "closed_half", "encoder_of",
    "is_closed", "is_place", "joined_parts", "load_closed",
    "named_by_library", "opened_again", "with_places",
]  # fmt: skip

LOCAL = "local-dir:"  # how timm is told of a folder
JOIN = "+"  # between a joined folder and the names of its encoders
OBJECT = "object:"  # what the name of an encoder begins with that is an object of Python, and nothing else


def named_by_library(name: str) -> bool:
    """Whether a name is one of a library's models.

    >>> named_by_library("open_clip:ViT-B-32@openai"), named_by_library("my.py:make")
    (True, False)
    """
    return name.partition(":")[0] in (*BOTH, *HALVES) and not is_code(name)


def is_closed(name: str) -> bool:
    """Whether a name is one of a closed backbone, whose encoder another's code runs."""
    return is_code(name) or named_by_library(name) or name.startswith(OBJECT) or joined_parts(name) is not None


def joined_parts(name: str) -> tuple[str, str, str] | None:
    """The folder and the encoders of a name of joined ones; None for any other name.

    >>> joined_parts("joined/+my.py:images+timm:resnet18"), joined_parts("a+b/my.py:make")
    (('joined/', 'my.py:images', 'timm:resnet18'), None)
    """
    folder, *pieces = name.rsplit(JOIN, 2)
    named = len(pieces) == 2 and bool(folder) and all(is_code(piece) or named_by_library(piece) for piece in pieces)
    return (folder, pieces[0], pieces[1]) if named else None


def with_places(name: str, change: Callable[[str], str]) -> str:
    """A name of a backbone, with each file or folder in it as `change` gives it.

    >>> with_places("open_clip:ViT-B-32@/home/me/weights.pt", lambda place: place.rpartition("/")[2])
    'open_clip:ViT-B-32@weights.pt'
    """
    pieces = joined_parts(name)
    if pieces is not None:
        return JOIN.join(with_places(piece, change) for piece in pieces)
    if not named_by_library(name):
        return change(name)
    library, _, model = name.partition(":")
    head, mark, file = model.partition("@") if library == "open_clip" else ("", "", model)
    if model.startswith(LOCAL):
        head, mark, file = "", LOCAL, model.removeprefix(LOCAL)
    return f"{library}:{head}{mark}{change(file)}" if is_place(file) else name


def is_place(model: str) -> bool:
    """Whether what a library is to load is a file or folder of this machine, and no public name."""
    return model.startswith((".", "/", "~")) or "\\" in model or (bool(model) and Path(model).exists())


def encoder_of(name: str) -> tuple[Any, str]:
    """The encoder of a name, and the name by which it is found from any folder. It is not checked yet.

    Raises UsageError and ShotfitError in a sentence.
    """
    if name.startswith(OBJECT):
        raise UsageError(f"{name} is an object of the Python that it was made in: open the model there (backbone=...).")
    if not is_code(name):
        return of_library(name), with_places(name, lambda place: str(Path(place).expanduser().absolute()))
    file, _, attribute = name.rpartition(":")
    make = named_in(name, "the encoder")
    if not callable(make):
        raise UsageError(f"{name} is a {type(make).__name__}; expected a function that gives the encoder.")
    return called(f"{name}", make), f"{Path(file).absolute()}:{attribute}"


def load_closed(name: str) -> ClosedBackbone:
    """The backbone of a name. Raises UsageError and ShotfitError in a sentence; see `close`."""
    if name.partition(":")[0] in HALVES and not is_code(name):
        kind = HALVES[name.partition(":")[0]]
        raise UsageError(f"{name} encodes {kind} alone: join it with another first, by `shotfit align`.")
    encoder, whole = encoder_of(name)
    return close(encoder, whole, reopens=True)


def close(encoder: Any, name: str = "", reopens: bool = False) -> ClosedBackbone:
    """A backbone of an encoder (`shotfit.towers.closed.Encoder`), once it keeps the contract of `examined.py`.

    name: as models record it; by default `object:` and the encoder's `name`, or that of its class. reopens: any process
    opens it by the name.

    Raises ShotfitError for what it breaks.
    """
    name = name or _object_name(encoder)
    scale, device = logit_scale_of(encoder, name), device_of_encoder(encoder)
    images, texts = images_half(encoder, name, device), texts_half(encoder, name)
    if not images.embed == texts.embed == encoder.embed:
        raise ShotfitError(
            f"{name} says embed {encoder.embed}, but gives image features of {images.embed} and text features of "
            f"{texts.embed}; expected one width for all (`shotfit align` joins encoders of different ones)."
        )
    fingerprint = fingerprint_of(
        weights_digest(encoder, name), images.answers, texts.answers, images.embed, round(scale, 4)
    )
    assert images.prepare is not None
    again = (opened_again, (name, fingerprint)) if reopens else None
    return ClosedBackbone(encoder, name, fingerprint, images.size, images.prepare, scale, device, again)


def _object_name(encoder: Any) -> str:
    own = getattr(encoder, "name", "")
    return f"{OBJECT}{own if isinstance(own, str) and own else type(encoder).__name__}"


def closed_half(given: Any, kind: Literal["images", "texts"]) -> ClosedBackbone:
    """One encoder alone, by name or as an object, in a backbone that encodes nothing else.

    Raises ShotfitError and UsageError in a sentence.
    """
    library = given.partition(":")[0] if isinstance(given, str) and named_by_library(given) else ""
    if HALVES.get(library, kind) != kind:
        raise UsageError(f"{given} encodes {HALVES[library]}, and was given for the {kind}.")
    encoder, name = encoder_of(given) if isinstance(given, str) else (given, "")
    reopens = bool(name)
    name = name or _object_name(encoder)
    device = device_of_encoder(encoder)
    half = images_half(encoder, name, device) if kind == "images" else texts_half(encoder, name)
    fingerprint = fingerprint_of(kind, weights_digest(encoder, name), half.answers, half.embed)
    prepare = half.prepare or _no_images
    again = (closed_half, (given, kind)) if reopens else None
    alone = _Alone(encoder, kind, half.embed)
    return ClosedBackbone(alone, name, fingerprint, max(half.size, 1), prepare, 0.0, device, again)


class _Alone:
    """An encoder of images or of texts where one of both is expected."""

    def __init__(self, encoder: Any, kind: Literal["images", "texts"], embed: int) -> None:
        self.encoder, self.embed, self.logit_scale = encoder, embed, 0.0
        shows = kind == "images"
        self.preprocess = encoder.preprocess if shows else _no_images
        self.encode_images = encoder.encode_images if shows else _no_images
        self.encode_texts = _no_texts if shows else encoder.encode_texts
        if hasattr(encoder, "to"):
            self.to = encoder.to


def _no_images(images: Any) -> Any:
    raise ShotfitError("an encoder of texts alone was given pictures.")


def _no_texts(texts: list[str]) -> Any:
    raise ShotfitError("an encoder of images alone was given texts.")


def opened_again(name: str, fingerprint: str) -> Backbone:
    """In another process. Raises ShotfitError where the name stands for something else there."""
    from shotfit.checkpoints.weights import load_backbone  # which opens joined encoders too

    loaded = load_backbone(name)
    if loaded.fingerprint != fingerprint:
        raise ShotfitError(f"{name} is another backbone in this process: it has fingerprint {loaded.fingerprint[:12]}.")
    return loaded
