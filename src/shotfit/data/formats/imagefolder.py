"""Hugging Face's "imagefolder": pictures beside a `metadata.csv`, `.jsonl` or `.parquet` with `file_name` and `label`.

The file lies in the folder or in its part folders (`train/metadata.jsonl`), and its paths begin where it lies. Where no
column tells the split, the first folder of the paths does, if all are called after parts (`train/1.png`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from shotfit.data.containers import schema_of
from shotfit.data.formats import csv, jsonl, tables
from shotfit.data.formats.lines import LABELS
from shotfit.data.formats.tree import Folder
from shotfit.data.images import SUFFIXES as IMAGES
from shotfit.data.images import shown
from shotfit.data.listing import How, Listing, Part, Row, listed, named, part_named, parts_named
from shotfit.data.lists import plain_column
from shotfit.errors import ShotfitError

__all__ = ["read", "recognizes"]

_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_KEY = "file_name"


def recognizes(source: Path) -> bool:
    """A folder with such a file, in it or in its part folders, that names files and labels; or that file.

    A file without a usual column of labels counts where pictures lie beside it in no folder.
    """
    try:
        files = [path for path, _ in _metadata(source)]
        return any(_is_list(path) for path in files)
    except (ShotfitError, OSError, ValueError):
        return False


def read(source: Path, how: How) -> Listing:
    """The pictures that the files list; those that lie there and are not listed are ignored.

    Raises ShotfitError for no such file, and what the reader of the file's kind refuses; UsageError.
    """
    files = _metadata(source)
    if not files:
        raise ShotfitError(f"{shown(source)} holds no metadata.csv, .jsonl or .parquet; expected one there.")
    rows, names, notes = list[Row](), tuple[str, ...](), list[str]()
    for path, part in files:
        found: Sequence[Row]
        if path.suffix == ".csv":
            found, said = csv.rows_in(path, how, part)
            notes += said
        elif path.suffix == ".jsonl":
            found, said, _ = jsonl.rows_in(path, how, part)
            notes += said
        else:
            table = tables.rows_in(path, how, part)
            found, names = table.rows, table.names
            notes += table.notes()
        rows += _parted(found, path.parent) if path.parent == source else found
    used = {row.picture.file for row in rows}
    homes = [] if not source.is_dir() else [Folder(path.parent) for path, _ in files]
    lying = dict.fromkeys(image.path for home in homes for inside in home.below() for image in inside.images)
    ignored = [path for path in lying if path not in used]
    where = " and ".join(dict.fromkeys(str(path.relative_to(source)) for path, _ in files if path != source))
    reader = f"imagefolder by {where or source.name}"
    listing = listed(rows, reader, "the folder or lines that say test", ignored=ignored, notes=notes)
    return named(listing, names, shown(source)) if names else listing


def _metadata(source: Path) -> list[tuple[Path, Part]]:
    """The files that list pictures, with the part of their folder."""
    if not source.is_dir():
        return [(source, "train")] if source.name in _NAMES and source.is_file() else []
    here = [source / name for name in _NAMES if (source / name).is_file()]
    if here:
        return [(here[0], "train")]
    parts = parts_named(sorted(path.name for path in source.iterdir() if part_named(path.name) and path.is_dir()))
    inside = [(source / folder / name, part) for folder, part in parts.items() for name in _NAMES]
    found = [(path, part) for path, part in inside if path.is_file()]
    return found if len({path.parent for path, _ in found}) == len(found) else found[:1]


def _is_list(path: Path) -> bool:
    names = _columns(path)
    if _KEY not in names:
        return False
    return bool({plain_column(name) for name in names} & set(LABELS)) or any(
        entry.suffix.lower() in IMAGES for entry in islice(path.parent.iterdir(), 1000)
    )


def _columns(path: Path) -> Iterable[str]:
    if path.suffix == ".csv":
        return csv.table(path)[0]
    if path.suffix == ".jsonl":
        return dict.fromkeys(chain.from_iterable(line for _, line in islice(jsonl.lines_of(path), 20)))
    return list(schema_of(path).names)


def _parted(rows: Sequence[Row], folder: Path) -> list[Row]:
    """Rows that name no part, with that of the first folder of their paths, where every one has such a folder."""
    firsts = [_first(row, folder) for row in rows]
    parts = parts_named(dict.fromkeys(firsts))
    if any(row.part != "train" for row in rows) or not all(first in parts for first in firsts):
        return list(rows)
    return [replace(row, part=parts[first]) for row, first in zip(rows, firsts, strict=True)]


def _first(row: Row, folder: Path) -> str:
    path = row.picture.file
    return path.relative_to(folder).parts[0] if path is not None and path.is_relative_to(folder) else ""
