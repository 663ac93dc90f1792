"""Typed access to a checkpoint's JSON files: an entry of the wrong type becomes a sentence, not a traceback."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from shotfit.errors import ShotfitError
from shotfit.files import SETTINGS_BYTES, read_text

__all__ = ["Settings", "read_json"]

LARGEST_NUMBER = 2**31  # above every size and id of a tower; what each may be at most is in towers/config.py

_MISSING = object()


def shown(value: object) -> str:
    """An entry in a message: what is long or deep is cut, what does not print is escaped."""
    return reprlib.repr(value)


def read_json(path: Path) -> Settings:
    """The JSON object in a file. Raises ShotfitError if it cannot be read or is something else."""
    try:
        content = json.loads(read_text(path, SETTINGS_BYTES, "a configuration"))
    except (ValueError, RecursionError) as error:
        raise ShotfitError(f"{path} is not JSON ({str(error)[:120]}). Fetch it again.") from None
    if not isinstance(content, dict):
        raise ShotfitError(f"{path} holds no JSON object.")
    return Settings(content, str(path))


class Settings:
    """Entries of one JSON object, read by type. `null` counts as absent, as the libraries write it.

    Every method takes the default of an absent entry; without one, an absent entry is an error.
    """

    def __init__(self, entries: Mapping[str, Any], where: str) -> None:
        self.entries, self.where = entries, where

    def has(self, name: str) -> bool:
        """Whether the entry is there and not null."""
        return self.entries.get(name) is not None

    def error(self, name: str, expected: str) -> ShotfitError:
        """The error for an entry that is not what it must be."""
        return ShotfitError(f"{self.where}: {name} is {shown(self.entries.get(name))}, expected {expected}.")

    def raw(self, name: str, default: Any = _MISSING) -> Any:
        """The entry as it is."""
        value = self.entries.get(name)
        if value is not None:
            return value
        if default is _MISSING:
            raise ShotfitError(f"{self.where}: {name} is missing.")
        return default

    def section(self, name: str, default: Mapping[str, Any] | None = None) -> Settings:
        """A nested object."""
        value = self.raw(name, _MISSING if default is None else default)
        if not isinstance(value, dict):
            raise self.error(name, "an object")
        return Settings(value, f"{self.where}: {name}")

    def integer(self, name: str, default: Any = _MISSING, least: int = 1) -> int:
        """A whole number, `least` or more."""
        value = self.raw(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < LARGEST_NUMBER:
            raise self.error(name, f"a whole number, {least} or more (and below {LARGEST_NUMBER:,})")
        return value

    def number(self, name: str, default: Any = _MISSING) -> float:
        """A number above 0."""
        value = self.raw(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e30:
            raise self.error(name, "a number above 0 (and below 1e30)")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.raw(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def choice(self, name: str, options: Collection[str], default: Any = _MISSING) -> str:
        """One of some words."""
        value = self.raw(name, default)
        if not isinstance(value, str) or value not in options:
            raise self.error(name, "one of " + ", ".join(sorted(options)))
        return value

    def square(self, name: str, default: Any = _MISSING) -> int:
        """A size in pixels: n, [n, n] or {"height": n, "width": n}; unequal sides are refused."""
        value = self.raw(name, default)
        if isinstance(value, dict):
            value = [value.get("height"), value.get("width")]
        sides = value if isinstance(value, (list, tuple)) else [value, value]
        if len(sides) != 2 or sides[0] != sides[1]:
            raise self.error(name, "a square")
        side = sides[0]
        if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side < LARGEST_NUMBER:
            raise self.error(name, "a number of pixels")
        return side

    def triple(self, name: str, default: Any = _MISSING) -> tuple[float, float, float]:
        """Three numbers, one a color channel."""
        value = self.raw(name, default)
        if (
            not isinstance(value, (list, tuple))
            or len(value) != 3
            or any(isinstance(item, bool) or not isinstance(item, (int, float)) for item in value)
            or not all(abs(item) < 1e30 for item in value)
        ):
            raise self.error(name, "three numbers")
        return (float(value[0]), float(value[1]), float(value[2]))
