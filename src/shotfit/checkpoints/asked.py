"""What a caller may ask of a checkpoint beyond its place, written behind it: `NAME#text=plain`.

    text=canonical|plain      how texts are read, against the checkpoint's own rule
    architecture=ViT-B-32     which of open_clip's architectures a file of weights alone has

It is part of the backbone's name, so that a saved model opens the same again. The flags --text and --architecture of
the commands, and the arguments of `load_backbone`, are the same.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Any, cast, get_args

from shotfit.checkpoints.settings import Settings
from shotfit.checkpoints.tokenizers import TextAs
from shotfit.errors import UsageError, first_few

__all__ = ["Asked", "architecture", "architectures", "asked_of", "with_asked"]

_ENTRY = r"(?:text|architecture)=[\w.-]+"
_WRITTEN = re.compile(rf"(.+)#({_ENTRY}(?:&{_ENTRY})*)")


@dataclass(frozen=True)
class Asked:
    """None: as the checkpoint says."""

    text: TextAs | None = None
    architecture: str | None = None

    def __post_init__(self) -> None:
        if self.text is not None and self.text not in get_args(TextAs):
            raise UsageError(f"There is no text={self.text}: use canonical or plain.")
        if self.architecture is not None and self.architecture not in architectures():
            close = get_close_matches(self.architecture, architectures(), 3)
            meant = f"did you mean {' or '.join(close)}?" if close else f"known: {first_few(architectures())}."
            raise UsageError(f"There is no architecture {self.architecture}: {meant}")

    @property
    def written(self) -> str:
        """Behind a name; empty where nothing is asked."""
        entries = {"text": self.text, "architecture": self.architecture}
        given = "&".join(f"{name}={value}" for name, value in entries.items() if value is not None)
        return f"#{given}" if given else ""


def asked_of(source: str) -> tuple[str, Asked]:
    """The place and what is asked of it. Raises UsageError for a value that there is not.

    >>> asked_of("SigLIP-B/16#text=plain")
    ('SigLIP-B/16', Asked(text='plain', architecture=None))
    """
    found = _WRITTEN.fullmatch(source)
    if found is None:
        return source, Asked()
    entries: dict[str, Any] = dict(entry.split("=", 1) for entry in found[2].split("&"))
    return found[1], Asked(**entries)


def with_asked(source: str, text: str | None, architecture: str | None) -> str:
    """The source with what the flags of a command ask. Raises UsageError where it asks for another already."""
    place, asked = asked_of(source)
    for given, written in ((text, asked.text), (architecture, asked.architecture)):
        if None not in (given, written) and given != written:
            raise UsageError(f"{source} asks for {written}, and a flag for {given}: leave one out.")
    return place + Asked(cast(Any, text or asked.text), architecture or asked.architecture).written


def architectures() -> list[str]:
    """The names of open_clip's architectures that a file of weights alone may have: those that own towers read."""
    return list(_table())


def architecture(name: str) -> Settings:
    """What an `open_clip_config.json` would say of one of them."""
    return Settings(_table()[name], f"the architecture {name}")


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = (resources.files("shotfit") / "assets" / "architectures.json").read_text(encoding="utf-8")
    return dict(json.loads(text))
