"""What a reader finds, before it becomes a task: classes, and files by part."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

__all__ = ["PARTS", "PART_NAMES", "Listing", "Part"]

Part = Literal["train", "val", "test"]

PARTS: tuple[Part, ...] = ("train", "val", "test")

PART_NAMES: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What folders and manifests call the parts, in any case."""


@dataclass(frozen=True)
class Listing:
    """Classes under the names they have in the source, in label order, and the files of each part with their labels.

    `numbered`: whether a number before every class name is its order (see `classnames.py`). `groups`: the group of each
    file of a part, where the source names groups.
    """

    reader: str
    classes: tuple[str, ...]
    parts: dict[Part, list[tuple[Path, int]]]
    numbered: bool
    test_origin: str = ""
    ignored: tuple[Path, ...] = field(default=())
    loops: tuple[Path, ...] = field(default=())
    groups: dict[Part, list[str]] = field(default_factory=dict)

    def groups_of(self, part: Part) -> list[str]:
        """The group of each file of a part, "" for a file by itself."""
        return self.groups.get(part) or [""] * len(self.parts[part])
