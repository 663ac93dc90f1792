"""What a name stood for: the fingerprint of each named backbone, recorded at its first load and compared after.

A hub or a cache that gives other weights for a name is noticed here. Of a name that pins no commit, that of the first
load is recorded, and loaded from then on. The record is a small file in the cache's folder (`backbones/NAME.json`),
which `shotfit cache --clear` leaves; whoever changed the weights on purpose deletes it.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

from shotfit.checkpoints.names import Name
from shotfit.checkpoints.settings import read_json
from shotfit.data.cachefolder import cache_folder
from shotfit.errors import ShotfitError
from shotfit.files import write_atomically

__all__ = ["check_recorded"]


def _path(entry: Name) -> Path | None:
    """The record of a name; None where there is no cache."""
    folder = cache_folder()
    if folder is None:
        return None
    commit = f"-{entry.revision[:12]}" if entry.revision else ""
    return folder / "backbones" / f"{re.sub(r'[^A-Za-z0-9.-]', '-', entry.name)}{commit}.json"


def recorded_commit(entry: Name) -> str:
    """The commit that a name without one was first loaded at; "" where it was not.

    Raises ShotfitError for a record that cannot be read.
    """
    path = _path(entry)
    try:
        if path is None or not path.exists():
            return ""
    except OSError:
        return ""
    found = read_json(path).raw("commit", "")
    return found if isinstance(found, str) and re.fullmatch("[0-9a-f]{40}", found) else ""


def check_recorded(entry: Name, fingerprint: str, commit: str = "") -> None:
    """Record a backbone's fingerprint, and the commit that it was loaded at, or compare it with the one recorded.

    Raises ShotfitError if it is another, or if the record cannot be read. Where there is no cache, or it cannot be
    written to, nothing is recorded.
    """
    path = _path(entry)
    if path is None:
        return
    try:
        known = path.exists()
    except OSError:  # a folder that cannot be entered
        return
    if not known:
        record = {"name": entry.name, "repository": entry.repository, "revision": entry.revision}
        record |= {"commit": commit} if commit else {}
        with suppress(OSError):
            write_atomically(path, (json.dumps(record | {"fingerprint": fingerprint}, indent=2) + "\n").encode())
        return
    recorded = read_json(path).raw("fingerprint", "")
    if not isinstance(recorded, str) or re.fullmatch("[0-9a-f]{64}", recorded) is None:
        raise ShotfitError(f"{path} is damaged: it should have the fingerprint of {entry.name}. Delete it.")
    if recorded != fingerprint:
        raise ShotfitError(
            f"{entry.name} is not what it was: its fingerprint is {fingerprint[:12]}, and {recorded[:12]} at its first "
            f"load. Fetch it again; if you changed it on purpose, delete {path}."
        )
