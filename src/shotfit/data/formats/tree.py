"""Folders of pictures as a tree, on disk or in an archive, so that one set of rules reads both.

    top = Folder(Path("photos"))
    top = archive_tree(Path("photos.zip"))          # nothing is unpacked
    for inside in top.below(): inside.images

Entries are sorted by name. Names that begin with a dot are passed over, and so is `__MACOSX`, which macOS adds to zips.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from shotfit.data.containers import members
from shotfit.data.images import SUFFIXES, shown
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError

__all__ = ["ArchiveFolder", "Folder", "archive_tree", "is_hidden", "stem"]


def is_hidden(name: str) -> bool:
    """Whether an entry is none of the user's."""
    return name.startswith(".") or name == "__MACOSX"


def stem(picture: Picture) -> str:
    """The name of a file or member without folder and ending."""
    return Path(picture.inside if isinstance(picture.inside, str) else picture.path).stem


class Folder:
    """A folder: its pictures, folders, other files, and links that loop. What is in it is looked up when asked for.

    path: of one in an archive, the archive's path, `::` and the folder's name.

    Asking raises ShotfitError for a folder that cannot be read.
    """

    def __init__(self, path: Path, top: Path | None = None) -> None:
        self.path, self._top = path, top or path

    @property
    def name(self) -> str:
        """Its own name."""
        return self.path.name.rsplit("::", 1)[-1] if isinstance(self, ArchiveFolder) else self.path.name

    @property
    def images(self) -> list[Picture]:
        """The pictures that lie directly in it."""
        return self._entries[0]

    @property
    def folders(self) -> list[Folder]:
        """The folders that lie directly in it."""
        return self._entries[1]

    @property
    def others(self) -> list[Path]:
        """The other files."""
        return self._entries[2]

    @property
    def loops(self) -> list[Path]:
        """The links that lead to themselves or to a folder above them."""
        return self._entries[3]

    @cached_property
    def _entries(self) -> tuple[list[Picture], list[Folder], list[Path], list[Path]]:
        images, folders, others, loops = list[Picture](), list[Folder](), list[Path](), list[Path]()
        try:
            entries = sorted(self.path.iterdir(), key=lambda entry: entry.name)
        except OSError as error:
            raise ShotfitError(f"the folder {shown(self.path)} cannot be read: {error.strerror}.") from error
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if entry.is_symlink() and _loops(entry):
                loops.append(entry)
            elif entry.is_dir():
                folders.append(Folder(entry, self._top))
            elif entry.suffix.lower() in SUFFIXES:
                images.append(Picture(entry))
            else:
                others.append(entry)
        return images, folders, others, loops

    def below(self) -> Iterator[Folder]:
        """The folder and all in it. Of the links those are followed that lead out of the tree, each place once."""
        seen, waiting = {self._top.resolve(), self.path.resolve()}, [self]
        while waiting:
            folder = waiting.pop()
            yield folder
            for inside in reversed(folder.folders):
                if inside.path.is_symlink():
                    target = inside.path.resolve()
                    if seen & {target, *target.parents}:
                        continue  # what it holds is there under its own name
                    seen.add(target)
                waiting.append(inside)

    def holds_images(self) -> bool:
        """Whether pictures lie anywhere below it; links inside are not followed."""
        return any(
            Path(name).suffix.lower() in SUFFIXES and not is_hidden(name)
            for _, _, names in os.walk(self.path)
            for name in names
        )


class ArchiveFolder(Folder):
    """A folder of an archive, whose entries are known from the archive's index."""

    def __init__(self, path: Path, inside: str = "") -> None:
        super().__init__(Path(f"{path}::{inside}") if inside else path)
        self._archive, self._inside = path, inside
        self._entries = [], [], [], []
        self.named: dict[str, ArchiveFolder] = {}

    def folder(self, name: str) -> ArchiveFolder:
        """The folder of that name in it; made where there is none yet."""
        if name not in self.named:
            self.named[name] = ArchiveFolder(self._archive, f"{self._inside}/{name}" if self._inside else name)
        return self.named[name]

    def below(self) -> Iterator[Folder]:
        """The folder and all in it."""
        waiting: list[Folder] = [self]
        while waiting:
            yield (folder := waiting.pop())
            waiting += reversed(folder.folders)

    def holds_images(self) -> bool:
        """Whether pictures lie anywhere below it."""
        return any(folder.images for folder in self.below())


def archive_tree(path: Path) -> ArchiveFolder:
    """The top folder of an archive. Raises ShotfitError for one that cannot be read.

    Members may be written with backslashes, as some programs of Windows do, or begin with `./`.
    """
    top = ArchiveFolder(path)
    for name, _ in members(path):
        *above, last = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")] or [""]
        if not last or any(map(is_hidden, (*above, last))):
            continue
        folder = top
        for part in above:
            folder = folder.folder(part)
        if Path(last).suffix.lower() in SUFFIXES:
            folder.images.append(Picture(path, name))
        else:
            folder.others.append(Path(f"{path}::{name}"))
    for folder in [top, *_all_inside(top)]:
        folder.folders.extend(folder.named[name] for name in sorted(folder.named))
        folder.images.sort(key=lambda picture: str(picture.inside).replace("\\", "/"))
    return top


def _all_inside(top: ArchiveFolder) -> list[ArchiveFolder]:
    found, waiting = list[ArchiveFolder](), [top]
    while waiting:
        new = list(waiting.pop().named.values())
        found += new
        waiting += new
    return found


def _loops(link: Path) -> bool:
    """Whether a link leads to itself, over other links too, or to a folder that it lies in."""
    try:
        target = link.resolve(strict=True)
        home = link.parent.resolve()
    except RuntimeError:  # Python 3.12 and earlier
        return True
    except OSError as error:
        return error.errno == errno.ELOOP
    return target == home or target in home.parents
