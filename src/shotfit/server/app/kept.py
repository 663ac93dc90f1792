"""What the page keeps in the cache folder: thumbnails, and the latest fit of each folder of pictures.

with home_of(Path("photos")) as home: ...       # home/fit.json, home/model/
clear(cache_folder())                           # all of it, and nothing else
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shotfit.data.cachefolder import cache_folder
from shotfit.server.app.record import PLOTS, RESULT
from shotfit.server.app.thumbnails import NAME

__all__ = ["clear", "home_of"]

HOMES = "app"
MODEL = "model"


@contextmanager
def home_of(folder: Path) -> Iterator[Path]:
    """Where the latest fit to a folder of pictures is kept; without a cache, a folder that goes with the block."""
    cache = cache_folder()
    if cache is None:
        with tempfile.TemporaryDirectory(prefix="shotfit-app-") as made:
            yield Path(made)
        return
    home = cache / HOMES / hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    home.mkdir(parents=True, exist_ok=True)
    yield home


def clear(cache: Path) -> None:
    """Delete what the page has kept; files of other names stay, and their folders with them."""
    from shotfit.fitting.folder import CARD, RECORD, WEIGHTS  # which needs torch; a server of the page does not

    for ending in ("", "-wal", "-shm"):
        (cache / f"{NAME}{ending}").unlink(missing_ok=True)
    homes = cache / HOMES
    for home in [path for path in homes.iterdir() if re.fullmatch("[0-9a-f]{32}", path.name)] if homes.is_dir() else []:
        for name in (
            RESULT,
            *(f"{plot}.svg" for plot in PLOTS),
            *(f"{MODEL}/{name}" for name in (WEIGHTS, RECORD, CARD)),
        ):
            (home / name).unlink(missing_ok=True)
        for place in (home / MODEL, home, homes):
            with suppress(OSError):  # something else lies there
                place.rmdir()
