"""Lists of pictures: files that name a path a line, in CSV, JSON Lines, Parquet or plain text, read as they are needed.

    for path in paths_in(Path("photos.csv")): ...
    paths_in(Path("photos.parquet"), Paths(column="file"))

A list may be longer than memory: a line is held at a time, of Parquet some thousand rows. Unlike a manifest it needs no
labels, and its paths are taken as they stand, or with slashes in place of backslashes where a file lies there: what
names no file is a picture that cannot be read. They begin beside the list, or in the working folder where the first
that are there at all are there; `images` says another place.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shotfit.data.cells import long_texts, values_of
from shotfit.data.containers import (
    arrow,
    is_container,
    is_table,
    picture_columns,
    schema_of,
)
from shotfit.data.images import SUFFIXES, shown
from shotfit.errors import ShotfitError, first_few
from shotfit.files import open_regular
from shotfit.printing import from_cell

__all__ = [
    "AS_THEY_ARE",
    "LINES",
    "LISTS",
    "LONGEST_PATH",
    "PATHS",
    "TABLES",
    "Paths",
    "is_list",
    "paths_in",
    "plain_column",
]

LINES = (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv")
TEXTS = (".txt", ".lst")
LISTS = (*LINES, *TABLES, *TEXTS)
"""Endings of what is always a list."""
MOST_BYTES = 2**40  # of a list, of which a line is held at a time
LONGEST = 2**20  # characters of a line
LONGEST_PATH = 2**16  # characters; systems allow 4,096
PROBED = 16  # paths at the beginning that say where paths begin
_ROWS = 8192  # of Parquet, that are held
PATHS = (
    *("path", "file_name", "filename", "file", "filepath", "image", "image_path", "image_id", "id", "img", "name"),
    *("image_name", "filepaths", "image_file", "id_code"),
)
"""What a column or key of paths is called, the likeliest first; in any case."""


@dataclass(frozen=True)
class Paths:
    """How a list is read. images: where its paths begin; column: which column or key has them. None: found out."""

    images: Path | None = None
    column: str | None = None


AS_THEY_ARE = Paths()


def is_list(path: Path) -> bool:
    """Whether a file is a list by its ending, or a table without a column of pictures but with one of paths."""
    ending = path.suffix.lower()
    if ending in LISTS:
        return path.is_file()
    if ending != ".parquet" or not is_container(path):
        return False
    try:
        schema = schema_of(path)
        return not picture_columns(schema) and any(name.strip().casefold() in PATHS for name in schema.names)
    except ShotfitError:
        return False


def paths_in(path: Path, how: Paths = AS_THEY_ARE) -> Iterator[str]:
    """The paths that a list names, one by one; lines without one are passed over.

    Raises ShotfitError for a list that cannot be read, has no column of paths, or names none.
    """
    ending = path.suffix.lower()
    if is_table(path):
        found = _of_table(path, how.column)
    elif ending in LINES:
        found = _of_objects(path, how.column)
    elif ending in TABLES:
        found = _of_cells(path, how.column)
    else:
        found = (line for _, line in _lines(path))
    coming = (_bounded(path, one) for one in found if one.strip())
    first = list(itertools.islice(coming, PROBED))
    if not first:
        raise ShotfitError(f"{shown(path)} names no picture; expected a path a line.")
    base = str(how.images or _base(path, first))
    start = "" if base == "." else os.path.join(base, "")  # noqa: PTH118  (of a million lines)
    for one in itertools.chain(first, coming):
        named = one if os.path.isabs(one) or "://" in one else start + one  # noqa: PTH117
        yield _with_slashes(named) if "\\" in named else named


def _with_slashes(name: str) -> str:
    """A name as Windows writes it, where nothing lies under it as it stands but something with slashes."""
    plain = name.replace("\\", "/")
    if "\0" in name or os.path.lexists(_file_of(name)) or not os.path.lexists(_file_of(plain)):
        return name
    return plain


def _file_of(name: str) -> str:
    """The file of a name, which may name a member or a box of it."""
    return name.partition("::")[0].partition("#xywh=")[0]


def _bounded(path: Path, name: str) -> str:
    if len(name) > LONGEST_PATH:
        raise ShotfitError(f"{shown(path)} names a path of {len(name):,} characters; expected one a row.")
    return name


def _base(path: Path, first: list[str]) -> Path:
    """The folder in which the paths begin: that of the list, unless they are there from where we are."""
    for one in first:
        name = _file_of(one)
        for folder in (path.parent, Path()):
            if "\0" not in name and os.path.lexists(folder / name):
                return folder
    return path.parent


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line, without its end. File names need not be text, so no byte is refused."""
    with open_regular(path, MOST_BYTES, "a list of pictures") as file:
        begin = file.read(4)
        file.seek(0)
        utf16 = begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = io.TextIOWrapper(
            file,
            "utf-16" if utf16 else "utf-8-sig",
            "strict" if utf16 else "surrogateescape",
            newline=None,
        )
        number = 0
        try:
            while line := text.readline(LONGEST + 1):
                number += 1
                if len(line) > LONGEST:
                    raise ShotfitError(
                        f"{shown(path)}, line {number:,}: more than {LONGEST:,} characters; expected a path a line."
                    )
                yield number, line.rstrip("\n")
        except UnicodeError as error:
            raise ShotfitError(f"{shown(path)}, line {number + 1:,}: no text in UTF-16.") from error


def _of_cells(path: Path, column: str | None) -> Iterator[str]:
    """The column of a CSV file; of one whose first line is a path already, the first column."""
    lines = _lines(path)
    head = next((line for _, line in lines), "")
    told = head.strip().casefold()
    if len(told) == 5 and told.startswith("sep="):  # as Excel writes it
        sign, head = told[4], next((line for _, line in lines), "")
    else:
        tab = path.suffix.lower() == ".tsv"
        sign = max("\t,;|" if tab else ",;\t|", key=lambda sign: (_knows(_cells(head, sign)), head.count(sign)))
    header = _cells(head, sign)
    headless = column is None and not _knows(header) and _is_name(header[0] if header else "")
    place = 0 if headless else _column(path, header, column)
    rows = csv.reader((f"{line}\n" for _, line in lines), delimiter=sign, skipinitialspace=True)
    if headless:
        yield header[0]
    try:
        for row in rows:
            if place < len(row):
                yield from_cell(row[place])
    except csv.Error as error:
        raise ShotfitError(f"{shown(path)}, line {rows.line_num + 1:,}: not valid CSV ({error}).") from error


def _cells(line: str, sign: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=sign, skipinitialspace=True), [])]
    except csv.Error:
        return [line]


def _knows(header: list[str]) -> bool:
    return any(plain_column(name) in PATHS for name in header)


def _is_name(cell: str) -> bool:
    return os.path.splitext(cell.partition("#xywh=")[0])[1].lower() in SUFFIXES or "::" in cell  # noqa: PTH122


def plain_column(name: str) -> str:
    """The name of a column as the usual ones are written.

    >>> plain_column(" Image Path")
    'image_path'
    """
    return name.strip().casefold().replace(" ", "_")


def _column(path: Path, names: list[str], asked: str | None) -> int:
    """The place of the column of paths. Raises ShotfitError where there is none."""
    if asked is not None:
        if asked in names:
            return names.index(asked)
        raise ShotfitError(
            f"{shown(path)} has no column {asked!r} (--path-column); its columns: {first_few(names, 8)}."
        )
    plain = [plain_column(name) for name in names]
    place = next((plain.index(name) for name in PATHS if name in plain), None)
    if place is None:
        raise ShotfitError(
            f"{shown(path)} has the columns {first_few(names, 8) or '(none)'}; expected one of paths, such as path, or "
            "--path-column NAME."
        )
    return place


def _of_objects(path: Path, column: str | None) -> Iterator[str]:
    key = column
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            found: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ShotfitError(f"{shown(path)}, line {number:,}: not valid JSON ({str(error)[:200]}).") from error
        if isinstance(found, str):
            yield found
            continue
        if not isinstance(found, dict):
            raise ShotfitError(f'{shown(path)}, line {number:,}: expected an object {{"path": ...}}.')
        if key is None or key not in found:
            names = list(map(str, found))
            key = names[_column(path, names, column)]
        if isinstance(found[key], str):
            yield found[key]


def _of_table(path: Path, column: str | None) -> Iterator[str]:
    pa = arrow()
    try:
        schema = pa.parquet.read_schema(path)
        name = schema.names[_column(path, list(schema.names), column)]
        kind = schema.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)):
            raise ShotfitError(f"{shown(path)} has a column {name} of {kind}; expected paths, which are text.")
        with pa.parquet.ParquetFile(path, memory_map=False, read_dictionary=[name]) as file:  # each text once
            for batch in file.iter_batches(_ROWS, columns=[name], use_threads=False):
                long_texts(path, batch)
                yield from (value for value in values_of(batch.column(0)) if value is not None)
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:200]
        raise ShotfitError(f"{shown(path)} cannot be read as a table ({said}).") from error
