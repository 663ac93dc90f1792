"""The images that a user means: files and their parts, folders with all that lies below them, patterns.

find_images(["photos/", "more/*.jpg", "shard.tar::1.jpg"]).images
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shotfit.data.images import SUFFIXES, is_unread
from shotfit.data.pictures import Picture, PictureLike, pictures_of
from shotfit.errors import ShotfitError

__all__ = ["Found", "find_images", "pictures_in"]


@dataclass(frozen=True)
class Found:
    """Images, and what lies in the same folders and was passed over: pictures that are not read, unread folders."""

    images: list[Picture]
    passed_over: list[Path]


def find_images(sources: Iterable[str], listed: Iterable[str] = ()) -> Found:
    """The images that are meant: files and their parts (`a.tar::1.jpg`) as they are, folders with all that lies below
    them, patterns like `a/*.jpg`.

    listed: the lines that stand for the source "-" (empty lines are passed over). A line that names nothing stays an
    image, which cannot be read.

    Raises ShotfitError for a source that is not there, and for folders and patterns without an image.
    """
    found = Found([], [])
    for source in sources:
        if source == "-":
            for line in listed:
                if line.strip():
                    _find(line.rstrip("\r\n"), found, listed=True)
        else:
            _find(source, found)
    if not found.images:
        raise ShotfitError("No image was named: give files, folders, patterns, or paths on standard input with -.")
    return found


def _find(source: str, found: Found, listed: bool = False) -> None:
    if Path(source).is_dir():
        _below(Path(source), found)
        return
    named = Picture.of(source)
    if named.exists():
        found.images.append(named)
        return
    matches = [Path(path) for path in sorted(glob.glob(source, recursive=True))]  # noqa: PTH207 (absolute ones too)
    if not matches and not listed:
        raise ShotfitError(f"There is no image {source}: name files, folders, patterns, or - for standard input.")
    found.images.extend(Picture(path) for path in matches if path.suffix.lower() in SUFFIXES)
    if not matches:
        found.images.append(named)
    found.passed_over.extend(path for path in matches if is_unread(path))


def pictures_in(sources: PictureLike | Iterable[PictureLike]) -> list[Picture]:
    """The pictures of images, files, folders and patterns, as Python callers give them; see `pictures_of`.

    Raises UsageError for what is none of these, ShotfitError for a folder or pattern without an image.
    """
    single = isinstance(sources, (str, os.PathLike))
    listed: Any = [sources] if single else sources
    if not isinstance(listed, (list, tuple)) or not any(isinstance(one, (str, os.PathLike)) for one in listed):
        return pictures_of(listed)
    found = Found([], [])
    for number, source in enumerate(listed):
        if isinstance(source, (str, os.PathLike)):
            _find(os.fspath(source), found, listed=True)
        else:
            found.images.append(Picture.of(source, f"image {number}"))
    return found.images


def _below(folder: Path, found: Found) -> None:
    """Images below a folder, sorted; hidden files and folders are left out, links to folders not followed."""
    before = len(found.images)

    def unreadable(error: OSError) -> None:
        found.passed_over.append(Path(error.filename))

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(parent) / name for name in sorted(names) if not name.startswith(".")]
        found.images.extend(Picture(path) for path in paths if path.suffix.lower() in SUFFIXES)
        found.passed_over.extend(path for path in paths if is_unread(path))
        found.passed_over.extend(path for name in folders if (path := Path(parent) / name).is_symlink())
    if len(found.images) == before:
        raise ShotfitError(f"The folder {folder} holds no images.")
