"""Manifests as JSON lines: `{"path": ..., "label": ..., "split": ...}`, or keys of other names, an image a line.

The lines that `predict` writes are a manifest too: of each image the first label, where it is no error and not unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shotfit.data.formats.lines import LABELS, Columns, LeftOut, columns_of, list_text, rows_of
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
    rows, notes, predicted = rows_in(source, how)
    reader = f"predictions {source.name}, of each image the first label" if predicted else f"manifest {source.name}"
    return listed(rows, reader, f"the lines of {source.name} with split test", notes=notes)


def rows_in(source: Path, how: How, part: Part = "train") -> tuple[list[Row], list[str], bool]:
    """A row for each line, of `part` where it names none, what to know about them, and whether they are predictions;
    with the errors of `read`.
    """
    # read twice, as the objects of all lines would take ten times the memory of the file
    keys = dict.fromkeys(key for _, line in lines_of(source) for key in line) or {"path": None, "label": None}
    left_out = LeftOut()
    if "predictions" in keys and "image" in keys and how.label_column is None and not keys.keys() & set(LABELS):
        lines = (_every if how.several_labels else _first)(lines_of(source), left_out)
        rows = rows_of(source, lines, Columns("image", "label"), how, part=part, otherwise=Path.cwd())
        return rows, left_out.notes(), True
    columns = columns_of(shown(source), keys, how)
    rows = rows_of(source, lines_of(source), columns, how, part=part, left_out=left_out)
    return rows, left_out.notes(), False


def _first(lines: Iterator[tuple[int, dict[str, Any]]], left_out: LeftOut) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of predictions that label an image, with the first label."""
    for number, line in lines:
        match line:
            case {"error": _}:
                left_out.errors += 1
            case {"unknown": True}:
                left_out.unknown += 1
            case {"predictions": [{"label": label}, *_]}:
                yield number, {**line, "label": label}
            case _:
                yield number, line


def _every(lines: Iterator[tuple[int, dict[str, Any]]], left_out: LeftOut) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of predictions of several labels, with all of them."""
    for number, line in lines:
        match line:
            case {"error": _}:
                left_out.errors += 1
            case {"predictions": [*found]}:
                yield number, {**line, "label": [one.get("label") if isinstance(one, dict) else one for one in found]}
            case _:  # no labels, which is no picture of none of the classes
                yield number, {**line, "label": line.get("predictions", {})}


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
