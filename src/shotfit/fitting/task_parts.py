"""One task of a saved model of many, without the bytes of the others.

A model of MANY tasks and more has in its record, beside the hash of the whole weights' file, one hash for each task's
rows of what has a row for each class, and one for the rest of the file. So one task opens by reading the rest, which
does not grow with the classes but by a few bytes an image, and its own rows:

    digests(content, sizes)                     what `save` puts into the record: {"rest": ..., "tasks": [...]}
    one_task(folder, record, number)            the tensors, of all tasks but for the rows; checked against the hashes

The format is that of every model: programs that know nothing of parts read the whole file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shotfit.errors import ShotfitError
from shotfit.files import MODEL_BYTES, UnreadableError, open_regular
from shotfit.fitting.folder import RECORD, WEIGHTS
from shotfit.fitting.record import HEADER_BYTES, KINDS, mark_of
from shotfit.fitting.trust import PREFIX
from shotfit.methods.declared import Declared
from shotfit.methods.numbering import MANY, tasks_of

__all__ = ["BY_CLASS", "digests", "for_task", "has_parts", "one_task", "trust_of_task"]

BY_CLASS = ("baked", f"{PREFIX}means")  # tensors with a large row for each class
_NAMES = {"F16": torch.float16, "F32": torch.float32, "F64": torch.float64, "I64": torch.int64}
Read = Callable[[int, int], bytes]  # bytes of the file from one place up to another


@dataclass(frozen=True)
class _Entry:
    """A tensor in the file: its kind, shape, and from where up to where it lies."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    def tensor(self, content: bytes, shape: Sequence[int]) -> Tensor:
        return torch.frombuffer(bytearray(content), dtype=self.dtype).view(*shape) if content else self.empty(shape)

    def empty(self, shape: Sequence[int]) -> Tensor:
        return torch.zeros(*shape, dtype=self.dtype)


def digests(content: bytes, sizes: Sequence[int]) -> dict[str, Any] | None:
    """The hashes of a weights' file by part; None for fewer tasks than MANY, and for a file without rows of classes."""
    if len(sizes) < MANY:
        return None
    header, entries = _entries(lambda begin, end: content[begin:end], len(content))
    if not any(entry.name in BY_CLASS for entry in entries):
        return None
    rest = hashlib.sha256(header)
    for entry in entries:
        if entry.name not in BY_CLASS:
            rest.update(memoryview(content)[entry.begin : entry.end])
    rows, first, tasks = [entry for entry in entries if entry.name in BY_CLASS], 0, []
    for size in sizes:
        own = hashlib.sha256()
        for entry in rows:
            own.update(memoryview(content)[slice(*_span(entry, first, size))])
        tasks.append(own.hexdigest())
        first += size
    return {"rest": rest.hexdigest(), "tasks": tasks}


def has_parts(record: Mapping[str, Any]) -> bool:
    """Whether one task of the model can be read alone."""
    match record.get("parts"):
        case {"rest": str(), "tasks": [*tasks]}:
            return len(tasks) == len(record["classes"]) and all(isinstance(one, str) for one in tasks)
    return False


def one_task(folder: Path, record: Mapping[str, Any], number: int) -> dict[str, Tensor]:
    """All tensors, of those with a row for each class the rows of one task.

    Raises ShotfitError, in one sentence, for a file that is missing, damaged where it is read, or another model's.
    """
    path, sizes = folder / WEIGHTS, [len(own["names"]) for own in record["classes"]]
    first, size = sum(sizes[:number]), sizes[number]
    try:
        with open_regular(path, MODEL_BYTES, "what a method learned") as file:

            def read(begin: int, end: int) -> bytes:
                file.seek(begin)
                return file.read(end - begin)

            header, entries = _entries(read, file.seek(0, 2))
            if _metadata(header).get("classes") != mark_of(record["classes"]):
                raise ShotfitError(f"{path} is not the file that {RECORD} was written with: fit the model again.")
            rest, own, found = hashlib.sha256(header), hashlib.sha256(), dict[str, Tensor]()
            for entry in entries:
                if entry.name in BY_CLASS:
                    if not entry.shape or entry.shape[0] != sum(sizes):
                        raise ValueError("not a row for each class")
                    content, shape, digest = read(*_span(entry, first, size)), (size, *entry.shape[1:]), own
                else:
                    content, shape, digest = read(entry.begin, entry.end), entry.shape, rest
                digest.update(content)
                found[entry.name] = entry.tensor(content, shape)
    except UnreadableError as error:
        if not error.missing:
            raise
        raise ShotfitError(f"{folder} lacks {WEIGHTS}: fit the model again.") from None
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, OverflowError, RecursionError):
        raise ShotfitError(f"{path} is damaged or cut off: fit the model again.") from None
    if [rest.hexdigest(), own.hexdigest()] != [record["parts"]["rest"], record["parts"]["tasks"][number]]:
        raise ShotfitError(f"{path} is not the file that {RECORD} was written with: fit the model again.")
    for name, tensor in found.items():
        if not tensor.isfinite().all():
            raise ShotfitError(f"{path} holds numbers that are not finite ({name}): fit the model again.")
    return found


def for_task(
    tensors: Mapping[str, Tensor],
    whole: Mapping[str, Declared],
    one: Mapping[str, Declared],
    sizes: Sequence[int],
    number: int,
) -> dict[str, Tensor]:
    """A method's tensors for one of its tasks: of those with a row for each task or class, its own.

    whole, one: what the method declares with all tasks, and with that one.
    """
    found, first = dict(tensors), sum(sizes[:number])
    for name in tensors.keys() - set(BY_CLASS):
        rows = whole[name].shape[:1], one[name].shape[:1]
        if rows == ((len(sizes),), (1,)):
            found[name] = tensors[name][number : number + 1].clone()
        elif rows == ((sum(sizes),), (sizes[number],)):
            found[name] = tensors[name][first : first + sizes[number]].clone()
    return found


def trust_of_task(tensors: Mapping[str, Tensor], sizes: Sequence[int], number: int) -> dict[str, Tensor]:
    """What a model keeps of held-out images, for one of its tasks. Raises ValueError for what does not fit together."""
    own = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    if not own:
        return {}
    first, size = sum(sizes[:number]), sizes[number]
    lengths = {"labels": None, "scores": None, "strange": None, "bias": sum(sizes), "center": len(sizes)}
    lengths |= {"width": len(sizes), "means": size}
    images = len(own.get("labels", ()))
    if own.keys() - lengths.keys() or any(
        value.dim() == 0 or len(value) != (images if lengths[name] is None else lengths[name])
        for name, value in own.items()
    ):
        raise ValueError("what is kept of held-out images does not fit together")
    mine = tasks_of(own["labels"], sizes) == number
    cut: dict[str, Callable[[Tensor], Tensor]] = {
        "labels": lambda value: value[mine] - first,
        "scores": lambda value: value[mine],
        "strange": lambda value: value[mine],
        "bias": lambda value: value[first : first + size],
        "center": lambda value: value[[number]],
        "width": lambda value: value[[number]],
        "means": lambda value: value,
    }
    return {f"{PREFIX}{name}": cut[name](value) for name, value in own.items()}


def _span(entry: _Entry, first: int, size: int) -> tuple[int, int]:
    """Where the rows of some classes lie in the file."""
    row = entry.dtype.itemsize * prod(entry.shape[1:])
    return entry.begin + first * row, entry.begin + (first + size) * row


def _metadata(header: bytes) -> Mapping[str, Any]:
    metadata = json.loads(header[8:]).get("__metadata__")
    return metadata if isinstance(metadata, dict) else {}


def _entries(read: Read, size: int) -> tuple[bytes, list[_Entry]]:
    """The header, its length in front, and the file's tensors as they lie in it.

    Raises ValueError, KeyError or TypeError for what safetensors does not write.
    """
    header = read(0, 8)
    length = int.from_bytes(header, "little")
    if not 0 < length <= min(HEADER_BYTES, size - 8):
        raise ValueError("no header, or a huge one")
    header += read(8, 8 + length)
    plain, at = json.loads(header[8:]), 8 + length
    described = [(name, *_described(own)) for name, own in plain.items() if name != "__metadata__"]
    entries = []
    for name, dtype, shape, begin, end in sorted(described, key=lambda own: own[3:]):
        if 8 + length + begin != at or end - begin != dtype.itemsize * prod(shape):
            raise ValueError("the tensors do not lie one after the other")
        at += end - begin
        entries.append(_Entry(name, dtype, shape, at - (end - begin), at))
    if at != size:
        raise ValueError("the file is of another length")
    return header, entries


def _described(own: Any) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    match own:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
            if kind in _NAMES and _NAMES[kind] in KINDS and all(type(one) is int and one >= 0 for one in shape):
                return _NAMES[kind], tuple(shape), begin, end
    raise ValueError("no tensor of a kind that is saved")
