"""The labels that people give, in a file beside the pictures that only grows: `.shotfit-labels.jsonl`.

    journal = Journal(Path("photos"))
    journal.append(Change(labels={"a.jpg": "cat"}))     # on the disk when it returns
    journal.follow()                                    # what other processes have appended since

One line of JSON a change, behind a first line that says what the file is. A change holds only what it changes, so the
changes of two pages, or of two servers on one folder, add up: each appends under a lock on the file, and reads what the
other has appended. A line counts once its line end is there. What a killed writer left of one was told to nobody, and
goes when the next change is written.

A journal that has grown far beyond what it says is written anew, under a temporary name that is renamed, when a server
starts. Who still holds the older file sees that, and opens the new one.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from shotfit.data.formats.labelled import HEAD_LINE, NAME, Change, is_head
from shotfit.errors import ShotfitError
from shotfit.files import LIST_BYTES, check_regular, write_atomically, write_new
from shotfit.printing import printable

try:
    import fcntl
except ImportError:  # Windows: one server a folder
    fcntl = None  # type: ignore[assignment]

__all__ = ["NAME", "Change", "Journal"]

SPARE = 2000  # lines beyond one for each label that are not worth writing the journal anew
TOGETHER = 500  # labels in a line of a journal that is written anew


class Journal:
    """The journal of a folder, and what it says by now. Its methods may be called from several threads.

    labels, confirmed: as in `Change`, the last word on each picture. classes: by name, in the order in which they came;
    dropped: those that were taken away, be it that folders have their names.
    number: counts the changes that this process has seen. damaged: lines that cannot be read, which are left alone.

    Raises ShotfitError for a file of that name that is no journal.
    """

    def __init__(self, folder: Path, heard: Callable[[Change], None] = lambda _: None) -> None:
        self.path = folder / NAME
        self.heard = heard  # told of each change, under the lock
        self._own = threading.RLock()
        self._file: FileIO | None = None
        self._forget()
        with self._own:
            if self.path.exists():
                self._opened()
                try:
                    self._read()
                except ShotfitError:
                    self.close()
                    raise
                self._compact()

    def append(self, change: Change) -> int:
        """Write a change; gives the journal's number once it is on the disk.

        Raises ShotfitError, and keeps nothing of it, where it cannot be written.
        """
        with self._own, self._locked() as file:
            self._read()
            end = self._end
            line = (b"" if end else HEAD_LINE) + change.line(time.time())
            try:
                if os.fstat(file.fileno()).st_size > end:  # what a killed writer left
                    file.truncate(end)
                file.seek(end)
                written = file.write(line)
                if written != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError as error:
                with suppress(OSError):
                    file.truncate(end)
                raise _refused(self.path, error) from None
            self._end += len(line)
            self._lines += 1
            self._apply(change)
            return self.number

    def follow(self) -> None:
        """Read what other processes have appended."""
        with self._own:
            if self.path.exists():
                self._opened()
                self._read()

    def close(self) -> None:
        """Let go of the file."""
        with self._own:
            if self._file is not None:
                self._file.close()
            self._file = None

    @contextmanager
    def still(self) -> Iterator[Journal]:
        """The journal, which does not change until the block ends."""
        with self._own:
            yield self

    def _forget(self) -> None:
        self.labels: dict[str, str | None] = {}
        self.classes: dict[str, None] = {}
        self.dropped: set[str] = set()
        self.confirmed: dict[str, str] = {}
        self.number = getattr(self, "number", 0)
        self.damaged = 0
        self._file = None
        self._end = 0  # of what was read
        self._lines = 0

    def _apply(self, change: Change) -> None:
        for name in change.dropped:
            self.classes.pop(name, None)
        self.dropped |= {*change.dropped}
        self.labels.update(change.labels)
        named = dict.fromkeys([*change.added, *(label for label in change.labels.values() if label is not None)])
        self.classes |= named
        self.dropped -= named.keys()
        self.confirmed.update(change.confirmed)
        self.number += 1
        self.heard(change)

    def _opened(self) -> FileIO:
        """The file that has the name now, which another process may have written anew."""
        if self._file is not None:
            held, named = os.fstat(self._file.fileno()), self.path.stat()
            same = (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)
            if same and held.st_size >= self._end:
                return self._file
            self._file.close()
            self._forget()
        check_regular(self.path, LIST_BYTES, "a journal of labels")
        try:
            self._file = FileIO(self.path, "r+")  # no buffer: what a killed writer left changes under it
        except OSError as error:
            raise _refused(self.path, error) from None
        return self._file

    @contextmanager
    def _locked(self) -> Iterator[FileIO]:
        """The journal, which no other process appends to meanwhile; made where there is none."""
        while True:
            if not self.path.exists():
                self._made()
            file = self._opened()
            if fcntl is None:
                yield file
                return
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                if self._opened() is file:  # else it was written anew while this one waited
                    yield file
                    return
            finally:
                if not file.closed:
                    fcntl.flock(file, fcntl.LOCK_UN)

    def _made(self) -> None:
        """Make the file; one that somebody has deleted comes again as it was."""
        with suppress(FileExistsError):  # another process was quicker
            try:
                write_new(self.path, self._anew(), self.path.parent)
            except FileExistsError:
                raise
            except OSError as error:
                raise _refused(self.path, error) from None
        _sync(self.path.parent)

    def _read(self) -> None:
        """Apply the whole lines behind what was read."""
        file = self._file
        assert file is not None
        file.seek(self._end)
        content = file.readall()
        whole = content[: content.rfind(b"\n") + 1]
        if self._end == 0 and not is_head(whole.partition(b"\n")[0]) and content:
            raise ShotfitError(
                f"{printable(self.path)} is no journal of labels: move it away, and shotfit makes one of its own."
            )
        for line in whole.split(b"\n")[1 if self._end == 0 else 0 : -1]:
            self._lines += 1
            change = Change.of(line)
            if change is None:
                self.damaged += 1
            else:
                self._apply(change)
        self._end += len(whole)

    def _anew(self) -> list[bytes]:
        """The lines of a journal that says what this one says by now."""
        now, items = time.time(), [*self.labels.items()]
        said = [Change(dict(items[at : at + TOGETHER])) for at in range(0, len(items), TOGETHER)]
        if self.classes:
            said.insert(0, Change(added=tuple(self.classes)))
        if self.dropped or self.confirmed:
            said.append(Change(dropped=tuple(self.dropped), confirmed=self.confirmed))
        return [HEAD_LINE, *(one.line(now) for one in said)]

    def _compact(self) -> None:
        """Write the journal anew where most of its lines are old; one with damaged lines stays as it is."""
        if self.damaged or self._lines < SPARE + len(self.labels) // TOGETHER:
            return
        with self._locked():
            self._read()
            try:
                write_atomically(self.path, b"".join(self._anew()))
            except OSError:
                return  # it works as it is


def _sync(folder: Path) -> None:
    """Make a new name durable, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _refused(path: Path, error: OSError) -> ShotfitError:
    return ShotfitError(
        f"{printable(path)} cannot be written ({error.strerror}); labels are kept beside the pictures: free space or "
        "give permission there, or copy the folder to where you may write."
    )
