"""From a weights file to named tensors, and the account of which of them were used.

What is read, and how: `.safetensors` by `unread.py`; a TorchScript archive and what `torch.save` writes by `archive.py`
and `legacy.py`, which run nothing. No pickle is given to Python's or torch's unpickler. Tensors stay in the file until
they are taken, and are kept in the precision that they have there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from shotfit.checkpoints.archive import Archive, is_zip
from shotfit.checkpoints.legacy import Legacy
from shotfit.checkpoints.pickles import Described
from shotfit.checkpoints.settings import read_json
from shotfit.checkpoints.training import bare_names, find_weights, listing
from shotfit.checkpoints.unread import Tensors, Unread, content_of, read_safetensors
from shotfit.errors import ShotfitError
from shotfit.files import WEIGHTS_BYTES, open_regular

__all__ = ["StateDict", "read_index", "read_tensors"]

SMALL = (torch.float32, torch.float16, torch.bfloat16)  # precisions that weights keep; others become float32


def read_tensors(path: Path) -> dict[str, Unread]:
    """The tensors of one weights file by their own names. Their numbers are read when they are taken.

    A training checkpoint gives the weights that it keeps (`training.py` says by which rules), and names lose what
    wrappers put into them. Raises ShotfitError, naming the file, if it is damaged, or not allowed to be read.
    """
    return bare_names(_read(path), str(path))


def _read(path: Path) -> dict[str, Unread]:
    with open_regular(path, WEIGHTS_BYTES, "the weights of a backbone") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise ShotfitError(f"{path} is a Git LFS pointer, not the weights. Fetch them with `git lfs pull`.")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return _read_pickle(path)


def read_index(path: Path) -> dict[str, Unread]:
    """The tensors of a checkpoint in shards, from its `*.index.json`.

    Raises ShotfitError if a shard is missing, or does not hold what the index says.
    """
    names = read_json(path).section("weight_map").entries
    if not names or not all(isinstance(shard, str) and shard and Path(shard).name == shard for shard in names.values()):
        raise ShotfitError(f"{path}: weight_map must name a file of the same folder for each tensor.")
    by_shard: dict[str, set[str]] = {}
    for name, shard in names.items():
        by_shard.setdefault(shard, set()).add(name)
    tensors: dict[str, Unread] = {}
    for shard, expected in sorted(by_shard.items()):
        if not path.with_name(shard).is_file():
            raise ShotfitError(f"{path.with_name(shard)} is missing: {path.name} lists it. Fetch it, too.")
        content = _read(path.with_name(shard))
        if content.keys() != expected:
            problem = "lacks" if expected - content.keys() else "holds, not in the index,"
            odd = sorted(expected - content.keys()) or sorted(content.keys() - expected)
            raise ShotfitError(f"{path.with_name(shard)} {problem} {listing(odd)}.")
        tensors.update(content)
    return bare_names(tensors, str(path))


class StateDict:
    """Named tensors that are taken one by one; what is missing or left over at the end is one error.

    Example:
        >>> weights = StateDict({"a": torch.zeros(2), "b": torch.zeros(3)}, "file.pt")
        >>> weights.take("a", 2).shape
        torch.Size([2])
        >>> weights.close()
        Traceback (most recent call last):
        shotfit.errors.ShotfitError: file.pt holds 1 tensor that this architecture has no place for: b.
    """

    def __init__(self, tensors: Tensors, where: str) -> None:
        self.where = where
        self._left = dict(tensors)
        self._missing: list[str] = []

    def names(self) -> list[str]:
        """What has not been taken yet."""
        return list(self._left)

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor from which sizes are derived. Raises ShotfitError if it is missing or odd."""
        if name not in self._left:
            raise ShotfitError(f"{self.where} lacks {name}: it is truncated, or another architecture.")
        shape = tuple(self._left[name].shape)
        if len(shape) != dimensions or 0 in shape:
            raise ShotfitError(f"{self.where}: {name} has shape {list(shape)}, expected {dimensions} dimensions.")
        return shape

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor `name`, which must have `shape` (one of a single entry may have any).

        It has the precision that it has in the file: what is computed with it is computed in float32. A missing one
        gives an empty stand-in, so that `close` can name all that are missing.
        """
        if name not in self._left:
            self._missing.append(name)
            return torch.empty(shape, device="meta")
        found = tuple(self._left[name].shape)
        if found != shape and not prod(found) == 1 == prod(shape):
            raise ShotfitError(
                f"{self.where}: {name} has shape {list(found)}, but the configuration asks for {list(shape)}."
            )
        return self.take_any(name).reshape(shape)

    def take_any(self, name: str) -> Tensor:
        """The tensor `name` of any shape. Raises ShotfitError if it holds no floating-point numbers."""
        tensor = self._left.pop(name)
        if not tensor.dtype.is_floating_point:
            raise ShotfitError(f"{self.where}: {name} is {tensor.dtype}, expected floating-point weights.")
        value = content_of(tensor)
        return value if value.dtype in SMALL else value.float()

    def blocks(self, prefix: str, layers: int) -> range:
        """The numbers of the blocks under `prefix`: `layers` of them, and of those that are missing only the first.

        So a configuration of a billion layers is refused (by `close`) as soon as one of a layer too many.
        """
        found = {name[len(prefix) :].partition(".")[0] for name in self._left if name.startswith(prefix)}
        return range(min(layers, len(found) + 1))

    def layer(self, old: str, new: str, *shape: int) -> dict[str, Tensor]:
        """The weight of `shape` of the layer `old` and its bias, as long as the first dimension, as `new`'s."""
        return {
            f"{new}.weight": self.take(f"{old}.weight", *shape),
            f"{new}.bias": self.take(f"{old}.bias", shape[0]),
        }

    def stacked(self, old: Sequence[str], new: str, *shape: int) -> dict[str, Tensor]:
        """Layers of one `shape`, such as those of queries, keys and values, one below the other, as the layer `new`."""
        taken = {}
        for part, size in (("weight", shape), ("bias", shape[:1])):
            rows = [self.take(f"{name}.{part}", *size) for name in old]
            # stand-ins of missing tensors have no content; that they are missing is said at the end
            whole = all(row.device == rows[0].device for row in rows)
            taken[f"{new}.{part}"] = torch.cat(rows) if whole else rows[0]
        return taken

    def scale(self, layers: dict[str, Tensor], layer: str, name: str) -> None:
        """Multiply what `layer` of `layers` gives by the vector `name` (layer scale), within its weight and bias."""
        weight, bias = layers[f"{layer}.weight"], layers[f"{layer}.bias"]
        factor = self.take(name, len(bias))
        if not any(part.is_meta for part in (weight, bias, factor)):
            factor = factor.float()
            layers[f"{layer}.weight"], layers[f"{layer}.bias"] = factor[:, None] * weight, factor * bias

    def drop(self, *patterns: str) -> None:
        """Forget tensors that carry no weights, by regular expressions of their whole name."""
        for name in [name for name in self._left if any(re.fullmatch(pattern, name) for pattern in patterns)]:
            del self._left[name]

    def close(self) -> None:
        """Raises ShotfitError if a tensor was missing or is left over."""
        if self._missing:
            also = f"; it holds {len(self._left)} others, such as {next(iter(self._left))}" if self._left else ""
            raise ShotfitError(
                f"{self.where} lacks {listing(self._missing)}{also}. It is truncated, or another architecture than its "
                "configuration says."
            )
        if self._left:
            count, _, names = listing(self._left).partition(": ")
            raise ShotfitError(f"{self.where} holds {count} that this architecture has no place for: {names}.")


def _read_pickle(path: Path) -> dict[str, Unread]:
    with Archive(path) if is_zip(path) else Legacy(path) as file:
        if isinstance(file, Archive) and file.scripted:
            return file.tensors(file.modules())
        found = find_weights(file.values(), str(path))
        tensors = file.tensors({name: value for name, value in found.items() if isinstance(value, Described)})
        # OpenAI's three integer entries are plain numbers in some files
        numbers = {name: torch.tensor(value) for name, value in found.items() if not isinstance(value, Described)}
        return {name: tensors.get(name) or Unread((), numbers[name].dtype, numbers[name].clone) for name in found}
