"""Descriptions of classes: a JSON file of sentences, as a language model or a person writes them.

    {"sea horse": ["A small fish that swims upright.", "It has a curled tail."], ...}

Pratt et al., "What does a platypus look like?" (CuPL), ICCV 2023, arXiv 2209.03320, made such files for CLIP. The
sentences are whole prompts. Underscores and spaces in names are the same here, and so are large and small letters where
the name itself is not there; entries of other classes are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from shotfit.data.images import shown
from shotfit.errors import ShotfitError, first_few
from shotfit.files import LIST_BYTES, UnreadableError, read_text

__all__ = ["read_descriptions"]

NAMED = 20  # missing classes that are named; of more the number is given
EXPECTED = 'expected a JSON object such as {"sea horse": ["A small fish that swims upright."]}'


def read_descriptions(path: Path, names: Sequence[str]) -> list[list[str]]:
    """The sentences of each class name, in the order of the names.

    Raises ShotfitError, in one line, for a file that cannot be read, is not such an object, or lacks classes (named).
    """
    try:
        found = json.loads(read_text(path, LIST_BYTES, "descriptions"))
    except UnreadableError as error:
        raise ShotfitError(f"{shown(path)} {error.reason}; {EXPECTED}.") from None
    except (ValueError, RecursionError):
        raise ShotfitError(f"The descriptions {shown(path)} are no JSON; {EXPECTED}.") from None
    if not isinstance(found, dict):
        raise ShotfitError(f"The descriptions {shown(path)} hold a {type(found).__name__}; {EXPECTED}.")
    sentences = {key.replace("_", " "): value for key, value in found.items()}
    small = {key.lower(): key for key in sentences}
    readable = [_key(name.replace("_", " "), sentences, small) for name in names]
    missing = [name for name in readable if name not in sentences]
    if missing:
        raise ShotfitError(
            f"The descriptions {shown(path)} lack {len(missing)} of {len(names)} classes: "
            f"{first_few(missing, NAMED)}; add a list of sentences for each."
        )
    for name in readable:
        given = sentences[name]
        if not (isinstance(given, list) and given and all(isinstance(text, str) and text.strip() for text in given)):
            raise ShotfitError(
                f"The descriptions {shown(path)} give {name!r} no list of sentences; "
                "expected at least one sentence, none of them empty."
            )
    return [sentences[name] for name in readable]


def _key(name: str, sentences: Collection[str], small: Mapping[str, str]) -> str:
    """What the file calls a class; the name itself where it calls none so."""
    return name if name in sentences else small.get(name.lower(), name)
