"""A name in a file of the user's own code: `path/to/file.py:name`. The file is run, so that only the user names it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from shotfit.errors import UsageError
from shotfit.files import CODE_BYTES, UnreadableError, check_regular

__all__ = ["is_code", "module_of", "named_in"]


def is_code(name: str) -> bool:
    """Whether a text has the form of a name in a file of code.

    >>> is_code("my.py:make"), is_code("ViT-B/32"), is_code("my.py")
    (True, False, False)
    """
    return re.fullmatch(r".+\.py:[A-Za-z_]\w*", name, re.ASCII | re.DOTALL) is not None


def named_in(address: str, what: str) -> Any:
    """What `path/to/file.py:name` names, once the file has run. what: the thing in a sentence, "the method".

    Raises UsageError for a file that is not there or cannot be imported, or that has no such name.
    """
    file, _, attribute = address.rpartition(":")
    try:
        check_regular(Path(file), CODE_BYTES, f"the file of {what}")
    except UnreadableError as error:
        reason = "is not there" if error.missing else error.reason
        raise UsageError(f"{what.capitalize()} {attribute} is to be taken from {file}, which {reason}.") from None
    found = getattr(module_of(Path(file).resolve()), attribute, None)
    if found is None:
        raise UsageError(f"{what.capitalize()} {attribute} is to be taken from {file}, which has no such name.")
    return found


def module_of(file: Path) -> ModuleType:
    """The module that a file is; it runs each time. Raises UsageError for one that cannot be imported."""
    of_file = hashlib.sha256(os.fsencode(file)).hexdigest()[:8]  # another folder may have a file of this name
    name = f"shotfit_method_{file.stem}_{of_file}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses look their annotations up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        raise UsageError(f"{file} cannot be imported: {type(error).__name__}: {error}.") from error
    return module
