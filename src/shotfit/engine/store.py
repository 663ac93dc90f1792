"""The store: rows of tensors that depend on no parameter, kept on disk by what they depend on.

One folder a kind (backbone, step, precision), in it immutable shards `*.safetensors`, each with rows and, in its
metadata, their keys and a checksum. Names are unique and files are renamed into place, so that several processes use
one folder without locks; rows that two of them compute at once are only double. What is missing, evicted or damaged is
computed again. A disk that cannot be written to costs a note, not the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from shotfit.errors import UsageError
from shotfit.files import TEMPORARY, write_atomically
from shotfit.progress import say, track

__all__ = ["Entry", "Kind", "MemoryStore", "Store", "cache_folder", "parse_size"]

Kind = Mapping[str, str | int | float | bool]
Compute = Callable[[list[int]], Iterator[Tensor]]

LIMIT = "SHOTFIT_CACHE_LIMIT"
MARK = "shotfit stream"
SHARD_BYTES = 64 * 2**20
STALE_SECONDS = 3600  # a temporary file of this age belongs to a writer that was killed


def cache_folder() -> Path:
    """Where recomputable things are kept: SHOTFIT_CACHE, else XDG_CACHE_HOME/shotfit, else ~/.cache/shotfit."""
    named = os.environ.get("SHOTFIT_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "shotfit"


def parse_size(text: str, name: str = "the size") -> int:
    """Bytes from a text such as 500MB or 20GB (powers of 1000) or 2GiB (of 1024).

    name: the flag or variable that the text stands in, for the UsageError that is raised where it is no size.

    Example:
        >>> parse_size("1.5GB")
        1500000000
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if found is None:
        raise UsageError(f"{name}: {text!r} is no size; expected one such as 500MB, 20GB or 2GiB.")
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(unit.upper() or " "))


@dataclass(frozen=True)
class Entry:
    """One kind in the store, for `shotfit cache`."""

    kind: dict[str, str | int | float | bool]
    rows: int
    bytes: int
    last_use: float  # seconds since the epoch


class MemoryStore:
    """The same without a disk."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Tensor]] = {}

    def rows(self, kind: Kind, keys: Sequence[str], compute: Compute, description: str) -> Tensor:
        """See Store.rows."""
        return torch.stack(self.held(kind, keys, compute, description))

    def held(self, kind: Kind, keys: Sequence[str], compute: Compute, description: str) -> list[Tensor]:
        """See Store.held."""
        held = self._rows.setdefault(_digest(kind), {})
        missing = _missing(keys, held)
        for position, row in zip(missing, _computed(missing, compute, description), strict=True):
            held[keys[position]] = row
        return [held[key] for key in keys]


class Store:
    """Rows on disk under `folder`, at most `limit` bytes of them (least recently used shards go first)."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder = Path(folder)
        self.limit = parse_size(os.environ.get(LIMIT, "20GB"), LIMIT) if limit is None else limit
        self._indexes: dict[tuple[str, int, int], tuple[str, ...]] = {}
        self._told = False  # that it cannot be written

    def rows(self, kind: Kind, keys: Sequence[str], compute: Compute, description: str) -> Tensor:
        """Rows [keys, ...] in the order of the keys; those that are not there are computed and kept.

        compute: given the positions of missing keys, yields tensors [m, ...] of consecutive rows in that order. Each
        shard is written as soon as it is full, so an interrupted computation goes on where it stopped.
        """
        return torch.stack(self.held(kind, keys, compute, description))

    def held(self, kind: Kind, keys: Sequence[str], compute: Compute, description: str) -> list[Tensor]:
        """The same row by row, as they lie in memory-mapped files: they take no memory that could not be had back."""
        home = self.folder / _digest(kind)
        held = self._read(home, set(keys))
        missing, pending, size, failed = _missing(keys, held), dict[str, Tensor](), 0, False

        def flush() -> None:
            nonlocal pending, size, failed
            if pending and not failed:
                try:
                    path = self._write(home, kind, pending)
                    held.update(self._map(path, [(key, row) for row, key in enumerate(pending)]))
                except OSError as error:
                    failed = True
                    if not self._told:
                        self._told = True
                        reason = f"cannot be written ({error.strerror})"
                        say(f"note: {self.folder} {reason}; going on without keeping features.")
            pending, size = {}, 0

        try:
            for position, row in zip(missing, _computed(missing, compute, description), strict=True):
                held[keys[position]] = pending[keys[position]] = row
                size += row.nbytes
                if size >= SHARD_BYTES:
                    flush()
        finally:
            flush()
        if missing and not failed:
            self.evict()
        return [held[key] for key in keys]

    def entries(self) -> list[Entry]:
        """What the store holds, the latest used first."""
        found = []
        for home in self._homes():
            shards = [(path, stat) for path in home.glob("*.safetensors") if (stat := _stat(path)) is not None]
            with contextlib.suppress(OSError, ValueError):
                kind = json.loads((home / "kind.json").read_text())
                rows = sum(len(self._keys(path) or ()) for path, _ in shards)
                last = max((stat.st_mtime for _, stat in shards), default=0.0)
                found.append(Entry(kind, rows, sum(stat.st_size for _, stat in shards), last))
        return sorted(found, key=lambda entry: -entry.last_use)

    def clear(self) -> None:
        """Remove everything."""
        for home in self._homes():
            shutil.rmtree(home, ignore_errors=True)

    def evict(self) -> None:
        """Remove the least recently used shards until the limit is kept, and what killed writers left behind."""
        shards = []
        for home in self._homes():
            for path in home.iterdir() if home.is_dir() else ():
                stat = _stat(path)
                if stat is None:
                    continue
                if path.name.startswith(TEMPORARY):
                    if time.time() - stat.st_mtime > STALE_SECONDS:
                        path.unlink(missing_ok=True)
                elif path.suffix == ".safetensors":
                    shards.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in shards)
        for _, size, path in sorted(shards):
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _homes(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_dir()) if self.folder.is_dir() else []

    def _write(self, home: Path, kind: Kind, rows: Mapping[str, Tensor]) -> Path:
        if not (home / "kind.json").exists():
            write_atomically(home / "kind.json", json.dumps(dict(kind), sort_keys=True).encode())
        stacked = torch.stack(list(rows.values())).cpu().contiguous()
        metadata = {"mark": MARK, "keys": json.dumps(list(rows)), "checksum": str(_checksum(stacked))}
        path = home / f"{uuid.uuid4().hex}.safetensors"
        write_atomically(path, save({"rows": stacked}, metadata=metadata))
        return path

    def _read(self, home: Path, wanted: set[str]) -> dict[str, Tensor]:
        """The rows of all shards that hold a wanted key, each checked against its checksum."""
        held: dict[str, Tensor] = {}
        for path in sorted(home.glob("*.safetensors")) if home.is_dir() else ():
            keys = self._keys(path)
            if keys is None:
                continue
            places = [(key, row) for row, key in enumerate(keys) if key in wanted and key not in held]
            if not places:
                continue
            held |= self._map(path, places)
        return held

    def _map(self, path: Path, places: Sequence[tuple[str, int]]) -> dict[str, Tensor]:
        """Rows of a shard by key, memory-mapped; none (and the file removed) if its checksum is wrong."""
        try:
            with safe_open(path, framework="pt") as file:
                rows, checksum = file.get_tensor("rows"), file.metadata()["checksum"]
        except (SafetensorError, OSError):  # another process may have evicted it just now
            return {}
        if str(_checksum(rows)) != checksum:
            self._discard(path)
            return {}
        with contextlib.suppress(OSError):
            os.utime(path)
        return {key: rows[row] for key, row in places}

    def _keys(self, path: Path) -> tuple[str, ...] | None:
        """A shard's keys; None (and the file removed) if it is damaged or foreign."""
        stat = _stat(path)
        if stat is None:
            return None
        known = (path.name, stat.st_size, stat.st_ino)
        if known not in self._indexes:
            try:
                with safe_open(path, framework="pt") as file:
                    metadata = file.metadata() or {}
                    keys = tuple(json.loads(metadata["keys"])) if metadata.get("mark") == MARK else None
                    if keys is None or file.get_slice("rows").get_shape()[0] != len(keys):
                        raise ValueError
            except FileNotFoundError:
                return None
            except (SafetensorError, OSError, ValueError, KeyError):
                self._discard(path)
                return None
            self._indexes[known] = keys
        return self._indexes[known]

    def _discard(self, path: Path) -> None:
        say(f"note: {path.name} in the store is damaged; its rows are computed again.")
        with contextlib.suppress(OSError):
            path.unlink()


def _computed(missing: list[int], compute: Compute, description: str) -> Iterator[Tensor]:
    if missing:
        rows = (row for chunk in compute(missing) for row in chunk.detach().cpu())
        yield from track(rows, description, total=len(missing))


def _missing(keys: Sequence[str], held: Mapping[str, Tensor]) -> list[int]:
    """The first position of each key that is not held."""
    first: dict[str, int] = {}
    for position, key in enumerate(keys):
        if key not in held:
            first.setdefault(key, position)
    return list(first.values())


def _digest(kind: Kind) -> str:
    return hashlib.sha256(json.dumps(dict(kind), sort_keys=True).encode()).hexdigest()[:32]


def _checksum(rows: Tensor) -> int:
    return zlib.crc32(rows.contiguous().view(torch.uint8).numpy().data)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
