"""Tasks that are written down in a file: CSV and JSONL manifests, and CoOp's split files.

A manifest has one image a line: `path,label[,split]`, as CSV (or tab-separated .tsv) with these column names in its
first line, or as one JSON object a line. Without a split an image belongs to train. A further column may name the
group of each image (a patient, a track, a shop), where one is asked for; others are left alone.
In CSV an apostrophe in front of = + - @, which keeps a spreadsheet from running the cell, is not part of the text.
Classes are the labels in sorted order, by number if all are numbers. Paths are relative to the manifest's folder, or to
`images`.

A split file is one JSON object with the lists `train`, `test` and mostly `val` of triples [path, label, class name].
The order of the triples decides which images are drawn as shots, so it is kept. Its class names are made to be read and
are taken as they are.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shotfit.data.images import shown
from shotfit.data.listing import PART_NAMES, PARTS, Listing, Part
from shotfit.data.tasks import composed
from shotfit.errors import ShotfitError
from shotfit.files import LIST_BYTES, UnreadableError, read_text
from shotfit.printing import from_cell

__all__ = ["read_manifest", "read_split_file"]


LONGEST_NUMBER = 100  # digits of a label that is sorted by number


def read_manifest(path: Path, images: Path, group_column: str | None = None) -> Listing:
    """The images of a CSV, TSV or JSONL manifest, with paths relative to `images`.

    group_column: the column, or key, that names the group of each image; an image without one stands by itself.

    Raises:
        ShotfitError: not readable as such, a line lacks its path or label, an unknown part, no line at all, or no line
            with a group.
    """
    lines = _csv_lines(path) if path.suffix.lower() in (".csv", ".tsv") else _json_lines(path)
    rows: list[tuple[Part, Path, str, str]] = []
    columns: set[str] = set()
    for number, line in lines:
        file, label = (_field(path, number, line, key) for key in ("path", "label"))
        part = (
            "train" if line.get("split", "") == "" else PART_NAMES.get(_field(path, number, line, "split").casefold())
        )
        if part is None:
            raise ShotfitError(
                f"{shown(path)}, line {number}: the split is {line['split']!r}; expected train, val or test."
            )
        columns |= {key for key in line if isinstance(key, str)}
        group = _text_of(path, number, line, group_column) if group_column else ""
        rows.append((part, images / file, composed(label), composed(group)))
    if not rows:
        raise ShotfitError(f"{shown(path)} lists no image; expected one a line, as path,label[,split].")
    if group_column and not any(group for *_, group in rows):
        others = ", ".join(sorted(columns - {"path", "label", "split"})) or "none"
        raise ShotfitError(
            f"{shown(path)} has no line with a {group_column!r}; expected the column that names the group of each "
            f"image. Columns beside path, label and split: {others[:200]}."
        )
    labels = {label for _, _, label, _ in rows}
    classes = sorted(labels)
    if all(label.isdecimal() and len(label) < LONGEST_NUMBER for label in labels):
        classes.sort(key=int)
    position = {label: i for i, label in enumerate(classes)}
    parts: dict[Part, list[tuple[Path, int]]] = {part: [] for part in PARTS}
    groups: dict[Part, list[str]] = {part: [] for part in PARTS}
    for part, file_path, label, group in rows:
        parts[part].append((file_path, position[label]))
        groups[part].append(group)
    return Listing(
        reader=f"manifest {path.name}",
        classes=tuple(classes),
        parts=parts,
        numbered=True,
        test_origin=f"the lines of {path.name} with split test" if parts["test"] else "",
        groups=groups if group_column else {},
    )


def read_split_file(path: Path, images: Path) -> Listing:
    """The images of a `split_zhou_*.json`, in its order, with paths relative to `images`.

    Raises:
        ShotfitError: no such JSON, or one label with two class names.
    """
    content = _json_object(path)
    names: dict[int, str] = {}
    triples: dict[Part, list[tuple[Path, int]]] = {}
    for part in PARTS:
        triples[part] = []
        for entry in content.get(part, []):
            file, label, name = _triple(path, part, entry)
            name = composed(name)
            if names.setdefault(label, name) != name:
                raise ShotfitError(f"{shown(path)} gives label {label} two names: {names[label]!r} and {name!r}.")
            triples[part].append((images / file, label))
    if not names:
        raise ShotfitError(f"{shown(path)} lists no image; expected triples [path, label, class name].")
    position = {label: i for i, label in enumerate(sorted(names))}
    return Listing(
        reader=f"CoOp split file {path.name}",
        classes=tuple(names[label] for label in position),
        parts={part: [(file, position[label]) for file, label in found] for part, found in triples.items()},
        numbered=False,
        test_origin=f"the test list of {path.name}" if triples["test"] else "",
    )


def _json_object(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ShotfitError(f"{shown(path)} is not valid JSON ({error}); expected a split file.") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(part, []), list) for part in PARTS):
        content = {}
    if "train" not in content and "test" not in content:
        raise ShotfitError(
            f"{shown(path)} is no split file; expected an object with the lists train, val and test of triples "
            "[path, label, class name]."
        )
    return content


def _triple(path: Path, part: Part, entry: object) -> tuple[str, int, str]:
    match entry:
        case [str(file), int(label), str(name)] if _is_path(file):
            return file, label, name
    raise ShotfitError(
        f"{shown(path)} has the entry {json.dumps(entry)[:80]} under {part}; expected [path, label, class name]."
    )


def _csv_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    text = io.StringIO(_text(path), newline="")
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(text, delimiter=separator, skipinitialspace=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or []]
        if not {"path", "label"} <= set(columns):
            raise ShotfitError(
                f"{shown(path)} has the columns {', '.join(columns)[:80] or '(none)'}; expected path,label or "
                f"path,label,split in its first line{_other_separator(columns, separator)}."
            )
        reader.fieldnames = columns
        for line in reader:
            plain = {key: from_cell(cell) if isinstance(cell, str) else cell for key, cell in line.items()}
            yield reader.line_num, plain
    except csv.Error as error:
        raise ShotfitError(f"{shown(path)}, line {reader.line_num}: not valid CSV ({error}).") from error


def _other_separator(columns: list[str], used: str) -> str:
    """What to say of columns that are one because another character stands between them."""
    signs = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
    found = next((sign for sign in signs if sign != used and len(columns) == 1 and sign in columns[0]), None)
    return "" if found is None else f": it has {signs[found]} between them, where {signs[used]} are read"


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in enumerate(_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ShotfitError(f"{shown(path)}, line {number}: not valid JSON ({error}).") from error
        if not isinstance(line, dict):
            raise ShotfitError(f'{shown(path)}, line {number}: expected an object {{"path": ..., "label": ...}}.')
        yield number, {key: value for key, value in line.items() if value is not None}


def _text_of(path: Path, number: int, line: dict[str, Any], key: str) -> str:
    """The text, or whole number, under a key; "" where there is none."""
    value = "" if line.get(key) is None else line[key]
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise ShotfitError(
            f"{shown(path)}, line {number}: the {key} is {json.dumps(value)[:80]}; expected text or a whole number."
        )
    return str(value).strip()


def _field(path: Path, number: int, line: dict[str, Any], key: str) -> str:
    text = _text_of(path, number, line, key)
    if not text:
        raise ShotfitError(f"{shown(path)}, line {number} has no {key}; expected path,label[,split] in every line.")
    if key == "path" and not _is_path(text):
        raise ShotfitError(f"{shown(path)}, line {number}: {text!r} is no path.")
    return text


def _is_path(text: str) -> bool:
    """Whether a file may have that name: no zero byte, and nothing that the file system cannot say."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _text(path: Path) -> str:
    try:
        return read_text(path, LIST_BYTES, "a manifest")
    except UnreadableError as error:
        raise ShotfitError(f"{shown(path)} {error.reason}.") from None
