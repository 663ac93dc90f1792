"""What a name stood for: the fingerprint of each named backbone, recorded at its first load and compared after.

A name pins a commit, and a hub or a cache that gives other weights for it is noticed here. The record is a small file
in the cache's folder (`backbones/NAME.json`), which `shotfit cache --clear` leaves; whoever changed the weights on
purpose deletes it.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress

from shotfit.checkpoints.names import Name
from shotfit.checkpoints.settings import read_json
from shotfit.data.cachefolder import cache_folder
from shotfit.errors import ShotfitError
from shotfit.files import write_atomically

__all__ = ["check_recorded"]


def check_recorded(entry: Name, fingerprint: str) -> None:
    """Record a backbone's fingerprint, or compare it with the one recorded.

    Raises ShotfitError if it is another, or if the record cannot be read. Where there is no cache, or it cannot be
    written to, nothing is recorded.
    """
    folder = cache_folder()
    if folder is None:
        return
    commit = f"-{entry.revision[:12]}" if entry.revision else ""
    path = folder / "backbones" / f"{re.sub(r'[^A-Za-z0-9.-]', '-', entry.name)}{commit}.json"
    try:
        known = path.exists()
    except OSError:  # a folder that cannot be entered
        return
    if not known:
        record = {"name": entry.name, "repository": entry.repository, "revision": entry.revision}
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
