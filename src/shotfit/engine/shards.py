"""The files of the store: rows of tensors with their keys and checksums, in the format safetensors.

    shard = write_shard(folder, {"a": row, "b": other})     # immutable, under a name of its own
    Shard.open(shard.path).read([1, 0])                     # [2, ...]: other, row

Files are read and never memory-mapped: a file that another program cuts off would end the process there (a bus error),
and bytes that it changes would come in unseen. What is read is as long as it has to be and has the checksum that it was
written with (CRC-32 of the row, which begins with its key and form), or DamagedRowsError is raised.
"""

from __future__ import annotations

import json
import os
import re
import struct
import uuid
import weakref
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save
from torch import Tensor

from shotfit.errors import ShotfitError
from shotfit.files import (
    MODEL_BYTES,
    SETTINGS_BYTES,
    UnreadableError,
    is_exhausted,
    open_regular,
    write_atomically,
)

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

__all__ = ["DamagedRowsError", "Held", "Shard", "is_shard", "write_shard"]

MARK = "shotfit stream"
MOST_OPEN = 48  # files that rows keep open, the largest; many systems allow a process 256
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


class DamagedRowsError(ShotfitError):
    """A shard that is not, or no longer, what was written."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is damaged, cut off or gone: run the command again, which computes it anew.")
        self.path = path


def is_shard(path: Path) -> bool:
    """Whether a name is one that `write_shard` gives."""
    return re.fullmatch(r"[0-9a-f]{32}\.safetensors", path.name) is not None


def write_shard(folder: Path, rows: Mapping[str, Tensor]) -> Shard:
    """Write rows of one shape under their keys, all or nothing."""
    stacked = torch.stack(list(rows.values())).cpu().contiguous()
    path = folder / f"{uuid.uuid4().hex}.safetensors"
    shard = Shard(path, tuple(rows), stacked.dtype, stacked.shape[1:])
    content = stacked.view(torch.uint8).numpy().reshape(len(rows), -1)
    shard.checksums = [shard.checksum(row, values.data) for row, values in enumerate(content)]
    metadata = {
        "mark": MARK,
        "keys": json.dumps(shard.keys),
        "checksum": str(zlib.crc32(content.data)),  # of all rows, which earlier versions look at
        "checksums": json.dumps(shard.checksums),
    }
    data = save({"rows": stacked}, metadata=metadata)
    shard.begin = len(data) - stacked.nbytes
    write_atomically(path, data)
    return shard


class Shard:
    """One file: its keys, and the type and shape of a row. `begin`: where the rows begin, in bytes."""

    def __init__(self, path: Path, keys: Sequence[str], dtype: torch.dtype, shape: Sequence[int]) -> None:
        self.path, self.keys, self.dtype, self.shape = path, tuple(keys), dtype, tuple(shape)
        self.row_bytes = prod(self.shape) * dtype.itemsize
        self.begin, self.together = 0, 0  # together: the checksum of all rows
        self.checksums = list[int]()
        self._form = f" {dtype} {self.shape}"

    @classmethod
    def open(cls, path: Path) -> Shard:
        """A shard by its header.

        Raises FileNotFoundError, and DamagedRowsError where the file is not whole.
        """
        try:
            with _opened(path) as file:
                size = os.fstat(file.fileno()).st_size
                (length,) = struct.unpack("<Q", file.read(8))
                if length > min(size, SETTINGS_BYTES):
                    raise ValueError
                header = json.loads(file.read(length))
                metadata, rows = header["__metadata__"], header["rows"]
                count, *shape = rows["shape"]
                shard = cls(path, json.loads(metadata["keys"]), DTYPES[rows["dtype"]], shape)
                shard.begin = 8 + length
                whole = size == shard.begin + count * shard.row_bytes and min(shape, default=0) >= 0
                if metadata["mark"] != MARK or count != len(shard.keys) or not whole:
                    raise ValueError
                shard.together = int(metadata["checksum"])
                if "checksums" in metadata:
                    shard.checksums = list(map(int, json.loads(metadata["checksums"])))
                    if count != len(shard.checksums):
                        raise ValueError
        except UnreadableError as error:
            raise FileNotFoundError(path) if error.missing else DamagedRowsError(path) from None
        except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError):
            raise DamagedRowsError(path) from None
        return shard

    def _checked(self, file: BinaryIO) -> list[int]:
        """The checksums of a file of earlier versions, which has one of all rows, and is compared with that."""
        found, together = [], 0
        file.seek(self.begin)
        for row in range(len(self.keys)):
            values = file.read(self.row_bytes)
            together = zlib.crc32(values, together)
            found.append(self.checksum(row, values))
        if together != self.together:
            raise DamagedRowsError(self.path)
        return found

    def checksum(self, row: int, values: bytes | memoryview) -> int:
        """Of a row's bytes, its key and its form."""
        return zlib.crc32(values, zlib.crc32((self.keys[row] + self._form).encode()))

    def read(self, rows: Sequence[int], opened: BinaryIO | None = None) -> Tensor:
        """Rows by number, [len(rows), ...]. opened: the file, if it is. Raises DamagedRowsError."""
        found = torch.empty((len(rows), *self.shape), dtype=self.dtype)
        places = found.view(torch.uint8).numpy().reshape(-1).data
        try:
            with nullcontext(opened) if opened else _opened(self.path) as file:
                if not self.checksums and self.keys:
                    self.checksums = self._checked(file)
                for first, last in _runs(rows):  # of neighbours, which are read at once
                    file.seek(self.begin + rows[first] * self.row_bytes)
                    place = places[first * self.row_bytes : (last + 1) * self.row_bytes]
                    while place and (length := file.readinto(place)):  # type: ignore[attr-defined]  # of raw files
                        place = place[length:]
                    if place:
                        raise DamagedRowsError(self.path)
        except (OSError, UnreadableError) as error:
            if isinstance(error, OSError) and is_exhausted(error):
                raise
            raise DamagedRowsError(self.path) from None
        for number, row in enumerate(rows):
            place = places[number * self.row_bytes : (number + 1) * self.row_bytes]
            if self.checksum(row, place) != self.checksums[row]:
                raise DamagedRowsError(self.path)
        return found


class Held(Sequence[Tensor]):
    """Rows that lie in memory or in shards, from which they are read when they are asked for.

    Files stay open as long as it lives, so that rows can be read of a shard that another process evicts.
    """

    def __init__(self, places: Sequence[Tensor | tuple[Shard, int]]) -> None:
        self.places = list(places)
        self._files: dict[Shard, BinaryIO] = {}
        weakref.finalize(self, _close, self._files)
        sizes: Counter[Shard] = Counter()
        for place in self.places:
            if not isinstance(place, Tensor):
                sizes[place[0]] += place[0].row_bytes
        for shard, _ in sizes.most_common(_most_open()):
            with suppress(OSError, UnreadableError):  # reading tells
                self._files[shard] = _opened(shard.path)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, position: Any) -> Any:
        return self.stack([position])[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(place.nbytes if isinstance(place, Tensor) else place[0].row_bytes for place in self.places)

    def stack(self, positions: Sequence[int] | None = None) -> Tensor:
        """Rows by position, all by default: [n, ...]. Raises DamagedRowsError."""
        chosen = self.places if positions is None else [self.places[position] for position in positions]
        form = chosen[0] if isinstance(chosen[0], Tensor) else chosen[0][0]
        found = torch.empty((len(chosen), *form.shape), dtype=form.dtype)
        shards: dict[Shard, list[tuple[int, int]]] = defaultdict(list)
        for number, place in enumerate(chosen):
            if isinstance(place, Tensor):
                found[number] = place
            else:
                shards[place[0]].append((place[1], number))
        for shard, places in shards.items():
            rows, numbers = zip(*sorted(places), strict=True)  # as they lie in the file
            found.index_copy_(0, torch.tensor(numbers), shard.read(rows, self._files.get(shard)))
        return found


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last position of each run of consecutive numbers.

    >>> list(_runs([4, 5, 6, 1]))
    [(0, 2), (3, 3)]
    """
    first = 0
    for position in range(1, len(rows) + 1):
        if position == len(rows) or rows[position] != rows[position - 1] + 1:
            yield first, position - 1
            first = position


def _opened(path: Path) -> BinaryIO:
    return open_regular(path, MODEL_BYTES, "a file of the store", buffered=False)


def _most_open() -> int:
    """How many files rows may keep open: of few descriptors, a quarter."""
    if resource is None:
        return MOST_OPEN
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_OPEN if allowed == resource.RLIM_INFINITY else min(MOST_OPEN, allowed // 4)


def _close(files: dict[Shard, BinaryIO]) -> None:
    for file in files.values():
        file.close()
