"""What is known about pictures, kept in one small database so that a second run reads no image.

    cache = FileCache(folder)                  # folder/files.sqlite; None keeps nothing
    digests = cache.digests(pictures)          # see Picture.digest
    verdicts = cache.verdicts(digests, rules)  # what the doctor found, by content

A digest, also of a part of a file, is trusted while the file's size, times and inode are those at the time of reading.
A file that was written less than RACY seconds before it was read is not kept: a later write could leave size and times
as they are. Several
processes may use the database at once. Each row has a checksum, and one that does not match it counts as missing, so
that no damage gives another image's digest. Nothing here is needed: a database that is damaged as a whole is set aside
and made anew, one that cannot be read or written is done without, both with a warning.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

from shotfit.data.budget import thread_pool
from shotfit.data.images import BrokenImageError, digest, shown
from shotfit.data.pictures import Picture
from shotfit.progress import track

__all__ = ["FileCache", "in_threads"]

RACY = 2.0  # seconds; the coarsest time stamps in use (FAT) have this resolution
_CHUNK = 1024  # files between two writes to the database, so that an interrupted run keeps what it read

_NAME = "files.sqlite"
_DAMAGED = f"{_NAME}.damaged"  # it may be somebody else's, so it is renamed, not deleted
_OWN_FILES = (_NAME, f"{_NAME}-journal", f"{_NAME}-wal", f"{_NAME}-shm", _DAMAGED)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sealed_files (path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL, inode TEXT NOT NULL, digest TEXT NOT NULL, seal TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sealed_verdicts (digest TEXT NOT NULL, rules TEXT NOT NULL, verdict TEXT NOT NULL,
    seal TEXT NOT NULL, PRIMARY KEY (digest, rules)) WITHOUT ROWID;
"""
_TABLES = {"sealed_files", "sealed_verdicts", "files", "verdicts"}  # the last two were those without checksums

A = TypeVar("A")
B = TypeVar("B")


class FileCache:
    """Digests by path and verdicts by digest, in `folder/files.sqlite`; with `folder` None, nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.path = None if folder is None else folder / _NAME

    def digests(self, pictures: Sequence[Picture]) -> list[str]:
        """The digest of each picture; "" for one that cannot be read or is too large (`images.digest`).

        What boxes are cut from is read once for all of them.
        """
        whole = list(dict.fromkeys(picture.whole for picture in pictures))
        found = dict(zip(whole, self._digests(whole), strict=True))
        return [digest and picture.digest_of(digest) for picture in pictures for digest in (found[picture.whole],)]

    def _digests(self, pictures: Sequence[Picture]) -> list[str]:
        stamps = [_stamp(picture) for picture in pictures]
        nothing: dict[int, str] = {}
        known = self._use(lambda database: _known_digests(database, pictures, stamps), nothing)
        found = [known.get(i, "") for i in range(len(pictures))]
        missing = [
            i
            for i, (picture, stamp) in enumerate(zip(pictures, stamps, strict=True))
            if i not in known and (stamp or picture.file is None)
        ]

        def read(i: int) -> tuple[int, str, tuple[int, int, int, str] | None]:
            return i, *_read_digest(pictures[i])

        for chunk in _chunks(track(in_threads(read, missing), "reading pictures", total=len(missing))):
            for i, value, _ in chunk:
                found[i] = value
            rows = [_sealed(os.fsencode(str(pictures[i])), *stamp, value) for i, value, stamp in chunk if stamp]
            self._write("INSERT OR REPLACE INTO sealed_files VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        return found

    def verdicts(self, digests: Iterable[str], rules: str) -> dict[str, str]:
        """The verdicts that are kept for these contents under these rules, by digest."""
        query = "SELECT verdict, seal FROM sealed_verdicts WHERE digest = ? AND rules = ?"

        def find(database: sqlite3.Connection) -> dict[str, str]:
            found = ((value, database.execute(query, (value, rules)).fetchone()) for value in set(digests))
            return {value: row[0] for value, row in found if row and _sealed(value, rules, row[0])[-1] == row[1]}

        return self._use(find, {})

    def keep_verdicts(self, verdicts: Mapping[str, str], rules: str) -> None:
        """Keep verdicts by digest, under the name of the rules they were made by."""
        rows = [_sealed(value, rules, verdict) for value, verdict in verdicts.items()]
        self._write("INSERT OR REPLACE INTO sealed_verdicts VALUES (?, ?, ?, ?)", rows)

    def clear(self) -> None:
        """Delete the database, unless another program made it."""
        if self.path is not None and self.path.is_file() and self._is_own(self.path):
            for name in _OWN_FILES:
                self.path.with_name(name).unlink(missing_ok=True)

    @staticmethod
    def _is_own(path: Path) -> bool:
        """Whether all tables of the database are shotfit's."""
        if _is_special(path):
            return False
        try:
            with closing(sqlite3.connect(path, timeout=30)) as database:
                tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        except sqlite3.DatabaseError:
            return False
        return bool(tables) and tables <= _TABLES

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        if rows:
            self._use(lambda database: database.executemany(statement, rows), None)

    def _use(self, action: Callable[[sqlite3.Connection], A], otherwise: A) -> A:
        """Run one transaction; `otherwise` where there is no database to be had."""
        if self.path is None:
            return otherwise
        try:
            return self._transaction(self.path, action)
        except (sqlite3.OperationalError, OSError) as error:  # locked for long, read-only, disk full, no permission
            why = getattr(error, "strerror", None) or error
            _warn_once(f"{shown(self.path)} cannot be used ({why}); files are read again.")
        except sqlite3.DatabaseError:
            warnings.warn(f"{shown(self.path)} is damaged and was made anew; files are read again.", stacklevel=3)
            with suppress(OSError):
                os.replace(self.path, self.path.with_name(_DAMAGED))
        return otherwise

    @staticmethod
    def _transaction(path: Path, action: Callable[[sqlite3.Connection], A]) -> A:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _is_special(path):
            raise OSError("it, or a file beside it, is a link or no regular file")
        with closing(sqlite3.connect(path, timeout=30)) as database:
            database.text_factory = _text
            database.executescript(_SCHEMA)
            with database:
                return action(database)


def _is_special(path: Path) -> bool:
    """Whether the database, or a file that goes with it, is none that SQLite can open without waiting.

    A link is none either: what lies in /proc says that it is a regular file.
    """
    files = [path.with_name(name) for name in _OWN_FILES]
    return any(file.is_symlink() or (file.exists() and not file.is_file()) for file in files)


@cache
def _warn_once(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=5)


def in_threads(function: Callable[[A], B], values: Iterable[A]) -> Iterator[B]:
    """`function` of each value in order, computed by as many threads as there are processors."""
    with thread_pool(os.cpu_count() or 1) as pool:
        # a pool takes in all it is given at once, which for a million files is a gigabyte of futures
        for chunk in _chunks(values):
            yield from pool.map(function, chunk)


def _chunks(values: Iterable[A]) -> Iterator[list[A]]:
    remaining = iter(values)
    while chunk := list(islice(remaining, _CHUNK)):
        yield chunk


def _stamp(picture: Picture) -> tuple[int, int, int, str] | None:
    """Size, times and inode of the file; None where there is none."""
    try:
        found = None if picture.file is None else picture.file.stat()
    except (OSError, ValueError):
        return None
    if found is None:
        return None
    # inodes of some file systems exceed the database's integers
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, f"{found.st_dev}:{found.st_ino}"


def _known_digests(
    database: sqlite3.Connection, pictures: Sequence[Picture], stamps: Sequence[tuple[int, int, int, str] | None]
) -> dict[int, str]:
    query = "SELECT size, mtime_ns, ctime_ns, inode, digest, seal FROM sealed_files WHERE path = ?"
    known = {}
    for i, (picture, stamp) in enumerate(zip(pictures, stamps, strict=True)):
        if stamp is None:
            continue
        name = os.fsencode(str(picture))
        row = database.execute(query, (name,)).fetchone()
        if row and row[:4] == stamp and row == _sealed(name, *row[:5])[1:]:
            known[i] = row[4]
    return known


def _sealed(*row: object) -> tuple[object, ...]:
    """The row, and a checksum of it."""
    return *row, hashlib.sha256(repr(row).encode()).hexdigest()[:16]


def _text(content: bytes) -> str:
    """Text of a row, which damage may have made anything; its checksum tells."""
    return content.decode("utf-8", "replace")


def _read_digest(picture: Picture) -> tuple[str, tuple[int, int, int, str] | None]:
    """The digest, and the stamp under which it may be kept: None if the file is or may be changing."""
    before, begun = _stamp(picture), time.time()
    try:
        value = digest(picture)
    except BrokenImageError:
        return "", None
    steady = before is not None and before == _stamp(picture) and begun - before[1] / 1e9 >= RACY
    return value, before if steady else None
