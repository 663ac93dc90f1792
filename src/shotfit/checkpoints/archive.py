"""Weights files that torch writes: zip files with a pickle and one member for each storage. Nothing in them is run.

Two kinds have the same container. A TorchScript archive, as OpenAI publishes its CLIP models, pickles the tree of
modules: joined by dots, the attributes' names are the tensors' names. What `torch.save` writes pickles dicts. In both,
`NAME/data.pkl` describes tensors as parts of storages, which lie in `NAME/data/K`. `pickles.py` follows the pickle;
this file reads those storages that are asked for, when they are taken, and checks what a member claims before memory
is taken for it.

    with Archive(Path("clip.pt")) as archive:
        values = archive.values()

The older form of `torch.save`, one file of several pickles with the storages behind them, is read by `legacy.py`.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from torch import Tensor

from shotfit.checkpoints.pickles import LARGEST_PICKLE, Described, Machine, Node, Storage
from shotfit.checkpoints.unread import Source, Unread, of_storages
from shotfit.errors import ShotfitError

__all__ = ["Archive", "is_zip"]

LARGEST_DIRECTORY = 8 * 2**20  # bytes of a zip file's table of members; a thousand members take 0.1 MiB
READ = r"[^/]+/(data\.pkl|byteorder|data/[^/]+)"  # members of which anything is read
HEADER = 30  # bytes in front of a member, and as many more as two of them say
DEEPEST = 64  # modules within modules
MOST_MODULES = 100_000  # modules that are walked; one that stands in several places is walked in each
LONGEST_NAME = 500  # characters of a tensor's name

_DAMAGED = (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip file does."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


class _Table:
    """A zip file while its table of members is read, which `zipfile` does in one go, however long it is."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.most = file, LARGEST_DIRECTORY

    def read(self, size: int = -1) -> bytes:
        if size > self.most:
            raise zipfile.BadZipFile(f"its table of members has {size:,} bytes")
        return self.file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class Archive:
    """A weights file that is a zip file, open. Raises ShotfitError, naming the file, for one that is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        try:
            table = _Table(self._file)
            self._zip = zipfile.ZipFile(cast(Any, table))
            table.most = 2**62
            self._check_members()
        except ShotfitError:
            self._file.close()
            raise
        except _DAMAGED as error:
            self._file.close()
            raise self._damaged(error) from None

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    def _check_members(self) -> None:
        members = self._zip.infolist()
        self.members = {info.filename: info for info in members}
        if len(self.members) != len(members):
            raise ShotfitError(f"{self.path} is refused: two of its members have the same name.")
        # torch stores what is read here without compression, so no honest member is larger than the file, nor all of
        # them together; the code of a TorchScript archive, which it compresses, is not read
        read = [info for info in members if re.fullmatch(READ, info.filename)]
        packed = any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in read)
        if packed or sum(info.file_size for info in read) > self.path.stat().st_size:
            raise ShotfitError(f"{self.path} is refused: its members claim more bytes than the file has.")
        pickles = [name for name in self.members if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise ShotfitError(f"{self.path} is damaged: a weights file has one data.pkl, this has {len(pickles)}.")
        self.folder = pickles[0].removesuffix("/data.pkl")
        self.scripted = any(re.fullmatch(r"[^/]+/(constants\.pkl|code/.*)", name) for name in self.members)

    def _damaged(self, error: Exception) -> ShotfitError:
        reason = str(error)[:120]
        return ShotfitError(f"{self.path} is truncated, damaged or no weights file ({reason}). Fetch it again.")

    def _read(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        except _DAMAGED as error:
            raise self._damaged(error) from None

    def values(self) -> Any:
        """What the pickle describes: dicts by name, with a `Described` in place of each tensor."""
        order = f"{self.folder}/byteorder"
        if order in self.members and self._read(order).strip() != b"little":
            raise ShotfitError(f"{self.path} was written on a big-endian machine, which is not supported.")
        if self.members[f"{self.folder}/data.pkl"].file_size > LARGEST_PICKLE:
            raise ShotfitError(f"{self.path} is refused: its data.pkl has more than {LARGEST_PICKLE:,} bytes.")
        return Machine(str(self.path), self.scripted).run(self._read(f"{self.folder}/data.pkl"))

    def modules(self) -> dict[str, Described]:
        """All tensors of a TorchScript archive's module tree, by their dotted names."""
        root = self.values()
        if not isinstance(root, Node):
            raise ShotfitError(f"{self.path} holds no module.")
        found: dict[str, Described] = {}
        waiting = [(root, "", 0)]
        for _ in range(MOST_MODULES):
            if not waiting:
                return found
            node, prefix, depth = waiting.pop()
            if depth > DEEPEST:
                raise ShotfitError(f"{self.path} is refused: its modules contain each other.")
            inner = []
            for name, value in node.attributes.items():
                if isinstance(value, (Described, Node)) and len(prefix) + len(name) > LONGEST_NAME:
                    raise ShotfitError(f"{self.path} is refused: a tensor's name is longer than {LONGEST_NAME}.")
                if isinstance(value, Described):
                    found[prefix + name] = value
                elif isinstance(value, Node):
                    inner.append((value, f"{prefix}{name}.", depth + 1))
            waiting += reversed(inner)
        raise ShotfitError(f"{self.path} is refused: it has more than {MOST_MODULES:,} modules.")

    def tensors(self, described: Mapping[str, Described]) -> dict[str, Unread]:
        """Tensors whose numbers stay in the file until they are taken."""
        # several names may share a storage (tied weights), but not so that the file is read many times over
        if sum(tensor.bytes for tensor in described.values()) > 2 * self.path.stat().st_size:
            raise ShotfitError(f"{self.path} is refused: its tensors claim more bytes than the file has.")
        return of_storages(described, partial(_content, Source(self.path, self._file), self._places(described)))

    def _places(self, described: Mapping[str, Described]) -> dict[str, tuple[int, int]]:
        """Where the bytes of each storage begin, and their checksum, by its key."""
        found = {}
        for storage in {tensor.storage.key: tensor.storage for tensor in described.values()}.values():
            name, expected = f"{self.folder}/data/{storage.key}", storage.entries * storage.dtype.itemsize
            if name not in self.members or self.members[name].file_size != expected:
                size = f"{self.members[name].file_size:,}" if name in self.members else "none"
                raise ShotfitError(
                    f"{self.path} is damaged: {name} should have {expected:,} bytes, found {size}. Fetch it again."
                )
            member = self.members[name]
            self._file.seek(member.header_offset)
            header = self._file.read(HEADER)
            if len(header) < HEADER or header[:4] != b"PK\x03\x04":
                raise self._damaged(ValueError(f"no header of {name}"))
            beside = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            found[storage.key] = member.header_offset + HEADER + beside, member.CRC
        return found


def _content(source: Source, places: Mapping[str, tuple[int, int]], storage: Storage) -> Tensor:
    place, checksum = places[storage.key]
    return source.read(place, storage.dtype, storage.entries, checksum)
