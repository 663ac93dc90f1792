"""The store: rows of tensors that depend on no parameter, kept on disk by what they depend on.

One folder a kind (backbone, step, precision), in it immutable shards `*.safetensors` (shards.py), each with rows, an
index of their keys, and checksums. Names are unique and files are renamed into place, so that any number of processes
write into one folder. Rows that another process is computing are waited for (claims.py). Small shards, as predictions
leave them, are put together into larger ones, so that there are few files however many rows. What is missing, evicted
or damaged is computed again. A disk that cannot be written to costs a note, not the run.

A folder is shotfit's where its name is the digest of the `kind.json` in it, a shard where its name is of the form that
shotfit gives. Nothing else is ever deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shotfit.data.cachefolder import cache_folder
from shotfit.engine.claims import Claims, claims_in, locked
from shotfit.engine.shards import DamagedRowsError, Held, Shard, Wanted, is_old, is_shard, write_rows, write_shard
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import SETTINGS_BYTES, TEMPORARY, UnreadableError, read_text, write_atomically
from shotfit.progress import say, track

__all__ = ["Compute", "Entry", "Kind", "MemoryStore", "NoStore", "Store", "cache_folder", "open_store", "parse_size"]

Kind = Mapping[str, str | int | float | bool]
Compute = Callable[[list[int]], Iterator[Tensor]]

LIMIT = "SHOTFIT_CACHE_LIMIT"
KIND = "kind.json"
TRIES = 3  # how often rows are computed again that come back from the disk damaged
SHARD_BYTES, SHARD_SECONDS = 64 * 2**20, 60  # after which rows are written
SMALL_BYTES, SMALL_SHARDS = SHARD_BYTES // 8, 32  # so many shards below that size become one
BLOCK, CLAIMS = 4_096, 16_384  # rows that are looked for at a time; that a process claims before it writes them
FEWEST, PARTS = 32, 8  # rows that a process claims at once at least; into how many claims a few hundred go
STALE_SECONDS = 3600  # a temporary file of this age belongs to a writer that was killed


def open_store() -> Store | MemoryStore:
    """The store in the cache's folder; one in memory where there is none."""
    folder = cache_folder()
    return MemoryStore() if folder is None else Store(folder / "streams")


def parse_size(text: str, name: str = "the size") -> int:
    """Bytes from a text such as 500MB or 20GB (powers of 1000) or 2GiB (of 1024).

    name: the flag or variable that the text stands in, for the UsageError that is raised where it is no size.

    Example:
        >>> parse_size("1.5GB")
        1500000000
    """
    found = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
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
        return self.held(kind, keys, compute, description).stack()

    def held(
        self, kind: Kind, keys: Sequence[str], compute: Compute, description: str, together: int | None = None
    ) -> Held:
        """See Store.held."""
        held = self._rows.setdefault(_digest(kind), {})
        missing = _missing(keys, held)
        for position, row in zip(missing, _computed(missing, compute, description), strict=True):
            held[keys[position]] = row
        return Held([held[key] for key in keys])

    def missing(self, kind: Kind, keys: Sequence[str]) -> list[int]:
        """See Store.missing."""
        return _missing(keys, self._rows.get(_digest(kind), {}))

    def undamaged(self, read: Callable[[], Tensor]) -> Tensor:
        """See Store.undamaged."""
        return read()


class NoStore(MemoryStore):
    """Nothing is kept: for a process that lives long, and is asked by others."""

    def held(
        self, kind: Kind, keys: Sequence[str], compute: Compute, description: str, together: int | None = None
    ) -> Held:
        """See Store.held."""
        rows: dict[str, Tensor] = {}
        missing = _missing(keys, rows)
        rows.update(zip((keys[place] for place in missing), _computed(missing, compute, description), strict=True))
        return Held([rows[key] for key in keys])


class Store:
    """Rows on disk under `folder`, at most `limit` bytes of them (least recently used shards go first)."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder = Path(folder)
        self.limit = parse_size(os.environ.get(LIMIT, "20GB"), LIMIT) if limit is None else limit
        self._shards: dict[tuple[str, int, int], Shard] = {}
        self._damaged = set[str]()  # names of shards, which a disk that cannot be written to keeps
        self._told = False  # that it cannot be written

    def rows(self, kind: Kind, keys: Sequence[str], compute: Compute, description: str) -> Tensor:
        """Rows [keys, ...] in the order of the keys; those that are not there are computed and kept.

        compute: given the positions of missing keys, yields tensors [m, ...] of consecutive rows in that order. Each
        shard is written as soon as it is full or a minute old, so an interrupted computation goes on where it stopped.

        Raises ShotfitError for a disk that damages what is written again and again.
        """
        return self.undamaged(lambda: self.held(kind, keys, compute, description).stack())

    def missing(self, kind: Kind, keys: Sequence[str]) -> list[int]:
        """The positions of the keys, each at its first, whose rows are not there."""
        return _missing(keys, self._find(self.folder / _digest(kind), keys))

    def undamaged(self, read: Callable[[], Tensor]) -> Tensor:
        """What `read` gives, which is called again where rows turn out to be damaged: they are no longer held then."""
        for _ in range(TRIES):
            try:
                return read()
            except DamagedRowsError as error:
                self._discard(error.path)
        raise ShotfitError(
            f"{self.folder} gives back other bytes than were written to it: check its disk, or set SHOTFIT_CACHE to a "
            "folder on another."
        )

    def held(
        self, kind: Kind, keys: Sequence[str], compute: Compute, description: str, together: int | None = None
    ) -> Held:
        """The same row by row: each is read from its file, and compared with its checksum, when it is asked for.

        together: of so many missing rows at a time, at most, nobody else computes any, so that processes that want the
        same rows share the work; None: of all.

        What is read raises DamagedRowsError where the file was damaged, cut off or evicted since; see `undamaged`.
        """
        home = self.folder / _digest(kind)
        held: dict[str, Tensor | tuple[Shard, int]] = dict(self._find(home, keys))
        missing, pending, size, failed = _missing(keys, held), dict[str, Tensor](), 0, False
        written = time.monotonic()
        most = None if together is None else min(together, max(FEWEST, ceil(len(missing) / PARTS / FEWEST) * FEWEST))

        def flush() -> None:
            nonlocal pending, size, failed, written
            if pending and not failed:
                try:
                    shard = self._write(home, kind, pending)
                    held.update({key: (shard, row) for row, key in enumerate(pending)})
                except OSError as error:
                    failed = True
                    self._note(error)
            pending, size, written = {}, 0, time.monotonic()

        def filled() -> Iterator[None]:
            """One by one, as the missing rows come, from here or from another process."""
            with claims_in(home, home / KIND) as claims:
                for left in _blocks(missing, None if together is None else BLOCK):
                    yield from of_block(left, claims)
                    if claims.count >= CLAIMS:  # who looks for claims reads all of them
                        flush()
                        claims.drop()
                flush()

        def of_block(left: list[int], claims: Claims) -> Iterator[None]:
            nonlocal size
            while left:
                wanted = [keys[position] for position in left]
                mine = claims.take(wanted, most)
                if mine:
                    known = self._find(home, wanted)  # of others, since
                    part = [place for place in left if keys[place] in mine and keys[place] not in known]
                    rows = (row for chunk in (compute(part) if part else ()) for row in chunk.detach().cpu())
                    for position, row in zip(part, rows, strict=True):
                        held[keys[position]] = pending[keys[position]] = row
                        size += row.nbytes
                        if size >= SHARD_BYTES or time.monotonic() - written >= SHARD_SECONDS:
                            flush()
                        yield
                else:
                    flush()
                    claims.drop()
                    claims.wait(wanted)
                    known = self._find(home, wanted)
                held.update(known)
                yield from (None for _ in known)
                left = [position for position in left if keys[position] not in held]

        try:
            if missing:
                self._prepare(home, kind)
                for _ in track(filled(), description, total=len(missing)):
                    pass
        finally:
            flush()
        rows = Held([held[key] for key in keys])  # opens the files, so that they may be evicted
        if missing and not failed:
            self._put_together(home)
            self.evict()
        return rows

    def entries(self) -> list[Entry]:
        """What the store holds, the latest used first."""
        found = []
        for home in self._homes():
            shards = [(path, stat) for path in home.iterdir() if is_shard(path) and (stat := _stat(path)) is not None]
            rows = sum(shard.count for path, _ in shards if (shard := self._shard(path)) is not None)
            last = max((stat.st_mtime for _, stat in shards), default=0.0)
            found.append(Entry(_kind_of(home) or {}, rows, sum(stat.st_size for _, stat in shards), last))
        return sorted(found, key=lambda entry: -entry.last_use)

    def clear(self) -> None:
        """Remove everything that shotfit wrote."""
        for home in self._homes():
            for path in home.iterdir():
                if is_shard(path) or is_old(path) or path.name.startswith(TEMPORARY):
                    path.unlink(missing_ok=True)
            (home / KIND).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # something else lies there
                home.rmdir()

    def evict(self) -> None:
        """Remove the least recently used shards until the limit is kept, and what killed writers left behind."""
        shards = []
        for home in self._homes():
            for path in home.iterdir():
                stat = _stat(path)
                if stat is None:
                    continue
                if path.name.startswith(TEMPORARY):
                    if time.time() - stat.st_mtime > STALE_SECONDS:
                        path.unlink(missing_ok=True)
                elif is_old(path):
                    path.unlink(missing_ok=True)
                elif is_shard(path):
                    shards.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in shards)
        for _, size, path in sorted(shards):
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _homes(self) -> list[Path]:
        """The folders of kinds, which shotfit made."""
        if not self.folder.is_dir():
            return []
        found = sorted(path for path in self.folder.iterdir() if path.is_dir())
        return [path for path in found if (kind := _kind_of(path)) is not None and _digest(kind) == path.name]

    def _note(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            say(f"note: {self.folder} cannot be written ({error.strerror}); going on without keeping features.")

    def _prepare(self, home: Path, kind: Kind) -> None:
        """Have the folder of a kind, for claims on its rows; where it cannot be made, writing rows will tell."""
        if _kind_of(home) != dict(kind):
            with contextlib.suppress(OSError):
                write_atomically(home / KIND, json.dumps(dict(kind), sort_keys=True).encode())

    def _write(self, home: Path, kind: Kind, rows: Mapping[str, Tensor]) -> Shard:
        if _kind_of(home) != dict(kind):
            write_atomically(home / KIND, json.dumps(dict(kind), sort_keys=True).encode())
        return write_shard(home, rows)

    def _put_together(self, home: Path) -> None:
        """Make one shard of many small ones. Who still wants to read one of them finds its rows in the new one."""
        if len(self._small(home)) < SMALL_SHARDS:
            return
        with locked(home / KIND, wait=False) as held, contextlib.suppress(OSError):
            if not held:  # another process does it
                return
            alike: dict[tuple[str, tuple[int, ...]], list[Shard]] = {}
            for path in self._small(home):
                shard = self._shard(path)
                if shard is not None and shard.count:
                    alike.setdefault((str(shard.dtype), shard.shape), []).append(shard)
            for shards in alike.values():
                self._put_one(home, shards)

    def _put_one(self, home: Path, shards: Sequence[Shard]) -> None:
        parts: list[Tensor] = []
        digests, done, size = list[NDArray[np.int64]](), list[Shard](), 0
        for shard in shards:
            try:
                every = range(shard.count)
                parts.append(shard.read(every))
                digests.append(shard.digests(every))
            except DamagedRowsError as error:
                del parts[len(digests) :]
                self._discard(error.path)
                continue
            done.append(shard)
            size += parts[-1].nbytes
            if size >= SHARD_BYTES:
                break
        if len(done) > 1:
            every_digest = np.concatenate(digests)
            first = np.unique(every_digest, axis=0, return_index=True)[1]
            order = np.sort(first)  # as they lay, without those that two processes had computed
            write_rows(home, every_digest[order], torch.cat(parts)[torch.from_numpy(order)])
            for shard in done:
                shard.path.unlink(missing_ok=True)
            self._shards = {known: shard for known, shard in self._shards.items() if shard not in done}

    def _small(self, home: Path) -> list[Path]:
        """Shards below SMALL_BYTES, the smallest first."""
        stats = [(stat.st_size, path) for path in _listed(home) if is_shard(path) and (stat := _stat(path)) is not None]
        return [path for size, path in sorted(stats) if size < SMALL_BYTES]

    def _find(self, home: Path, keys: Sequence[str]) -> dict[str, tuple[Shard, int]]:
        """Where the rows of keys are that are there; once more where a shard went into a larger one meanwhile."""
        names, held = list(dict.fromkeys(keys)), dict[str, tuple[Shard, int]]()
        wanted = Wanted(names)
        for _ in range(TRIES):
            gone = False
            for path in sorted(path for path in _listed(home) if is_shard(path)):
                shard = self._shard(path)
                gone |= shard is None and path.name not in self._damaged
                try:
                    found = shard.find(wanted) if shard is not None else {}
                except DamagedRowsError:
                    self._discard(path)
                    continue
                places = {names[position]: row for position, row in found.items()}
                if shard is None or not places.keys() - held.keys():
                    continue
                with contextlib.suppress(OSError):
                    os.utime(path)
                held = {key: (shard, row) for key, row in places.items()} | held
            if not gone or len(held) == len(names):
                break
        return held

    def _shard(self, path: Path) -> Shard | None:
        """A shard; None if it is not there, or damaged, and then it is removed."""
        stat = _stat(path)
        if stat is None or path.name in self._damaged:
            return None
        known = (path.name, stat.st_size, stat.st_ino)
        if known not in self._shards:
            try:
                self._shards[known] = Shard.open(path)
            except FileNotFoundError:  # another process has evicted it just now
                return None
            except DamagedRowsError:
                self._discard(path)
                return None
        return self._shards[known]

    def _discard(self, path: Path) -> None:
        self._damaged.add(path.name)
        if path.exists():
            say(f"note: {path.name} in the store is damaged; its rows are computed again.")
        with contextlib.suppress(OSError):
            path.unlink()


def _listed(home: Path) -> list[Path]:
    """What lies in a folder, if it is there."""
    try:
        return list(home.iterdir())
    except OSError:
        return []


def _blocks(positions: list[int], size: int | None) -> Iterator[list[int]]:
    """Neighbours together, `size` at a time; None: all."""
    for begin in range(0, len(positions), size or max(len(positions), 1)):
        yield positions[begin : begin + size] if size else positions


def _computed(missing: list[int], compute: Compute, description: str) -> Iterator[Tensor]:
    if missing:
        rows = (row for chunk in compute(missing) for row in chunk.detach().cpu())
        yield from track(rows, description, total=len(missing))


def _missing(keys: Sequence[str], held: Collection[str]) -> list[int]:
    """The first position of each key that is not held."""
    first: dict[str, int] = {}
    for position, key in enumerate(keys):
        if key not in held:
            first.setdefault(key, position)
    return list(first.values())


def _digest(kind: Kind) -> str:
    return hashlib.sha256(json.dumps(dict(kind), sort_keys=True).encode()).hexdigest()[:32]


def _kind_of(home: Path) -> dict[str, str | int | float | bool] | None:
    """What `kind.json` in a folder says; None where there is none that can be read."""
    try:
        kind = json.loads(read_text(home / KIND, SETTINGS_BYTES, "a description of the store"))
    except (UnreadableError, ValueError, RecursionError):
        return None
    return kind if isinstance(kind, dict) else None


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
