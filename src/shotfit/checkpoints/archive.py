"""Tensors of a TorchScript archive, as OpenAI publishes its CLIP models, without compiling or running anything.

The archive is a zip file. `NAME/data.pkl` pickles the tree of modules: objects of classes `__torch__...`, whose state
is a dict of attributes; tensors are calls of `torch._utils._rebuild_tensor_v2` on storages that lie in `NAME/data/K`.
Joined by dots, the attributes' names are the tensors' names.

The pickle is not given to Python's unpickler: `_Machine` steps through the two dozen operations that such archives
use, knows the handful of names that they mention, and refuses everything else by name.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shotfit.errors import ShotfitError

__all__ = ["is_archive", "read_archive"]

LARGEST_PICKLE = 64 * 2**20  # bytes of data.pkl; that of the largest CLIP is below 1 MiB
DEEPEST = 64  # modules within modules

_STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

# attributes that are lists are wrapped in these; the list is all that matters
_LISTS = {"build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag"}


def is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive rather than a pickled state dict in a zip file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(re.fullmatch(r"[^/]+/(constants\.pkl|code/.*)", name) for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def read_archive(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive, by their dotted names, in the precision on disk.

    Raises ShotfitError if the archive is damaged, mentions anything that such archives do not hold, or if a tensor
    reaches beyond its storage.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Reader(archive, path).tensors()
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise ShotfitError(f"{path} is truncated or damaged ({error}). Fetch it again.") from None


class _Node:
    """A module of the tree: its attributes, and nothing that runs."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}


@dataclass(frozen=True)
class _Class:
    """The name of a class `__torch__...`."""

    name: str


@dataclass(frozen=True)
class _StorageType:
    dtype: torch.dtype


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    key: str
    entries: int


class _Known(Enum):
    """The names that stand for something, as tokens on the stack. None is ever looked up."""

    MARK = "where a tuple, a list or a dict begins"
    ORDERED_DICT = "collections.OrderedDict"
    REBUILD = "torch._utils._rebuild_tensor_v2"
    LIST = "a typed list"


class _Reader:
    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.archive, self.path = archive, path
        self.members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in self.members if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise ShotfitError(f"{path} is damaged: a TorchScript archive has one data.pkl, this has {len(pickles)}.")
        self.folder = pickles[0].removesuffix("/data.pkl")
        # torch stores without compression, so no honest member is larger than the file, nor all of them together
        packed = [info.filename for info in self.members.values() if info.compress_type != zipfile.ZIP_STORED]
        if packed or sum(info.file_size for info in self.members.values()) > path.stat().st_size:
            raise ShotfitError(f"{path} is refused: its members claim more bytes than the file has.")
        self.storages: dict[str, Tensor] = {}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the module tree."""
        order = f"{self.folder}/byteorder"
        if order in self.members and self.archive.read(order).strip() != b"little":
            raise ShotfitError(f"{self.path} was written on a big-endian machine, which is not supported.")
        if self.members[f"{self.folder}/data.pkl"].file_size > LARGEST_PICKLE:
            raise ShotfitError(f"{self.path} is refused: its data.pkl has more than {LARGEST_PICKLE:,} bytes.")
        root = _Machine(self).run(self.archive.read(f"{self.folder}/data.pkl"))
        if not isinstance(root, _Node):
            raise ShotfitError(f"{self.path} holds no module.")
        found: dict[str, Tensor] = {}
        self._collect(root, "", found, 0)
        return found

    def _collect(self, node: _Node, prefix: str, found: dict[str, Tensor], depth: int) -> None:
        if depth > DEEPEST:
            raise ShotfitError(f"{self.path} is refused: its modules contain each other.")
        for name, value in node.attributes.items():
            if isinstance(value, Tensor):
                found[prefix + name] = value
            elif isinstance(value, _Node):
                self._collect(value, f"{prefix}{name}.", found, depth + 1)

    def storage(self, identifier: Any) -> _Storage:
        """What a persistent id says: ("storage", type, key, device, entries)."""
        match identifier:
            case ("storage", _StorageType(dtype), str(key), str(), int(entries)) if entries >= 0 and key.isalnum():
                return _Storage(dtype, key, entries)
        raise ShotfitError(f"{self.path} is damaged: it refers to a storage as {str(identifier)[:80]}.")

    def rebuild(self, arguments: Any) -> Tensor:
        """A tensor on its storage, from the arguments (storage, offset, size, stride, ...)."""
        match arguments:
            case (_Storage() as storage, int(offset), tuple(size), tuple(stride), *_):
                pass
            case _:
                raise ShotfitError(f"{self.path} is damaged: a tensor's description has another form.")
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or any(not isinstance(number, int) or number < 0 for number in numbers):
            raise ShotfitError(f"{self.path} is damaged: a tensor of size {size} and stride {stride} at {offset}.")
        entries = torch.Size(size).numel() if len(size) <= 8 else -1
        reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if entries else offset
        # more entries than the storage has would be one value repeated: nothing that a weights file holds
        if not 0 <= entries <= storage.entries or reach > storage.entries:
            raise ShotfitError(
                f"{self.path} is damaged: a tensor of size {list(size)} at {offset} reaches beyond storage "
                f"{storage.key}, which has {storage.entries:,} entries."
            )
        return torch.as_strided(self._content(storage), size, stride, offset)

    def _content(self, storage: _Storage) -> Tensor:
        if storage.key not in self.storages:
            name = f"{self.folder}/data/{storage.key}"
            expected = storage.entries * storage.dtype.itemsize
            if name not in self.members or self.members[name].file_size != expected:
                found = f"{self.members[name].file_size:,}" if name in self.members else "none"
                raise ShotfitError(
                    f"{self.path} is damaged: {name} should have {expected:,} bytes, found {found}. Fetch it again."
                )
            content = bytearray(self.archive.read(name))
            empty = torch.empty(0, dtype=storage.dtype)
            self.storages[storage.key] = torch.frombuffer(content, dtype=storage.dtype) if content else empty
        found_dtype = self.storages[storage.key].dtype
        if found_dtype != storage.dtype:
            raise ShotfitError(f"{self.path} is damaged: storage {storage.key} is {found_dtype} and {storage.dtype}.")
        return self.storages[storage.key]


@dataclass
class _Machine:
    """Steps through the pickle of a module tree. No name in it is ever imported, no object of it ever called."""

    reader: _Reader
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, pickled: bytes) -> Any:
        """The object that the pickle describes."""
        try:
            for operation, argument, _ in pickletools.genops(pickled):
                if operation.name == "STOP":
                    return self.stack.pop()
                self._step(operation.name, argument)
        except (IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise ShotfitError(
                f"{self.reader.path} is truncated or damaged: its data.pkl cannot be followed ({error})."
            ) from None
        raise ShotfitError(f"{self.reader.path} is truncated: its data.pkl has no end.")

    def _step(self, operation: str, argument: Any) -> None:
        stack = self.stack
        match operation:
            case "PROTO":
                pass
            case "MARK":
                stack.append(_Known.MARK)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[operation])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}[operation]())
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(operation[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                self._top(list).append(item)
            case "APPENDS":
                items = self._since_mark()
                self._top(list).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._top(dict)[key] = value
            case "SETITEMS":
                items = self._since_mark()
                self._top(dict).update(zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(self._name(argument))
            case "BINPERSID":
                stack.append(self.reader.storage(stack.pop()))
            case "NEWOBJ":
                arguments, cls = stack.pop(), stack.pop()
                if not isinstance(cls, _Class) or arguments != ():
                    raise ShotfitError(f"{self.reader.path} is refused: it makes an object of {str(cls)[:80]}.")
                stack.append(_Node())
            case "BUILD":
                state = stack.pop()
                if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
                    raise ShotfitError(f"{self.reader.path} is damaged: a module's state is no dict of attributes.")
                self._top(_Node).attributes = state
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self._call(function, arguments))
            case _:
                raise ShotfitError(f"{self.reader.path} is refused: data.pkl uses the operation {operation}.")

    def _top(self, kind: type[Any]) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"{kind.__name__} expected")
        return self.stack[-1]

    def _since_mark(self) -> list[Any]:
        position = max(index for index, item in enumerate(self.stack) if item is _Known.MARK)
        items = self.stack[position + 1 :]
        del self.stack[position:]
        return items

    def _name(self, argument: str) -> Any:
        module, name = argument.rsplit(" ", 1)
        if module == "__torch__" or module.startswith("__torch__."):
            return _Class(f"{module}.{name}")
        if module == "torch" and name in _STORAGES:
            return _StorageType(_STORAGES[name])
        if module == "torch.jit._pickle" and name in _LISTS:
            return _Known.LIST
        if f"{module}.{name}" in (_Known.ORDERED_DICT.value, _Known.REBUILD.value):
            return _Known(f"{module}.{name}")
        raise ShotfitError(
            f"{self.reader.path} is refused: it mentions {module}.{name}, which a file of weights does not need."
        )

    def _call(self, function: Any, arguments: Any) -> Any:
        if function is _Known.REBUILD:
            return self.reader.rebuild(arguments)
        if function is _Known.ORDERED_DICT and arguments == ():
            return OrderedDict()
        if function is _Known.LIST and isinstance(arguments, tuple) and arguments:
            return arguments[0]
        raise ShotfitError(f"{self.reader.path} is refused: it calls {str(function)[:80]}.")
