"""Manifests as JSON lines: `{"path": ..., "label": ..., "split": ...}`, or keys of other names, an image a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shotfit.data.formats.lines import columns_of, rows_of
from shotfit.data.images import shown
from shotfit.data.listing import How, Listing, listed
from shotfit.errors import ShotfitError
from shotfit.files import LIST_BYTES, read_text

__all__ = ["read", "recognizes"]

SUFFIXES = (".jsonl", ".ndjson")


def recognizes(source: Path) -> bool:
    """A file that ends in .jsonl or .ndjson."""
    return source.suffix.lower() in SUFFIXES and not source.is_dir()


def read(source: Path, how: How) -> Listing:
    """The images of the manifest.

    Raises:
        ShotfitError: a line that is no JSON object, no keys of paths and labels, and what `rows_of` refuses.
    """
    lines = list(_lines(source))
    keys = dict.fromkeys(key for _, line in lines for key in line) or {"path": None, "label": None}
    rows = rows_of(source, lines, columns_of(shown(source), keys, how), how)
    return listed(rows, f"manifest {source.name}", f"the lines of {source.name} with split test")


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in enumerate(read_text(path, LIST_BYTES, "a manifest").split("\n"), start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ShotfitError(f"{shown(path)}, line {number}: not valid JSON ({error}).") from error
        if not isinstance(line, dict):
            raise ShotfitError(f'{shown(path)}, line {number}: expected an object {{"path": ..., "label": ...}}.')
        yield number, {key: value for key, value in line.items() if value is not None}
