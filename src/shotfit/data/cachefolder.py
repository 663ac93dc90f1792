"""Where recomputable things are kept: verdicts on images, features, and what is recorded of backbones."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from shotfit.progress import say

__all__ = ["cache_folder"]


def cache_folder() -> Path | None:
    """SHOTFIT_CACHE, else XDG_CACHE_HOME/shotfit, else ~/.cache/shotfit.

    None, and a note, where that is in no home folder that can be written to.
    """
    named, base = os.environ.get("SHOTFIT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named)
    try:
        folder = (Path(base) if base else Path.home() / ".cache") / "shotfit"
    except RuntimeError:  # neither HOME nor an entry of the user
        _note("there is no home folder")
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _note(f"{folder} cannot be made ({error.strerror})")
        return None
    return folder


@cache
def _note(reason: str) -> None:
    """Said once."""
    say(f"note: {reason}; going on without a cache. SHOTFIT_CACHE names a folder for it.")
