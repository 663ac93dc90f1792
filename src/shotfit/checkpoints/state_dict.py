"""From a weights file to named tensors, and the account of which of them were used.

What is read, and how: `.safetensors` always; a TorchScript archive by `archive.py`; any other pickled file by
`torch.load(weights_only=True)`, and only with a torch whose restricted loader has no known hole.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from shotfit.checkpoints.archive import is_archive, read_archive
from shotfit.checkpoints.settings import read_json
from shotfit.errors import ShotfitError, first_few
from shotfit.files import SETTINGS_BYTES, WEIGHTS_BYTES, open_regular

__all__ = ["StateDict", "read_index", "read_tensors"]

PICKLE_TORCH = (2, 10)  # the first torch whose restricted unpickler has neither of the holes named below


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one weights file, on the CPU, in the precision on disk.

    Names lose a leading `module.` (a wrapped model's), and a training checkpoint gives what it keeps under
    `state_dict`. Raises ShotfitError, naming the file, if it is damaged, or not allowed to be read.
    """
    with open_regular(path, WEIGHTS_BYTES, "the weights of a backbone") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise ShotfitError(f"{path} is a Git LFS pointer, not the weights. Fetch them with `git lfs pull`.")
    if path.suffix == ".safetensors":
        return unwrapped(_read_safetensors(path))
    if is_archive(path):
        return unwrapped(read_archive(path))
    return unwrapped(_read_pickle(path))


def read_index(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint in shards, from its `*.index.json`.

    Raises ShotfitError if a shard is missing, or does not hold what the index says.
    """
    names = read_json(path).section("weight_map").entries
    if not names or not all(isinstance(shard, str) and Path(shard).name == shard for shard in names.values()):
        raise ShotfitError(f"{path}: weight_map must name a file of the same folder for each tensor.")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(names.values())):
        if not path.with_name(shard).is_file():
            raise ShotfitError(f"{path.with_name(shard)} is missing: {path.name} lists it. Fetch it, too.")
        content = read_tensors(path.with_name(shard))
        expected = {name for name, file in names.items() if file == shard}
        if content.keys() != expected:
            problem = "lacks" if expected - content.keys() else "holds, not in the index,"
            odd = sorted(expected - content.keys()) or sorted(content.keys() - expected)
            raise ShotfitError(f"{path.with_name(shard)} {problem} {listing(odd)}.")
        tensors.update(content)
    return tensors


def unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without the `module.` in front that a wrapped model's have."""
    if tensors and all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def listing(names: Iterable[str], shown: int = 3) -> str:
    """Some names in a sentence: the first few and how many more, with the count in front."""
    names = list(names)
    return f"{len(names)} {'tensor' if len(names) == 1 else 'tensors'}: {first_few(names, shown)}"


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

    def __init__(self, tensors: Mapping[str, Tensor], where: str) -> None:
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
        """The tensor `name` as float32, which must have `shape` (one of a single entry may have any).

        A missing one gives an empty stand-in, so that `close` can name all that are missing.
        """
        if name not in self._left:
            self._missing.append(name)
            return torch.empty(shape, device="meta")
        value = self.floating(name)
        del self._left[name]
        if tuple(value.shape) != shape and not value.numel() == 1 == torch.Size(shape).numel():
            raise ShotfitError(
                f"{self.where}: {name} has shape {list(value.shape)}, but the configuration asks for {list(shape)}."
            )
        return value.reshape(shape)

    def floating(self, name: str) -> Tensor:
        """The tensor `name` as float32, not taken. Raises ShotfitError if it holds no floating-point numbers."""
        value = self._left[name]
        if not value.is_floating_point():
            raise ShotfitError(f"{self.where}: {name} is {value.dtype}, expected floating-point weights.")
        return value.float()

    def layer(self, old: str, new: str, *shape: int) -> dict[str, Tensor]:
        """The weight of `shape` of the layer `old` and its bias, as long as the first dimension, as `new`'s."""
        return {
            f"{new}.weight": self.take(f"{old}.weight", *shape),
            f"{new}.bias": self.take(f"{old}.bias", shape[0]),
        }

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


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        found, expected = path.stat().st_size, _safetensors_size(path)
        if expected is not None and found < expected:
            reason = f"is truncated (expected {expected:,} bytes, found {found:,})"
        else:
            reason = f"is truncated, damaged or no safetensors file ({str(error).splitlines()[0]})"
        raise ShotfitError(f"{path} {reason}. Fetch it again.") from None


def _safetensors_size(path: Path) -> int | None:
    """How long the header says that the file is, or None if it has none that can be read."""
    try:
        with open_regular(path, WEIGHTS_BYTES, "the weights of a backbone") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(path.stat().st_size, SETTINGS_BYTES):
                return None  # cut within the header, or another format
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return 8 + int(length) + int(max(ends, default=0))
    except (struct.error, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None


def _torch_version() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", torch.__version__)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    if _torch_version() < PICKLE_TORCH:
        raise ShotfitError(
            f"{path} is a pickled file, and torch {torch.__version__} does not read those safely (CVE-2025-32434, "
            "CVE-2026-24747). Use a .safetensors file of the same weights, or torch 2.10 or newer."
        )
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ShotfitError(f"{path} {_refusal(str(error))}") from None
    except Exception as error:  # a damaged file can break torch's reader anywhere, and nothing of ours runs here
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ShotfitError(f"{path} is truncated, damaged or no weights file ({reason}). Fetch it again.") from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise ShotfitError(f"{path} holds no state dict: expected tensors by name, or those under 'state_dict'.")
    tensors = {name: _as_tensor(value) for name, value in content.items()}
    odd = [str(name) for name, value in tensors.items() if value is None or not isinstance(name, str)]
    if odd:
        raise ShotfitError(f"{path} holds no state dict: {listing(odd).partition(': ')[2]} is no tensor.")
    return {str(name): value for name, value in tensors.items() if value is not None}


def _as_tensor(value: object) -> Tensor | None:
    if isinstance(value, Tensor):
        return value.detach()
    # OpenAI's three integer entries are plain numbers in some files
    return torch.tensor(value) if isinstance(value, (int, float)) else None


def _refusal(message: str) -> str:
    """Why torch's restricted loader refused a file, in one sentence of ours."""
    found = re.search(r"GLOBAL\s+(\S+)|function\s+(<[^>]*>|\S+)|Unsupported class\s+(\S+)", message)
    what = next((group for group in found.groups() if group), "") if found else ""
    if what:
        return f"is not read: it asks to run {what.rstrip('.,')}, and a weights file may hold tensors only."
    return "is truncated, damaged, or holds more than tensors. Fetch it again, or use a .safetensors file."
