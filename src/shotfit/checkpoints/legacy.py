"""The older form of `torch.save`: several pickles in one file, the storages behind them. Nothing in it is run.

a number that marks the form, a version, a dict about the machine, the values, a list of storages' keys
for each key: how many entries (8 bytes), then the entries
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from shotfit.checkpoints.pickles import LARGEST_PICKLE, Described, Machine, Storage
from shotfit.checkpoints.unread import Source, Unread, of_storages
from shotfit.errors import ShotfitError

__all__ = ["Legacy"]

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001


class Legacy:
    """A weights file of the older form, open. Raises ShotfitError, naming the file, for one that is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        self._length = path.stat().st_size
        self._storages: dict[str, Storage] = {}
        self._start = 0  # where the storages begin
        self._keys: list[str] = []

    def __enter__(self) -> Legacy:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def values(self) -> Any:
        """What the pickle describes: dicts by name, with a `Described` in place of each tensor."""
        self._file.seek(0)
        head = io.BytesIO(self._file.read(LARGEST_PICKLE))
        if head.getvalue()[:2] != b"\x80\x02" or (self._next(head), self._next(head)) != (MAGIC, VERSION):
            raise ShotfitError(f"{self.path} is truncated, damaged or no weights file. Fetch it again.")
        machine = self._next(head)
        if type(machine) is not dict or machine.get("little_endian") is not True:
            raise ShotfitError(f"{self.path} was written on a big-endian machine, which is not supported.")
        values, keys = self._next(head), self._next(head)
        if type(keys) is not list or not all(type(key) is str and key in self._storages for key in keys):
            raise ShotfitError(f"{self.path} is damaged: its list of storages has another form. Fetch it again.")
        self._start, self._keys = head.tell(), keys
        return values

    def _next(self, file: io.BytesIO) -> Any:
        machine = Machine(str(self.path), storages=self._storages)
        return machine.run(file)

    def tensors(self, described: Mapping[str, Described]) -> dict[str, Unread]:
        """Tensors whose numbers stay in the file until they are taken."""
        # several names may share a storage (tied weights), but not so that the file is read many times over
        if sum(tensor.bytes for tensor in described.values()) > 2 * self._length:
            raise ShotfitError(f"{self.path} is refused: its tensors claim more bytes than the file has.")
        place, places = self._start, dict[str, int]()
        for key in self._keys:
            storage = self._storages[key]
            size = storage.entries * storage.dtype.itemsize
            if place + 8 + size > self._length:
                raise ShotfitError(
                    f"{self.path} is truncated (expected {place + 8 + size:,} bytes or more, found {self._length:,}). "
                    "Fetch it again."
                )
            self._file.seek(place)
            if int.from_bytes(self._file.read(8), "little") != storage.entries:
                raise ShotfitError(f"{self.path} is damaged: it says two things of the storage {key}. Fetch it again.")
            places[key] = place + 8
            place += 8 + size
        lacking = {tensor.storage.key for tensor in described.values()} - places.keys()
        if lacking:
            raise ShotfitError(f"{self.path} is damaged: it lacks {len(lacking)} storages.")
        return of_storages(described, partial(_content, Source(self.path, self._file), places))


def _content(source: Source, places: Mapping[str, int], storage: Storage) -> Tensor:
    return source.read(places[storage.key], storage.dtype, storage.entries)
