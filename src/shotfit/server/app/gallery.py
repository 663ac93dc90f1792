"""The pictures of a folder as the page knows them: each by a short name of its own, with the label of its class folder.

gallery = Gallery.of(Path("photos"))
gallery.pictures["3f0a..."].path                # "cat/1.jpg"

A picture's name depends on its path, size and time: one that was written anew is another to the browser, so that what
it keeps of a picture is never stale.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from shotfit.data.clips import is_clip
from shotfit.data.formats.labelled import foldered
from shotfit.data.formats.tree import Folder
from shotfit.data.images import extras_for, is_unread, shown
from shotfit.data.pictures import Picture
from shotfit.data.video import VIDEO_SUFFIXES
from shotfit.errors import ShotfitError, first_few, plural

__all__ = ["Gallery", "Shown"]


@dataclass(frozen=True)
class Shown:
    """A picture of the folder. path: relative, with slashes. folder_label: what its class folder says.

    held_out: it belongs to a test part (`photos/test/CLASS/`), which no fit sees.
    """

    name: str
    path: str
    file: Path
    folder_label: str | None = None
    held_out: bool = False


@dataclass(frozen=True)
class Gallery:
    """The pictures in the order of their paths, by name. passed_over: clips, and pictures that are not read."""

    folder: Path
    pictures: Mapping[str, Shown]
    classes: tuple[str, ...]
    passed_over: tuple[Path, ...]

    @classmethod
    def of(cls, folder: Path, unsorted: bool = False) -> Gallery:
        """The pictures of a folder and of those in it; `unsorted`: no folder in it is a class.

        Raises ShotfitError for a folder that cannot be read.
        """
        folder = folder.absolute()
        if not folder.is_dir():
            raise ShotfitError(f"{shown(folder)} is no folder; expected one of pictures, in class folders or not.")
        top = Folder(folder)
        classes, labels, parts = ((), {}, {}) if unsorted else foldered(top)
        tested = {path for path, part in parts.items() if part == "test"}
        pictures, passed_over = list[Shown](), list[Path]()
        for inside in top.below():
            still = [picture for picture in inside.images if not is_clip(picture)]
            passed_over += [picture.path for picture in inside.images if is_clip(picture)]
            passed_over += filter(is_unread, inside.others)
            pictures += filter(None, (_shown(folder, picture, labels, tested) for picture in still))
        pictures.sort(key=lambda one: one.path)
        return cls(folder, {one.name: one for one in pictures}, classes, tuple(passed_over))

    def left_out(self) -> str:
        """What was passed over, and what to do about it, in a sentence; empty where that is nothing."""
        if not self.passed_over:
            return ""
        clips = sum(path.suffix.lower() in VIDEO_SUFFIXES for path in self.passed_over)
        pictures = [path for path in self.passed_over if path.suffix.lower() not in VIDEO_SUFFIXES]
        counted = [plural(clips, "clip")] * bool(clips)
        counted += [f"{plural(len(pictures), 'picture')} of a format that is not read"] * bool(pictures)
        names = first_few([path.name for path in self.passed_over])
        use = "".join(f" {extra}." for extra in extras_for(pictures))
        return f"Left out: {' and '.join(counted)} ({names}).{use}"


def _shown(folder: Path, picture: Picture, labels: Mapping[Path, str], tested: Collection[Path]) -> Shown | None:
    """None: it has just gone."""
    file = picture.path
    try:
        state = file.stat()
    except OSError:
        return None
    path = file.relative_to(folder).as_posix()
    said = b"%b\0%d\0%d" % (os.fsencode(path), state.st_size, state.st_mtime_ns)
    return Shown(hashlib.sha256(said).hexdigest()[:20], path, file, labels.get(file), file in tested)
