"""The code that a result is made by, as one number: a changed program runs again."""

from __future__ import annotations

import hashlib
import inspect
import marshal
from functools import cache
from pathlib import Path

from shotfit.methods import file_of
from shotfit.methods.base import Method

__all__ = ["program_of"]

PACKAGE = Path(__file__).parent.parent
FITTING = (
    "checking", "epochs", "fit", "fitter", "heldout", "race", "replay", "selection", "spared", "together", "train",
)  # fmt: skip
SHARED = ("towers/edits", "engine/frozen", "engine/layers", *(f"fitting/{name}" for name in FITTING))


def program_of(*methods: Method) -> str:
    """sha256 over the files of the methods' own, of all of shotfit's methods (they share helpers), and of the fit.

    Of a class that is in no file, the code of its functions stands for the file.
    """
    digest = hashlib.sha256(_shared())
    for method in methods:
        file = file_of(type(method))
        digest.update(_code(type(method)) if file is None else file.read_bytes())
    return digest.hexdigest()


def _code(method: type[Method]) -> bytes:
    functions = {name: value.__code__ for name, value in vars(method).items() if inspect.isfunction(value)}
    return b"".join(marshal.dumps((name, code)) for name, code in sorted(functions.items(), key=lambda pair: pair[0]))


@cache
def _shared() -> bytes:
    shared = [*sorted((PACKAGE / "methods").rglob("*.py")), *(PACKAGE / f"{name}.py" for name in SHARED)]
    return b"".join(file.read_bytes() for file in shared)
