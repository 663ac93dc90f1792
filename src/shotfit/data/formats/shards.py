"""Data in several files: the files of a folder or of a pattern, each with the part that its name or folder tells.

shards(Path("imagenet/train-*.tar"), (".tar",))
shards(Path("cifar"), (".parquet",))    # cifar/data/train-00000-of-00002.parquet, cifar/test/0000.parquet, ...
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from shotfit.data.images import SUFFIXES
from shotfit.data.listing import Part, part_named, parts_named
from shotfit.errors import first_few

__all__ = ["are_shards", "is_pattern", "shards"]

_DEEP = 4  # folders below the one that is named
_MOST = 100_000  # entries that are looked at
_NUMBER = re.compile(r"[-_.]?\d+(?:-of-\d+)?(?:-[0-9a-f]{8,})?$")


def is_pattern(source: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether a name that no file has is a pattern of files with one of these endings, and some match."""
    try:
        return (
            source.suffix.lower() in suffixes
            and any(sign in source.name for sign in "*?[")
            and not os.path.lexists(source)
            and next(_matches(source), None) is not None
        )
    except (OSError, ValueError):
        return False


def are_shards(folder: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether a folder holds files with one of these endings, and no pictures."""
    names = [path.suffix.lower() for path in _below(folder)]
    return any(name in suffixes for name in names) and not any(name in SUFFIXES for name in names)


def shards(source: Path, suffixes: tuple[str, ...]) -> tuple[list[tuple[Path, Part]], list[str]]:
    """The files with one of these endings, sorted, with their parts, and what to know about them.

    A file by itself, and those of a pattern that tells no two parts, are for training.
    """
    if source.is_dir():
        files = sorted(path for path in _below(source) if path.suffix.lower() in suffixes)
    elif is_pattern(source, suffixes):
        files = sorted(_matches(source))
    else:
        return [(source, "train")], []
    words = {path: _word(path, source) for path in files}
    parts = parts_named({word for word in words.values() if word})
    if not source.is_dir() and len({parts.get(words[path]) for path in files}) == 1:
        return [(path, "train") for path in files], []
    without = [path.name for path in files if not words[path]]
    notes = [f"{first_few(without)} name no part and count as train"] if parts and without else []
    return [(path, parts.get(words[path], "train")) for path in files], notes


def _word(path: Path, source: Path) -> str:
    """What tells the part: the file's name without its numbers, or that of a folder between the source and it."""
    name = path.stem
    while (shorter := _NUMBER.sub("", name)) != name:
        name = shorter
    above = path.relative_to(source).parts[-2::-1] if source.is_dir() else ()
    return next((word for word in (name, *above) if part_named(word)), "")


def _matches(pattern: Path) -> Iterator[Path]:
    for name in glob.iglob(str(pattern)):  # noqa: PTH207 - patterns may be absolute
        if Path(name).is_file():
            yield Path(name)


def _below(folder: Path) -> Iterator[Path]:
    """The files of a folder and of those in it, as deep as shards lie."""
    seen = 0
    for parent, folders, names in os.walk(folder):
        deep = len(Path(parent).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if deep < _DEEP else []
        for name in sorted(names):
            seen += 1
            if seen > _MOST:
                return
            if not name.startswith("."):
                yield Path(parent) / name
