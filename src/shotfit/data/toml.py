"""TOML files, read or refused in a sentence."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from shotfit.data.images import shown
from shotfit.errors import ShotfitError
from shotfit.files import UnreadableError, read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["read_toml"]

LARGEST = 2 * 2**20  # bytes; class names of ImageNet-21k with their ids take 1 MiB
DEEPEST = 16  # tables within tables, lists within lists; what is read here has three
_STRINGS = re.compile(
    r"""
      \"{3} (?: [^\\"] | \\. | "(?!"") )* (?: \"{3} | \\?\Z )
    | '{3} (?: [^'] | '(?!'') )* (?: '{3} | \Z )
    | " (?: [^"\\\n] | \\[^\n] )* (?: " | \\? (?=\n|\Z) )
    | ' [^'\n]* (?: ' | (?=\n|\Z) )
    | \# [^\n]*
    """,
    re.VERBOSE | re.DOTALL,
)  # and comments; each also where the text ends before it does, so that nothing is looked at twice


def read_toml(path: Path, expected: str) -> dict[str, Any]:
    """The file's tables.

    Raises:
        ShotfitError: missing, unreadable, no TOML, or nested too deeply; `expected` says what the file should hold.
    """
    try:
        text = read_text(path, LARGEST, "a TOML file")
        if _depth(text) > DEEPEST:  # before it is parsed, which takes the square of the depth, or all of the stack
            raise ShotfitError(
                f"{shown(path)} nests tables or lists more than {DEEPEST} deep; expected a TOML file with {expected}."
            )
        content = tomllib.loads(text)
    except UnreadableError as error:
        raise ShotfitError(f"{shown(path)} {error.reason}; expected a TOML file with {expected}.") from None
    except (ValueError, RecursionError) as error:  # also whole numbers of thousands of digits
        raise ShotfitError(f"{shown(path)} cannot be read ({error}); expected a TOML file with {expected}.") from error
    if not _is_bounded(content):  # hexadecimal ones of any length are parsed, and then cannot be printed
        raise ShotfitError(
            f"{shown(path)} has a whole number of more than 64 bits; expected a TOML file with {expected}."
        )
    return content


def _is_bounded(value: Any) -> bool:
    """Whether all whole numbers are such as TOML promises to hold."""
    if isinstance(value, (dict, list)):
        return all(map(_is_bounded, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def _depth(text: str) -> int:
    """How deep a TOML text nests: brackets that are open at once, or parts of a dotted key.

    >>> _depth("a.b.c = [[1, '[[[[']]  # [[["), _depth("[a . 'b.b'.c]")
    (3, 3)
    """
    bare = _STRINGS.sub("_", text)
    deepest = depth = 0
    for bracket in re.finditer(r"[\[{\]}]", bare):
        depth = depth + 1 if bracket[0] in "[{" else max(depth - 1, 0)
        deepest = max(deepest, depth)
    return max(deepest, *(key.count(".") + 1 for key in re.split(r"[=\n,\[\]{}]", bare)))
