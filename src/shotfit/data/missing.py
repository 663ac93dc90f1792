"""Why none of the pictures that a file lists exists, and what would find them.

    reason_none_exists(paths, Path("photos"), given=True)    # "they are in photos/new: pass --images photos/new"

Paths with backslashes, without their ending or in another case are read as they are meant (`Places`), so that what is
wrong is something else. What is proposed was tried: where it names a folder, pictures are there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote

from shotfit.data.formats.lines import Places
from shotfit.data.images import SUFFIXES, shown

__all__ = ["reason_none_exists"]

LOOKED_AT = 20  # of the paths
FOLDERS = 200  # below the list's own that are tried as the place of the pictures
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_DRIVE = re.compile(r"[A-Za-z]:/|//")


def reason_none_exists(paths: Sequence[Path], base: Path, given: bool) -> str:
    """What is wrong with absolute paths that all do not exist, and what to do, as the end of a sentence.

    base: the folder that they are relative to. given: the caller has named it (--images).
    """
    names = [os.path.relpath(path, base) if path.is_relative_to(base) else str(path) for path in paths[:LOOKED_AT]]
    some = [name.replace("\\", "/") for name in names]
    if any(map(_ADDRESS.match, some)):
        return "the paths are addresses, and nothing is fetched: download the pictures, and write where they lie"
    for folder in (base.parent, *_folders_in(base)):
        places = Places(folder)
        if any(places.picture(name).exists() for name in some):
            return f"they are in {shown(folder)}: pass --images {shown(folder)}"
    for tell in (_beginning_too_much, _other_ending, _other_case, _quoted):
        reason = _first(tell, some, base)
        if reason:
            return reason
    if all(name.startswith("/") or _DRIVE.match(name) for name in some):
        return "the paths are absolute, and of another place: write them relative to the folder of the pictures"
    if given:
        return f"--images {shown(base)} must be the folder in which these paths begin"
    return "pass the folder that the paths are relative to (--images DIR)"


def _first(tell: Callable[[str, Path], str], some: Sequence[str], base: Path) -> str:
    return next((reason for name in some if (reason := tell(name, base))), "")


def _beginning_too_much(name: str, base: Path) -> str:
    """What to do where the picture is there without the path's first folders."""
    parts, places = Path(name).parts, Places(base)
    for number in range(1, len(parts)):
        if places.picture(str(Path(*parts[number:]))).exists():
            front = str(Path(*parts[:number])).rstrip(os.sep) + os.sep
            return f"they are in {shown(base)} without {front} in front: leave it out of the paths"
    return ""


def _other_ending(name: str, base: Path) -> str:
    """What to do where a picture differs from the path in its ending alone."""
    whole = base / name
    for other in _entries(whole.parent):
        stem, ending = os.path.splitext(other)  # noqa: PTH122  (of a bare name)
        if ending.lower() in SUFFIXES and stem.casefold() == whole.stem.casefold():
            return f"the files have another ending: {whole.name} is {other}"
    return ""


def _other_case(name: str, base: Path) -> str:
    """What to do where a folder of the path differs in case alone."""
    folder = base
    for part in Path(name).parts[:-1]:
        if not (folder / part).is_dir():
            other = next((other for other in _entries(folder) if other.casefold() == part.casefold()), None)
            return "" if other is None else f"the folder is called {other}, and not {part}"
        folder = folder / part
    return ""


def _quoted(name: str, base: Path) -> str:
    """What to do where the picture is there once quotes, or what addresses have for signs, are undone."""
    places = Places(base)
    if (plain := unquote(name)) != name and places.picture(plain).exists():
        return f"they are written as in addresses: {name} is {plain}"
    plain = name.strip("\"'[]() ")
    return f"they have signs around them: {name} is {plain}" if plain != name and places.picture(plain).exists() else ""


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError):
        return []


def _folders_in(folder: Path) -> list[Path]:
    return [path for name in _entries(folder)[:FOLDERS] if (path := folder / name).is_dir()]
