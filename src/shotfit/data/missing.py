"""Why none of the pictures that a file lists exists, and what would find them.

    reason_none_exists(paths, Path("photos"), given=True)    # "the paths have backslashes, as on Windows: write ..."

What is proposed was tried: where it names a folder or an ending, the first pictures are there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PureWindowsPath

from shotfit.data.images import SUFFIXES, shown

__all__ = ["reason_none_exists"]

LOOKED_AT = 20  # of the paths
FOLDERS = 200  # below the list's own that are tried as the place of the pictures

Names = dict[str, list[str]]


def reason_none_exists(paths: Sequence[Path], base: Path, given: bool) -> str:
    """What is wrong with absolute paths that all do not exist, and what to do, as the end of a sentence.

    base: the folder that they are relative to. given: the caller has named it (--images).
    """
    some = [os.path.relpath(path, base) if path.is_relative_to(base) else str(path) for path in paths[:LOOKED_AT]]

    def there(folder: Path, changed: Callable[[str], str] = str) -> bool:
        return any(os.path.lexists(folder / changed(path)) for path in some)

    if any("\\" in path for path in some):
        slashes = "the paths have backslashes, as on Windows: write them with /"
        if any(re.match(r"[A-Za-z]:|\\\\", path) for path in some):
            return f"{slashes}, relative to the folder of the pictures"
        if there(base, _with_slashes):
            return slashes
        mended = [base / _with_slashes(path) for path in some]
        return f"{slashes}; and {reason_none_exists(mended, base, given)}"
    found = _other_names(some, base)
    if found:
        return found
    for folder in (base.parent, *_folders_in(base)):
        if there(folder):
            return f"they are in {shown(folder)}: pass --images {shown(folder)}"
    if there(base, lambda path: Path(path).name):
        return f"pictures of these names lie directly in {shown(base)}: leave the folders out of the paths"
    if all(Path(path).is_absolute() for path in some):
        return "the paths are absolute, and of another place: write them relative to the folder of the pictures"
    if given:
        return f"--images {shown(base)} must be the folder in which these paths begin"
    return "pass the folder that the paths are relative to (--images DIR)"


def _with_slashes(path: str) -> str:
    return PureWindowsPath(path).as_posix()


def _other_names(some: Sequence[str], base: Path) -> str:
    """What to do where files of the folder differ from the paths in ending or case alone; "" where none do."""
    listed: dict[Path, Names] = {}
    for path in some:
        whole = base / path
        if whole.parent not in listed:
            listed[whole.parent] = _by_stem(whole.parent)
        names = listed[whole.parent].get(whole.name.casefold()) or []
        if names:
            return f"the paths lack the file's ending: {whole.name} is {names[0]}"
        names = listed[whole.parent].get(whole.stem.casefold()) or []
        if names:
            same = names[0].casefold() == whole.name.casefold()
            return f"the files have another {'case' if same else 'name or ending'}: {whole.name} is {names[0]}"
    return ""


def _by_stem(folder: Path) -> Names:
    """Names of pictures by their name without ending, in lower case."""
    found: Names = {}
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        stem, ending = os.path.splitext(name)  # noqa: PTH122  (of a bare name)
        if ending.lower() in SUFFIXES:
            found.setdefault(stem.casefold(), []).append(name)
    return found


def _folders_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir())[:FOLDERS] if path.is_dir()] if folder.is_dir() else []
