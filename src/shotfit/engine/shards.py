"""The files of the store: rows of tensors with an index of their keys and a checksum each, in the format safetensors.

    shard = write_shard(folder, {"a": row, "b": other})     # immutable, under a name of its own
    shard = Shard.open(shard.path)                          # reads the header alone
    shard.find(Wanted(["b", "c"]))                          # {0: 1}: the first of them is row 1
    shard.read([1, 0])                                      # [2, ...]: other, row

A key is known by 16 bytes of its sha256. The index of a file is these digests in ascending order, with the row of each:
20 bytes an entry, read at once and searched by halving, so that a store of ten million rows opens in less than a second
and no key becomes an object of Python. In the file it is one tensor of 64-bit numbers in front of the rows: the first
halves of the digests, the second halves, the rows of all entries and the checksums of all rows, two to a number.

Files are read and never memory-mapped: a file that another program cuts off would end the process there (a bus error),
and bytes that it changes would come in unseen. What is read is as long as it has to be and has the checksum that it was
written with (CRC-32 of the row, which begins with its digest and form), or DamagedRowsError is raised. A damaged index
finds nothing, or a row whose checksum is another's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import uuid
import weakref
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
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

__all__ = [
    "DamagedRowsError",
    "Held",
    "Shard",
    "Wanted",
    "digests_of",
    "is_old",
    "is_shard",
    "write_rows",
    "write_shard",
]

MARK = "shotfit rows 2"
MOST_OPEN = 48  # files that rows keep open, the largest; many systems allow a process 256
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


class DamagedRowsError(ShotfitError):
    """A shard that is not, or no longer, what was written."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is damaged, cut off or gone: run the command again, which computes it anew.")
        self.path = path


def is_shard(path: Path) -> bool:
    """Whether a name is one that `write_rows` gives."""
    return re.fullmatch(r"[0-9a-f]{32}-2\.safetensors", path.name) is not None


def is_old(path: Path) -> bool:
    """Whether a name is one that shotfit up to 0.1 gave: such files have no index, and are not read any more."""
    return re.fullmatch(r"[0-9a-f]{32}\.safetensors", path.name) is not None


def digests_of(keys: Sequence[str]) -> NDArray[np.int64]:
    """16 bytes of each key's sha256, as two numbers: [keys, 2]."""
    found = b"".join(hashlib.sha256(key.encode(errors="surrogateescape")).digest()[:16] for key in keys)
    return np.frombuffer(found, "<i8").reshape(-1, 2)


class Wanted:
    """Keys that are looked for, in the order of their digests."""

    def __init__(self, keys: Sequence[str]) -> None:
        digests = digests_of(keys)
        self.order = np.lexsort((digests[:, 1], digests[:, 0]))  # [keys] position of each in `keys`
        self.digests = np.ascontiguousarray(digests[self.order].T)  # [2, keys]


def write_shard(folder: Path, rows: Mapping[str, Tensor]) -> Shard:
    """Write rows of one shape under their keys, all or nothing; row number n is that of the n-th key."""
    return write_rows(folder, digests_of(list(rows)), torch.stack(list(rows.values())).cpu())


def write_rows(folder: Path, digests: NDArray[np.int64], rows: Tensor) -> Shard:
    """Write rows [n, ...] under the digests of their keys [n, 2], all or nothing. Raises OSError."""
    rows = rows.contiguous()
    order = np.lexsort((digests[:, 1], digests[:, 0])).astype("<i4")  # [n] row of each entry
    shard = Shard(folder / f"{uuid.uuid4().hex}-2.safetensors", len(rows), rows.dtype, rows.shape[1:])
    shard.index, shard.order = np.ascontiguousarray(digests[order].T), order
    content = rows.view(torch.uint8).numpy().reshape(len(rows), -1)
    found = [shard.checksum(bytes(digests[row].data), values.data) for row, values in enumerate(content)]
    shard.checksums = np.array(found, "<u4")
    even = len(rows) + len(rows) % 2  # entries, two to a number
    pairs = [np.resize(values.view("<i4"), even).view("<i8") for values in (order, shard.checksums)]
    index = np.concatenate([*shard.index, *pairs])
    data = save({"rows": rows, "index": torch.from_numpy(index)}, {"mark": MARK})
    shard.begin = len(data) - rows.nbytes
    write_atomically(shard.path, data)
    return shard


class Shard:
    """One file: how many rows it has, and their type and shape; the index once it is asked for.

    index: [2, n] digests, ascending; order: [n] row of each; checksums: [n] by row.
    """

    def __init__(self, path: Path, count: int, dtype: torch.dtype, shape: Sequence[int]) -> None:
        self.path, self.count, self.dtype, self.shape = path, count, dtype, tuple(shape)
        self.row_bytes = prod(self.shape) * dtype.itemsize
        self.index: NDArray[np.int64] | None = None
        self.order: NDArray[np.int32] | None = None
        self.checksums: NDArray[np.uint32] | None = None
        self._entry: NDArray[np.int32] | None = None  # of each row: the inverse of `order`
        self.begin = 0  # of the rows in the file; the index stands in front of them
        self._form = f" {dtype} {self.shape}".encode()

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
                rows = header["rows"]
                count, *shape = map(int, rows["shape"])
                shard = cls(path, count, DTYPES[rows["dtype"]], shape)
                if header["__metadata__"]["mark"] != MARK or min(rows["shape"]) < 0:
                    raise ValueError
                shard.begin = 8 + length + shard._index_bytes
                where = [header[name]["data_offsets"][0] for name in ("index", "rows")]
                if where != [0, shard._index_bytes] or size != shard.begin + count * shard.row_bytes:
                    raise ValueError
        except UnreadableError as error:
            raise FileNotFoundError(path) if error.missing else DamagedRowsError(path) from None
        except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError, OverflowError):
            raise DamagedRowsError(path) from None
        return shard

    @property
    def _index_bytes(self) -> int:
        return 16 * self.count + 2 * 8 * ((self.count + 1) // 2)

    def find(self, wanted: Wanted) -> dict[int, int]:
        """The rows of wanted keys that are here, by the positions of the keys. Raises DamagedRowsError."""
        if not self.count or not len(wanted.order):
            return {}
        if self.index is None or self.order is None:
            with self._reading(None) as file:
                data = self._bytes(file, 0, 20 * self.count)
            self.order = np.frombuffer(data, "<i4", offset=16 * self.count)
            self.index = np.frombuffer(data, "<i8", 2 * self.count).reshape(2, -1)
        few, many = wanted.digests, self.index
        swapped = len(few[0]) > len(many[0])
        if swapped:
            few, many = many, few
        places = np.searchsorted(many[0], few[0]).clip(max=len(many[0]) - 1)
        hits = ((many[0][places] == few[0]) & (many[1][places] == few[1])).nonzero()[0]
        entries, asked = (hits, places[hits]) if swapped else (places[hits], hits)
        rows = self.order[entries]
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.count:
            raise DamagedRowsError(self.path)
        return dict(zip(wanted.order[asked].tolist(), rows.tolist(), strict=True))

    def digests(self, rows: Sequence[int]) -> NDArray[np.int64]:
        """The digests of rows by number, [rows, 2]. Raises DamagedRowsError."""
        if self._entry is None:
            self.find(Wanted([""]))  # reads the index
            assert self.order is not None
            entry = np.full(self.count, -1, np.int32)
            entry[self.order.clip(0, self.count - 1)] = np.arange(self.count)
            self._entry = entry
        assert self.index is not None
        return np.ascontiguousarray(self.index[:, self._entry[list(rows)]].T)

    def checksum(self, digest: bytes, values: bytes | memoryview) -> int:
        """Of a row's bytes, the digest of its key and its form."""
        return zlib.crc32(values, zlib.crc32(digest + self._form))

    def read(self, rows: Sequence[int], opened: BinaryIO | None = None) -> Tensor:
        """Rows by number, [len(rows), ...]. opened: the file, if it is. Raises DamagedRowsError."""
        found = torch.empty((len(rows), *self.shape), dtype=self.dtype)
        places = found.view(torch.uint8).numpy().reshape(-1).data
        with self._reading(opened) as file:
            if self.checksums is None:
                begin = self._index_bytes - 8 * ((self.count + 1) // 2)
                self.checksums = np.frombuffer(self._bytes(file, begin, 4 * self.count), "<u4")
            for first, last in _runs(rows):  # of neighbours, which are read at once
                file.seek(self.begin + rows[first] * self.row_bytes)
                self._fill(file, places[first * self.row_bytes : (last + 1) * self.row_bytes])
        written = self.checksums
        for number, (row, digest) in enumerate(zip(rows, self.digests(rows), strict=True)):
            place = places[number * self.row_bytes : (number + 1) * self.row_bytes]
            if self.checksum(bytes(digest.data), place) != written[row]:
                raise DamagedRowsError(self.path)
        return found

    @contextmanager
    def _reading(self, opened: BinaryIO | None) -> Iterator[BinaryIO]:
        """The file, whose errors mean that it is damaged."""
        try:
            with nullcontext(opened) if opened else _opened(self.path) as file:
                yield file
        except (OSError, UnreadableError) as error:
            if isinstance(error, OSError) and is_exhausted(error):
                raise
            raise DamagedRowsError(self.path) from None

    def _bytes(self, file: BinaryIO, place: int, length: int) -> bytearray:
        """A part of the index."""
        found = bytearray(length)
        file.seek(self.begin - self._index_bytes + place)
        self._fill(file, memoryview(found))
        return found

    def _fill(self, file: BinaryIO, place: memoryview) -> None:
        while place and (length := file.readinto(place)):  # type: ignore[attr-defined]  # of raw files
            place = place[length:]
        if place:
            raise DamagedRowsError(self.path)


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
