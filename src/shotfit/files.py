"""Write files and folders all or nothing: to a temporary name beside the target, flushed, then renamed.

A folder that replaces another takes two renames. A writer that is killed between them leaves the older one under a name
that `standing` knows.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["TEMPORARY", "can_hold", "standing", "write_atomically", "write_folder"]

TEMPORARY = ".shotfit-"  # prefix of temporary names


def can_hold(path: Path) -> bool:
    """Whether a file or folder can be made under this name, as far as permissions tell."""
    above = next(parent for parent in path.absolute().parents if parent.exists())
    return above.is_dir() and os.access(above, os.W_OK | os.X_OK)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file, so that it is the old or the new one at every moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files, all or nothing. An existing one is moved aside and removed once the new one stands."""
    folder = folder.absolute()
    aside = _aside(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder.parent))
    try:
        for name, data in files.items():
            write_atomically(building / name, data)
        building.chmod(0o777 & ~_umask())
        if folder.exists():
            shutil.rmtree(aside.parent, ignore_errors=True)  # of a writer that was killed once the folder stood again
            aside.parent.mkdir()
            os.replace(folder, aside)
        try:
            os.replace(building, folder)
        except BaseException:
            if aside.exists():
                os.replace(aside, folder)
            raise
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    _sync(folder.parent)
    shutil.rmtree(aside.parent, ignore_errors=True)


def standing(folder: Path) -> Path:
    """Where a folder's files are: in itself, or where a writer that was killed left the older ones."""
    return folder if folder.exists() or not _aside(folder).is_dir() else _aside(folder)


def _aside(folder: Path) -> Path:
    """Where a folder stands while it is replaced: beside what a link leads to."""
    folder = folder.resolve()
    return folder.with_name(f"{TEMPORARY}old-{folder.name}") / folder.name


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(folder: Path) -> None:
    """Make the renames of a folder durable, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
