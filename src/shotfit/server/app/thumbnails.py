"""Small pictures for the page, made once and kept in one file of the cache folder, `thumbnails.sqlite`.

    small = Thumbnails(cache_folder()).of(picture, key)         # JPEG

The key names a picture's content. Nothing here is needed: a file that is damaged is made anew, and one that cannot be
written is done without.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import suppress
from pathlib import Path

from shotfit.data.images import as_jpeg
from shotfit.data.pictures import Picture

__all__ = ["NAME", "SIDE", "Thumbnails"]

SIDE = 320  # pixels of the longer side: sharp in the grid's largest cells, and on dense screens in those of the middle
QUALITY = 82  # of JPEG
LIMIT = 1_000_000_000  # bytes of all thumbnails; those made first go first
NAME = "thumbnails.sqlite"
_SCHEMA = "CREATE TABLE IF NOT EXISTS small (key TEXT PRIMARY KEY, jpeg BLOB NOT NULL)"


class Thumbnails:
    """Thumbnails in `folder/thumbnails.sqlite`; with None, in memory. Methods may be called from several threads."""

    def __init__(self, folder: Path | None, limit: int = LIMIT) -> None:
        self.path = None if folder is None else folder / NAME
        self.limit = limit
        self._lock = threading.Lock()
        self._database = self._opened()
        self._trim()

    def of(self, picture: Picture, key: str) -> bytes:
        """The thumbnail of a picture, as JPEG. Raises ShotfitError for a picture that cannot be read."""
        with self._lock, suppress(sqlite3.Error):
            row = self._database.execute("SELECT jpeg FROM small WHERE key = ?", (key,)).fetchone()
            if row is not None:
                return bytes(row[0])
        made = as_jpeg(picture, SIDE, QUALITY)
        with self._lock, suppress(sqlite3.Error):
            self._database.execute("INSERT OR IGNORE INTO small VALUES (?, ?)", (key, made))
        return made

    def _opened(self) -> sqlite3.Connection:
        if self.path is not None:
            for _ in range(2):
                with suppress(OSError, sqlite3.Error):
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    return _connected(str(self.path))
                with suppress(OSError):  # damaged
                    self.path.unlink()
        return _connected(":memory:")

    def _trim(self) -> None:
        with suppress(sqlite3.Error):
            (size,) = self._database.execute("SELECT coalesce(sum(length(jpeg)), 0) FROM small").fetchone()
            for row, length in self._database.execute(
                "SELECT rowid, length(jpeg) FROM small ORDER BY rowid"
            ).fetchall():
                if size <= self.limit:
                    break
                self._database.execute("DELETE FROM small WHERE rowid = ?", (row,))
                size -= length


def _connected(name: str) -> sqlite3.Connection:
    database = sqlite3.connect(name, timeout=5, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = OFF")  # lost thumbnails are made again
    database.execute(_SCHEMA)
    return database
