"""Manifests as JSON lines: `{"path": ..., "label": ..., "split": ...}`, or keys of other names, an image a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shotfit.data.formats.lines import columns_of, list_text, rows_of
from shotfit.data.images import shown
from shotfit.data.listing import How, Listing, Part, Row, listed
from shotfit.errors import ShotfitError

__all__ = ["SUFFIXES", "lines_of", "read", "recognizes", "rows_in"]

SUFFIXES = (".jsonl", ".ndjson")


def recognizes(source: Path) -> bool:
    """A file that ends in .jsonl or .ndjson."""
    return source.suffix.lower() in SUFFIXES and not source.is_dir()


def read(source: Path, how: How) -> Listing:
    """The images of the manifest.

    Raises:
        ShotfitError: a line that is no JSON object, no keys of paths and labels, and what `rows_of` refuses.
    """
    return listed(rows_in(source, how), f"manifest {source.name}", f"the lines of {source.name} with split test")


def rows_in(source: Path, how: How, part: Part = "train") -> list[Row]:
    """A row for each line, of `part` where it names none; with the errors of `read`."""
    # read twice, as the objects of all lines would take ten times the memory of the file
    keys = dict.fromkeys(key for _, line in lines_of(source) for key in line) or {"path": None, "label": None}
    return rows_of(source, lines_of(source), columns_of(shown(source), keys, how), how, part=part)


def lines_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of each line that is not empty, and its object, without null. Raises ShotfitError."""
    for number, text in enumerate(list_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ShotfitError(f"{shown(path)}, line {number}: not valid JSON ({error}).") from error
        if isinstance(line, list) and all(isinstance(entry, dict) for entry in line) and line:
            raise ShotfitError(
                f"{shown(path)} is a JSON array; expected an object a line (jq -c '.[]' makes them of an array)."
            )
        if not isinstance(line, dict):
            raise ShotfitError(f'{shown(path)}, line {number}: expected an object {{"path": ..., "label": ...}}.')
        yield number, {key: value for key, value in line.items() if value is not None}
