"""Tensors of weights files that are still there: each is read when it is taken, so that no file lies in memory twice.

    tensors = read_safetensors(path)      # names, shapes, precisions; the numbers stay in the file
    tensors["logit_scale"].read()

Files are read and not memory-mapped: one that another program cuts off is an error, and not the end of the process.
"""

from __future__ import annotations

import json
import os
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import IO, Any
from zlib import crc32

import torch
from torch import Tensor

from shotfit.checkpoints.pickles import LARGEST_COUNT, LONGEST_SHAPE, Described, Storage
from shotfit.errors import ShotfitError
from shotfit.files import WEIGHTS_BYTES, open_regular

__all__ = ["Source", "Tensors", "Unread", "content_of", "of_storages", "read_safetensors"]

LARGEST_HEADER = 64 * 2**20  # bytes of a safetensors file's header; a thousand tensors take 0.1 MiB
PIECE = 2**18  # bytes that are read at once
WHAT = "the weights of a backbone"

_KINDS = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
    "BOOL": torch.bool,
}


@dataclass(frozen=True, eq=False)
class Unread:
    """A tensor in a file. `read` gives it, and raises ShotfitError if the file is damaged there."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


Tensors = Mapping[str, Tensor | Unread]


def content_of(tensor: Tensor | Unread) -> Tensor:
    """The tensor itself, which is read if it was not yet."""
    return tensor.read() if isinstance(tensor, Unread) else tensor


def of_storages(described: Mapping[str, Described], read: Callable[[Storage], Tensor]) -> dict[str, Unread]:
    """Tensors as parts of storages. `read` reads a storage; one that several tensors share is kept until the last."""
    users, kept = Counter(tensor.storage.key for tensor in described.values()), dict[str, Tensor]()

    def part(tensor: Described) -> Tensor:
        key = tensor.storage.key
        content = kept.pop(key) if key in kept else read(tensor.storage)
        users[key] -= 1
        if users[key] > 0:
            kept[key] = content
        return torch.as_strided(content, tensor.size, tensor.stride, tensor.offset)

    return {name: Unread(one.size, one.storage.dtype, partial(part, one)) for name, one in described.items()}


class Source:
    """A file whose pieces are read one by one. Each reading opens it anew, and sees that it is still the same file."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self._mark = path, _mark(file)

    def read(self, place: int, dtype: torch.dtype, entries: int, crc: int | None = None) -> Tensor:
        """Numbers [entries] from a byte on. crc: what zip files say of them. Raises ShotfitError if they are others."""
        content = torch.empty(entries * dtype.itemsize, dtype=torch.uint8)  # at an address that torch is fast from
        view, found, checksum = content.numpy().data, 0, 0
        with open_regular(self.path, WEIGHTS_BYTES, WHAT) as file:
            same = _mark(file) == self._mark
            file.seek(place)
            while same and (piece := file.read(min(PIECE, len(view) - found))):
                view[found : found + len(piece)] = piece
                found += len(piece)
                checksum = checksum if crc is None else crc32(piece, checksum)
        if not same or found != len(view):
            raise ShotfitError(f"{self.path} was changed while it was read. Load it again.")
        if crc is not None and checksum != crc:
            damage = f"{len(view):,} bytes from {place:,} on have a wrong checksum"
            raise ShotfitError(f"{self.path} is damaged: {damage}. Fetch it again.")
        return content.view(dtype)


def _mark(file: IO[bytes]) -> tuple[int, ...]:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def read_safetensors(path: Path) -> dict[str, Unread]:
    """The tensors of a safetensors file. Raises ShotfitError if its header is none, or is not the file's.

    Eight bytes say how long the header is, which says for each tensor its kind, shape, and first and last byte behind
    the header. They stand without gaps up to the end of the file.
    """

    def damaged(reason: str) -> ShotfitError:
        return ShotfitError(f"{path} {reason}. Fetch it again.")

    with open_regular(path, WEIGHTS_BYTES, WHAT) as file:
        source, size = Source(path, file), os.fstat(file.fileno()).st_size
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, LARGEST_HEADER):
                raise ValueError("its header is longer than the file, or than any")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            entries = [_entry(name, entry) for name, entry in header.items()]
        except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise damaged(f"is truncated, damaged or no safetensors file ({str(error)[:120]})") from None
    start, place = 8 + length, 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != place:
            raise damaged(f"is damaged: {entry.name[:80]!r} begins at {entry.begin:,}, expected {place:,}")
        place = entry.end
    if start + place > size:
        raise damaged(f"is truncated (expected {start + place:,} bytes, found {size:,})")
    if start + place < size:
        raise damaged(f"is damaged: {size - start - place:,} bytes of it belong to no tensor")
    return {entry.name: Unread(entry.shape, entry.dtype, partial(_read, source, entry, start)) for entry in entries}


def _read(source: Source, entry: _Entry, start: int) -> Tensor:
    return source.read(start + entry.begin, entry.dtype, prod(entry.shape)).reshape(entry.shape)


@dataclass(frozen=True)
class _Entry:
    """A tensor in the header: its first byte and the one behind its last, counted from the header's end."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def _entry(name: str, found: dict[str, Any]) -> _Entry:
    """Raises what `read_safetensors` makes a sentence of."""
    kind, shape, (begin, end) = found["dtype"], found["shape"], found["data_offsets"]
    fits = len(shape) <= LONGEST_SHAPE and all(type(one) is int and 0 <= one < LARGEST_COUNT for one in shape)
    if not fits or kind not in _KINDS or type(begin) is not int or type(end) is not int:
        raise ValueError(f"{name[:80]!r} is of kind {str(kind)[:20]!r} and a shape or place that none can have")
    if end - begin != prod(shape) * _KINDS[kind].itemsize:
        raise ValueError(f"{name[:80]!r} has another number of bytes than its shape")
    return _Entry(name, _KINDS[kind], tuple(shape), begin, end)
