"""TOML files, read or refused in a sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from shotfit.data.images import shown
from shotfit.errors import ShotfitError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["read_toml"]


def read_toml(path: Path, expected: str) -> dict[str, Any]:
    """The file's tables.

    Raises:
        ShotfitError: missing, unreadable or no TOML; `expected` says what the file should hold.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ShotfitError(f"{shown(path)} cannot be read ({reason}); expected a TOML file with {expected}.") from error
