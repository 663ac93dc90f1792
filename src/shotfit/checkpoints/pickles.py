"""The pickle of a weights file as plain values, followed step by step. Nothing in it is imported, called or run.

Dicts, lists, tuples, numbers and texts become themselves. A tensor becomes a `Described`: which storage, from where, of
which shape. A module of a TorchScript archive becomes a `Node`. Whatever else training programs keep beside weights
(numpy numbers, paths, configurations, the state of an optimizer) becomes an `Opaque`, which is a name and nothing else.
Names of Python's own library that are no data (`os.system`, `eval`) are refused.

A pickle can be small and its content endless: values refer to each other, so that walking, hashing or printing them
doubles the work at each level. So steps are counted, a key of a dict is a number or a text, and no value is printed.

    values = Machine("clip.pt").run(pickled)
"""

from __future__ import annotations

import io
import math
import pickletools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, BinaryIO

import torch

from shotfit.errors import ShotfitError

__all__ = ["LARGEST_PICKLE", "Described", "Machine", "Node", "Opaque", "Storage", "kind_of"]

LARGEST_PICKLE = 64 * 2**20  # bytes; that of the largest CLIP is below 1 MiB, with an optimizer's state below 10 MiB
MOST_STEPS = 1_000_000  # a training checkpoint of a thousand tensors takes 100,000
LARGEST_KEY = 2**59  # keys below have different hashes, so that no dict of them is slow
LONGEST_SHAPE = 8  # dimensions
LARGEST_COUNT = 2**48  # entries of a storage, and every number of a shape

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

# attributes of a TorchScript module that are lists are wrapped in these; the list is all that matters
_LISTS = {"build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag"}

# what of Python's own library is data; the rest of it does things, and no weights file needs it
_DATA = {"argparse", "collections", "datetime", "decimal", "enum", "fractions", "pathlib", "types", "uuid"}
_TYPES = (
    *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set"),
    *("slice", "str", "tuple"),
)
_DATA_NAMES = {
    "_codecs.encode",  # how protocol 2 writes bytes
    "copyreg._reconstructor",
    "functools.partial",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _TYPES),
}


class Node:
    """A module of a TorchScript archive: its attributes, and nothing that runs."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}


@dataclass(frozen=True)
class Opaque:
    """Something that is no tensor and no plain value: the name by which the file mentions it."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Where a tensor's numbers are: `entries` of `dtype` under `key`."""

    dtype: torch.dtype
    key: str
    entries: int


@dataclass(frozen=True)
class Described:
    """A tensor: a part of a storage, which it does not leave."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """What the tensor takes in memory."""
        return math.prod(self.size) * self.storage.dtype.itemsize


@dataclass(frozen=True)
class _Class:
    """The name of a class `__torch__...`."""

    name: str


@dataclass(frozen=True)
class _StorageType:
    dtype: torch.dtype


class _Known(Enum):
    """The names that stand for something, as tokens on the stack. None is ever looked up."""

    ORDERED_DICT = "collections.OrderedDict"
    DEFAULT_DICT = "collections.defaultdict"
    REBUILD = "torch._utils._rebuild_tensor_v2"
    PARAMETER = "torch._utils._rebuild_parameter"
    PARAMETER_WITH_STATE = "torch._utils._rebuild_parameter_with_state"
    SUBCLASS = "torch._tensor._rebuild_from_type_v2"
    LIST = "a typed list"


_KNOWN = {known.value: known for known in _Known if known is not _Known.LIST}
_STRICT = {_Known.ORDERED_DICT, _Known.REBUILD}

# operations that training programs use beside those of TorchScript archives
_MORE = {
    *("FRAME", "MEMOIZE", "STACK_GLOBAL", "SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    *("BINUNICODE8", "BYTEARRAY8", "EMPTY_SET", "ADDITEMS", "FROZENSET", "NEWOBJ_EX"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}


def kind_of(value: object) -> str:
    """What a value of a pickle is, in a few words, without walking it."""
    match value:
        case str():
            return value[:40]
        case Opaque(name) | _Class(name):
            return name[:80]
        case _Known():
            return value.value
        case _StorageType(dtype):
            return f"a storage of {dtype}"
        case Described():
            return "a tensor"
    return f"a value of type {type(value).__name__}"


@dataclass
class Machine:
    """Steps through one pickle of the file `where`.

    strict: of a TorchScript archive, which holds nothing but modules. Raises ShotfitError if the pickle is damaged,
    asks for anything that is no data, has too many steps, or if a tensor reaches beyond its storage.
    """

    where: str
    strict: bool = False
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)  # all that the pickle mentions, by key

    def run(self, pickled: bytes | BinaryIO) -> Any:
        """The value that the pickle describes; of an open file, the next one in it."""
        file = io.BytesIO(pickled) if isinstance(pickled, bytes) else pickled
        try:
            for operation, argument in self._operations(file):
                if operation == "STOP":
                    return self.stack.pop()
                self._step(operation, argument)
        except (IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise ShotfitError(
                f"{self.where} is truncated or damaged: its data.pkl cannot be followed ({str(error)[:80]})."
            ) from None
        raise ShotfitError(f"{self.where} is truncated: its data.pkl has no end.")

    def _operations(self, file: BinaryIO) -> Iterator[tuple[str, Any]]:
        for steps, (operation, argument, _) in enumerate(pickletools.genops(file)):
            if steps > MOST_STEPS:
                raise ShotfitError(f"{self.where} is refused: its pickle takes more than {MOST_STEPS:,} steps.")
            yield operation.name, argument

    def _step(self, operation: str, argument: Any) -> None:
        stack = self.stack
        if operation in _MORE and (self.strict or (operation == "STACK_GLOBAL" and len(stack) < 2)):
            raise self._refused(operation)
        match operation:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.marks.append(len(stack))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(_CONSTANTS[operation])
            case _ if operation in _VALUES:
                stack.append(argument)
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}[operation]())
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(operation[-1])
                self._need(count)
                stack[-count:] = [tuple(stack[-count:])]
            case "EMPTY_SET" | "BYTEARRAY8":
                stack.append(Opaque("a set" if operation == "EMPTY_SET" else "bytes"))
            case "FROZENSET":
                self._since_mark()
                stack.append(Opaque("a set"))
            case "ADDITEMS":
                self._since_mark()
            case "APPEND" | "APPENDS":
                items = [self._pop()] if operation == "APPEND" else self._since_mark()
                if not isinstance(stack[-1], Opaque):
                    self._top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = [self._pop(), self._pop()][::-1] if operation == "SETITEM" else self._since_mark()
                if not isinstance(stack[-1], Opaque):
                    keys = map(self._key, items[::2])
                    self._top(dict).update(zip(keys, items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(self._name(*argument.rsplit(" ", 1)))
            case "STACK_GLOBAL":
                name, module = self._pop(), self._pop()
                if not isinstance(name, str) or not isinstance(module, str):
                    raise self._refused(operation)
                stack.append(self._name(module, name))
            case "BINPERSID":
                stack.append(self._storage(self._pop()))
            case "NEWOBJ" | "NEWOBJ_EX":
                if operation == "NEWOBJ_EX":
                    self._pop()
                arguments, cls = self._pop(), self._pop()
                stack.append(self._object(cls, arguments))
            case "BUILD":
                self._build(self._pop())
            case "REDUCE":
                arguments, function = self._pop(), self._pop()
                stack.append(self._call(function, arguments))
            case _:
                raise self._refused(operation)

    def _refused(self, operation: str) -> ShotfitError:
        return ShotfitError(f"{self.where} is refused: data.pkl uses the operation {operation}.")

    def _need(self, count: int) -> None:
        """As many values since the last mark."""
        if len(self.stack) - (self.marks[-1] if self.marks else 0) < count:
            raise ValueError("too few values")

    def _pop(self) -> Any:
        self._need(1)
        return self.stack.pop()

    def _top(self, kind: type[Any]) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"{kind.__name__} expected")
        return self.stack[-1]

    def _since_mark(self) -> list[Any]:
        position = self.marks.pop()
        items = self.stack[position:]
        del self.stack[position:]
        return items

    def _key(self, key: Any) -> Any:
        """A key whose hash is quickly made: other ones name nothing that a weights file holds."""
        short = isinstance(key, int) and abs(key) < LARGEST_KEY
        if key is None or short or isinstance(key, (str, bytes)):
            return key
        return Opaque(f"a key of type {type(key).__name__}")

    def _name(self, module: str, name: str) -> Any:
        whole = f"{module}.{name}"
        if self.strict and (module == "__torch__" or module.startswith("__torch__.")):
            return _Class(whole)
        if module == "torch" and name in _STORAGES:
            return _StorageType(_STORAGES[name])
        if self.strict and module == "torch.jit._pickle" and name in _LISTS:
            return _Known.LIST
        if whole in _KNOWN and (not self.strict or _KNOWN[whole] in _STRICT):
            return _KNOWN[whole]
        top = module.partition(".")[0]
        foreign = top not in sys.stdlib_module_names and top not in ("__builtin__", "copy_reg", "nt", "posix")
        if not self.strict and (foreign or top in _DATA or whole in _DATA_NAMES):
            return Opaque(whole[:200])
        raise ShotfitError(f"{self.where} is refused: it mentions {whole[:80]}, which a file of weights does not need.")

    def _object(self, cls: Any, arguments: Any) -> Any:
        if isinstance(cls, _Class) and arguments == ():
            return Node()
        if isinstance(cls, Opaque):
            return cls
        raise ShotfitError(f"{self.where} is refused: it makes an object of {kind_of(cls)}.")

    def _build(self, state: Any) -> None:
        if not self.strict and isinstance(self.stack[-1], (Opaque, Described, dict)):
            return  # attributes of a tensor, of a state dict (its `_metadata`), of what is nothing but a name
        if type(state) is not dict or not all(isinstance(name, str) for name in state):
            raise ShotfitError(f"{self.where} is damaged: a module's state is no dict of attributes.")
        self._top(Node).attributes = state

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(arguments, tuple):
            arguments = (arguments,)  # no call at all: refused below
            function = None if isinstance(function, _Known) else function
        match function:
            case _Known.REBUILD:
                return self._rebuild(arguments)
            case _Known.PARAMETER | _Known.PARAMETER_WITH_STATE if arguments and isinstance(arguments[0], Described):
                return arguments[0]
            case _Known.SUBCLASS if len(arguments) == 4 and arguments[0] is _Known.REBUILD:
                return self._rebuild(arguments[2])
            case _Known.ORDERED_DICT if arguments == ():
                return {}
            case _Known.DEFAULT_DICT if len(arguments) <= 1:
                return {}
            case _Known.LIST if arguments:
                return arguments[0]
            case Opaque():
                return function
        raise ShotfitError(f"{self.where} is refused: it calls {kind_of(function)}.")

    def _storage(self, identifier: Any) -> Storage:
        """What a persistent id says: ("storage", type, key, device, entries), and for old files a view, which is None.

        A storage's key is a member's name of a zip file.
        """
        match identifier:
            case ("storage", _StorageType(dtype), str(key), str(), int(entries), *view) if view in ([], [None]):
                if 0 <= entries <= LARGEST_COUNT and key.isalnum() and len(key) <= 64:
                    storage = self.storages.setdefault(key, Storage(dtype, key, entries))
                    if storage != Storage(dtype, key, entries):
                        raise ShotfitError(f"{self.where} is damaged: it says two things of the storage {key}.")
                    return storage
        raise ShotfitError(f"{self.where} is damaged: it refers to a storage as {kind_of(identifier)}.")

    def _rebuild(self, arguments: Any) -> Described:
        """A tensor on its storage, from the arguments (storage, offset, size, stride, ...)."""
        match arguments:
            case (Storage() as storage, int(offset), tuple(size), tuple(stride), *_):
                pass
            case _:
                raise ShotfitError(f"{self.where} is damaged: a tensor's description has another form.")
        numbers = (offset, *size, *stride)
        if (
            not len(size) == len(stride) <= LONGEST_SHAPE
            or any(type(number) is not int for number in numbers)
            or not all(0 <= number <= LARGEST_COUNT for number in numbers)
        ):
            raise ShotfitError(f"{self.where} is damaged: a tensor's size, stride or offset is no such number.")
        entries = math.prod(size)
        reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if entries else offset
        # more entries than the storage has would be one value repeated: nothing that a weights file holds
        if entries > storage.entries or reach > storage.entries:
            raise ShotfitError(
                f"{self.where} is damaged: a tensor of size {list(size)} at {offset} reaches beyond storage "
                f"{storage.key}, which has {storage.entries:,} entries."
            )
        return Described(storage, offset, size, stride)
