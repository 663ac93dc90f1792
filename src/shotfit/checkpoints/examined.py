"""The contract of closed encoders: what is looked at before anything is made of their features.

    found = examine(encoder, "my.py:make")          # a few fixed pictures and texts, some of them twice

Features are kept in the store and read by other processes, so an encoder has to give the same for the same input,
whatever stands beside it in a batch. What it is is known by a fingerprint: its weights, where it has a `state_dict`,
and always what it answers to the fixed inputs. Answers are rounded coarsely, because processors differ in their last
digits: in each of 8 directions drawn once, to a quarter of what a random feature deviates by. Another pooling, another
filter of the resizing or another beginning of each text moves some of those numbers by more.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shotfit.errors import ShotfitError
from shotfit.towers.backbone import LARGEST_SCALE
from shotfit.towers.closed import called
from shotfit.towers.config import LARGEST_IMAGE, LARGEST_WIDTH

__all__ = [
    "Half",
    "device_of_encoder",
    "fingerprint_of",
    "images_half",
    "logit_scale_of",
    "texts_half",
    "weights_digest",
]

SIZES = ((320, 240), (200, 300), (64, 64), (257, 191))  # width and height of the pictures
TEXTS = ("a photo of a dog.", "x", "X-ray: no acute finding, 2nd view (left)", "ein Fluß im Gebirge, im späten Herbst")
SAME, BESIDE = 1e-5, 1e-2  # of a feature's length: from call to call, and with others in the batch
DIRECTIONS, STEP = 8, 0.25


@dataclass(frozen=True)
class Half:
    """One of the two encoders. size: longer side of the pixels, 0 of texts. answers: rounded, of the fixed inputs."""

    embed: int
    size: int
    answers: tuple[int, ...]
    prepare: Callable[[Image.Image], Tensor] | None = None


def images_half(encoder: Any, name: str, device: torch.device) -> Half:
    """The image encoder and its preprocessing, checked. Raises ShotfitError in a sentence for what it breaks."""
    _has(encoder, name, "preprocess", "encode_images")
    shape: list[int] = []

    def prepare(image: Image.Image) -> Tensor:
        """A picture in RGB as float32 pixels, [3, height, width] of the size that the first one had."""
        given = called(f"{name}: preprocess", encoder.preprocess, image)
        pixels = torch.from_numpy(given) if isinstance(given, np.ndarray) else given
        if not isinstance(pixels, Tensor) or pixels.dim() != 3 or pixels.shape[0] != 3 or not pixels.numel():
            what = list(pixels.shape) if isinstance(pixels, Tensor) else f"a {type(given).__name__}"
            raise ShotfitError(f"{name}: preprocess gave {what}, where pixels [3, height, width] are expected.")
        if max(pixels.shape) > LARGEST_IMAGE:
            raise ShotfitError(f"{name}: preprocess gave {list(pixels.shape)}; sides are {LARGEST_IMAGE:,} at most.")
        shape[:] = shape or pixels.shape
        if list(pixels.shape) != shape:
            raise ShotfitError(
                f"{name}: preprocess gave {list(pixels.shape)} and {shape} of two pictures; all are to be of one size."
            )
        pixels = pixels.detach().to("cpu", torch.float32)
        if not pixels.isfinite().all():
            raise ShotfitError(f"{name}: preprocess gave numbers that are not finite.")
        return pixels

    pictures = [_picture(number) for number in range(len(SIZES))]
    shown = torch.stack([prepare(picture) for picture in pictures])
    if not torch.equal(shown[0], prepare(pictures[0])):
        raise ShotfitError(
            f"{name}: preprocess gave two results of one picture: leave out what is random, as of training."
        )

    def encode(rows: Sequence[int]) -> Tensor:
        return encoder.encode_images(shown[list(rows)].to(device))

    features = _examined(f"{name}: encode_images", encode, len(pictures))
    looks = [*_coarse(shown.flatten(1) / math.sqrt(shown[0].numel()), STEP / 5), *_moments(shown)]
    return Half(features.shape[1], max(shape[1:]), (*looks, *_coarse(_unit(features))), prepare)


def texts_half(encoder: Any, name: str) -> Half:
    """The text encoder, checked. Raises ShotfitError in a sentence for what it breaks."""
    _has(encoder, name, "encode_texts")
    features = _examined(
        f"{name}: encode_texts", lambda rows: encoder.encode_texts([TEXTS[row] for row in rows]), len(TEXTS)
    )
    return Half(features.shape[1], 0, tuple(_coarse(_unit(features))))


def logit_scale_of(encoder: Any, name: str) -> float:
    """The logarithm of what multiplies cosines. Raises ShotfitError for what cannot be one."""
    _has(encoder, name, "logit_scale", "embed")
    try:
        scale = float(encoder.logit_scale)
    except (TypeError, ValueError, RuntimeError):
        raise ShotfitError(f"{name}: logit_scale is no number; expected a logarithm, such as 4.6052.") from None
    if not abs(scale) <= LARGEST_SCALE:
        raise ShotfitError(
            f"{name}: logit_scale is {scale:g}; expected the natural logarithm of what multiplies cosines, as CLIP "
            f"has it ({math.log(100):.4f} for 100), {LARGEST_SCALE:g} at most."
        )
    return scale


def weights_digest(encoder: Any, name: str) -> str:
    """sha256 over what `state_dict` gives, names and shapes included; "" where there is none."""
    state = getattr(encoder, "state_dict", None)
    if state is None:
        return ""
    found = called(f"{name}: state_dict", state)
    if not isinstance(found, Mapping):
        raise ShotfitError(f"{name}: state_dict gave a {type(found).__name__}; expected tensors by name.")
    digest = hashlib.sha256()
    for key, value in sorted(found.items()):
        digest.update(str(key).encode())
        if isinstance(value, Tensor):
            digest.update(f"{tuple(value.shape)}{value.dtype}".encode())
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


def device_of_encoder(encoder: Any) -> torch.device:
    """Where its pixels go: its `device`, else where its first weight lies, else the CPU."""
    device = getattr(encoder, "device", None)
    if device is not None:
        return torch.device(device)
    state = getattr(encoder, "state_dict", dict)
    values = (value for value in state().values() if isinstance(value, Tensor))
    return next((value.device for value in values), torch.device("cpu"))


def fingerprint_of(*parts: object) -> str:
    """sha256 over plain values."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _has(encoder: Any, name: str, *wanted: str) -> None:
    missing = [own for own in wanted if not hasattr(encoder, own)]
    if missing:
        raise ShotfitError(
            f"{name} has no {missing[0]}: encoders have encode_images, encode_texts, preprocess, logit_scale, embed."
        )


def _examined(what: str, encode: Callable[[Sequence[int]], Tensor], count: int) -> Tensor:
    """Features [count, embed] of the fixed inputs, once they keep the contract."""
    every = range(count)
    features = _features(what, encode, every)
    again, turned = _features(what, encode, every), _features(what, encode, [*every][::-1]).flip(0)
    alone = torch.cat([_features(what, encode, [row]) for row in every])
    if _apart(features, again) > SAME:
        raise ShotfitError(
            f"{what} gave two results of one input: call .eval() on the model, and leave out what is random."
        )
    for other in (turned, alone):
        if _apart(features, other) > BESIDE:
            raise ShotfitError(
                f"{what} gives a feature that depends on what else is in its batch (it moves by "
                f"{_apart(features, other):.0%} of its length): mask padding, and call .eval() on the model."
            )
    if float((_unit(features) - _unit(features)[:1]).norm(dim=1).max()) < SAME:
        raise ShotfitError(f"{what} gives the same feature for every input, which tells nothing apart.")
    return features


def _features(what: str, encode: Callable[[Sequence[int]], Tensor], rows: Sequence[int]) -> Tensor:
    given = called(what, encode, rows)
    if not isinstance(given, Tensor) or not given.is_floating_point():
        kind = given.dtype if isinstance(given, Tensor) else type(given).__name__
        raise ShotfitError(f"{what} gave {kind}; expected a tensor of floating-point numbers [{len(rows)}, embed].")
    if given.dim() != 2 or len(given) != len(rows) or not 0 < given.shape[1] <= LARGEST_WIDTH:
        raise ShotfitError(f"{what} gave {list(given.shape)} for {len(rows)} inputs; expected [{len(rows)}, embed].")
    features = given.detach().to("cpu", torch.float32)
    if not features.isfinite().all() or not (features.norm(dim=1) > 0).all():
        raise ShotfitError(f"{what} gave numbers that are not finite, or nothing but zeros.")
    return features


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of two rows, of the row's length."""
    return float(((one - other).norm(dim=1) / one.norm(dim=1)).max())


def _unit(features: Tensor) -> Tensor:
    return features / features.norm(dim=1, keepdim=True)


def _coarse(rows: Tensor, step: float = STEP) -> list[int]:
    """Rows [n, d] of about unit length in a few directions, rounded."""
    bits = np.unpackbits(np.frombuffer(_drawn(b"directions", -(-rows.shape[1] * DIRECTIONS // 8)), np.uint8))
    signs = torch.from_numpy(bits[: rows.shape[1] * DIRECTIONS].reshape(-1, DIRECTIONS).astype(np.float64) * 2 - 1)
    return [round(value / step) for value in (rows.double() @ signs).flatten().tolist()]


def _moments(pixels: Tensor) -> list[int]:
    """Mean and deviation of the pixels of each picture, rounded."""
    rows = pixels.double().flatten(1)
    return [round(value / STEP) for value in [*rows.mean(dim=1).tolist(), *rows.std(dim=1).tolist()]]


def _picture(number: int) -> Image.Image:
    """A fixed picture: large squares with fine noise, so that size, filter and color all show."""
    width, height = SIZES[number]
    coarse = np.frombuffer(_drawn(b"squares%d" % number, 16 * 16 * 3), np.uint8).reshape(16, 16, 3)
    fine = np.frombuffer(_drawn(b"noise%d" % number, width * height * 3), np.uint8).reshape(height, width, 3)
    rows, columns = np.arange(height) * 16 // height, np.arange(width) * 16 // width
    mixed = coarse[rows][:, columns].astype(np.uint16) + fine.astype(np.uint16)
    return Image.fromarray((mixed // 2).astype(np.uint8))


def _drawn(what: bytes, count: int) -> bytes:
    """Bytes that are the same on every machine and in every version of numpy."""
    return hashlib.shake_256(b"shotfit " + what).digest(count)
