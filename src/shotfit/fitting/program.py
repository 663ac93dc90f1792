"""The code that a result is made by, as one number: a changed program runs again."""

from __future__ import annotations

import hashlib
import inspect
from functools import cache
from pathlib import Path

from shotfit.methods.base import Method

__all__ = ["program_of"]

PACKAGE = Path(__file__).parent.parent
FITTING = ("fit", "fitter", "heldout", "race", "replay", "selection", "spared", "together", "train")
SHARED = ("towers/edits", "engine/frozen", *(f"fitting/{name}" for name in FITTING))


def program_of(*methods: Method) -> str:
    """sha256 over the files of the methods' own, of all of shotfit's methods (they share helpers), and of the fit."""
    return _hashed(*(Path(inspect.getfile(type(method))) for method in methods))


@cache
def _hashed(*own: Path) -> str:
    shared = [*sorted((PACKAGE / "methods").rglob("*.py")), *(PACKAGE / f"{name}.py" for name in SHARED)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in (*own, *shared))).hexdigest()
