"""What formats with a line or an object for each image have in common: its fields, and paths as people write them."""

from __future__ import annotations

import codecs
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from shotfit.data.images import SUFFIXES, shown
from shotfit.data.label_sets import BAR, FLAG, MARKS, Forms, labels_in_columns, labels_of
from shotfit.data.listing import How, Part, Row, part_named, parts_named
from shotfit.data.lists import LONGEST_PATH, PATHS, plain_column
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError, UsageError, first_few, plural
from shotfit.files import LIST_BYTES, read_bytes

__all__ = [
    "BEYOND",
    "LABELS",
    "Columns",
    "LeftOut",
    "MaybeSplits",
    "Places",
    "columns_of",
    "is_path",
    "list_text",
    "rows_of",
    "text_of",
]

LABELS = (
    *("label", "class", "class_name", "label_name", "category", "target", "y", "species", "breed", "labels"),
    *("diagnosis", "dx", "cls", "classname", "class_label", "class_id", "label_id"),
)
SPLITS = ("split", "part", "subset", "fold_name", "set_name")
"""What columns are called, the likeliest first; in any case."""
MAYBE_SPLITS = (
    *("set", "dataset", "data_set", "partition", "phase", "usage", "mode", "stage", "purpose", "type", "fold"),
    *("train_test", "train_val_test", "train_test_split", "traintest", "split_name"),
    *("is_train", "is_training", "is_val", "is_validation", "is_test"),
)
"""Columns that tell the part where every cell says one: other tables have something else under these names."""
_SEVERAL = f"; {FLAG} is for pictures of several classes, or of none"
BEYOND = "cells beyond the columns"
"""The key of what a line of CSV has too much."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a source hold paths, labels, parts and groups; None: there is none.

    classes: the columns of 0 and 1, one a class, that stand in the place of a column of labels (then ""). maybe_split:
    those that may tell the parts, where none is called so.
    """

    path: str
    label: str
    split: str | None = None
    group: str | None = None
    classes: tuple[str, ...] = ()
    maybe_split: tuple[str, ...] = ()


@dataclass
class LeftOut:
    """The rows that label no image: of predictions how many, of manifests the numbers of those without a label."""

    errors: int = 0
    unknown: int = 0
    unlabelled: list[int] = field(default_factory=list)

    def notes(self) -> list[str]:
        """A sentence for each kind."""
        said = {"that could not be read": self.errors, "that are marked unknown": self.unknown}
        notes = [f"{count:,} rows of images {what} are left out" for what, count in said.items() if count]
        if self.unlabelled:
            notes.append(
                f"{plural(len(self.unlabelled), 'line')} without a label left out "
                f"(line {first_few([f'{number:,}' for number in self.unlabelled])})"
            )
        return notes


def list_text(path: Path) -> str:
    r"""The text of a list, with lines that end in \n: UTF-8, or UTF-16 with its mark, as Excel writes "Unicode text".

    Raises ShotfitError for another encoding, and for what is no file.
    """
    content = read_bytes(path, LIST_BYTES, "a manifest")
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ShotfitError(
            f"{shown(path)} cannot be read (it is not UTF-8 text, from line {line:,} on); save it as UTF-8: in Excel "
            'as "CSV UTF-8", or by iconv -f latin1 -t utf-8.'
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def columns_of(where: str, names: Iterable[str], how: How) -> Columns:
    """The columns that are meant: those that the user names, else the usual names.

    Raises ShotfitError where one is not there, with the names that are; UsageError for groups by one of the others.
    """
    found = list(dict.fromkeys(names))
    told = ", ".join(found)[:200] or "(none)"
    lower = {plain_column(name): name for name in reversed(found)}

    def named(asked: str | None, usual: tuple[str, ...], flag: str = "") -> str | None:
        if asked is not None:
            key = plain_column(asked)
            if asked not in found and key not in lower:
                raise ShotfitError(f"{where} has no column {asked!r} ({flag}); its columns: {told}.")
            return asked if asked in found else lower[key]
        return next((lower[name] for name in usual if name in lower), None)

    path = named(how.path_column, PATHS, "--path-column")
    label = named(how.label_column, tuple(name for name in LABELS if name != path), "--label-column")
    split = named(None, SPLITS)
    group = named(how.group_column, (), "--group-column")
    if path is not None and label is None and how.several_labels:
        classes = tuple(name for name in found if name not in (path, split, group))
        wrong = next((name for name in classes if BAR in name or not name.strip()), None)
        if wrong is not None:
            raise ShotfitError(
                f"{where} has the column {wrong[:80]!r}, which is no name of a class; give the class a name without |, "
                "and leave a column of row numbers out (in pandas: to_csv(index=False))."
            )
        if classes:
            return Columns(path, "", split, group, classes)
    if path is None or label is None:
        wanted = {
            "--path-column NAME (in Python path_column) for the paths": path,
            "--label-column NAME (in Python label_column) for the labels": label,
        }
        raise ShotfitError(
            f"{where} has the columns {told}; expected path,label or path,label,split in its first line, or "
            f"{' and '.join(flag for flag, found_as in wanted.items() if found_as is None)}."
        )
    if group is not None and group in (path, label, split):
        raise UsageError(f"the group column is {group!r}; expected a column of its own, such as patient or track.")
    maybe = [name for name in found if plain_column(name) in MAYBE_SPLITS and name not in (path, label, group)]
    return Columns(path, label, split, group, maybe_split=() if split else tuple(maybe))


class MaybeSplits:
    """Which of some columns tells the parts: the first of which every cell says one, and not all say the same."""

    def __init__(self, columns: Iterable[str]) -> None:
        self._cells = {name: list[str]() for name in columns}

    def add(self, line: Mapping[str, Any]) -> None:
        """Look at the next line."""
        for name in [*self._cells]:
            split = _said_in(name, str(line.get(name)).strip())
            if split is None:
                del self._cells[name]
            else:
                self._cells[name].append(sys.intern(split))

    def splits(self) -> list[str] | None:
        """What the column says of each line; None where there is no such column."""
        return next((cells for cells in self._cells.values() if len(set(cells)) > 1), None)


def _said_in(column: str, cell: str) -> str | None:
    """The part that a cell says: by its word, or by 0 or 1 in a column such as is_test; None for anything else."""
    plain = plain_column(column)
    own = plain.removeprefix("is_")
    if own == plain:
        return cell if part_named(cell) else None
    marked = MARKS.get(cell.casefold())
    return None if marked is None else own if marked else "test" if part_named(own) == "train" else "train"


def rows_of(
    path: Path,
    lines: Iterable[tuple[int, Mapping[str, Any]]],
    columns: Columns,
    how: How,
    *,
    unit: str = "line",
    part: Part = "train",
    picture: Callable[[int], Picture] | None = None,
    otherwise: Path | None = None,
    some: bool = True,
    names: tuple[str, ...] = (),
    left_out: LeftOut | None = None,
) -> list[Row]:
    """A row for each line: its number, for messages, and its fields by column. A line that lists the list is left out.

    unit: what messages call a line. part: that of lines that name none. picture: the picture of a line by its number,
    where it does not stand under `columns.path`. otherwise: where paths begin that are nowhere else. some: no row, and
    groups without a name, are errors. names: of the classes, where the source has them.

    Raises ShotfitError: a line without path or label, an unknown part, no line at all, no line with a group.
    """
    places = Places(how.images or path.parent, otherwise)
    said = f"{shown(path)}, {unit}"
    found, known = list[tuple[Picture, str, str, str]](), dict[str, Part | None]({"": part})
    maybe = MaybeSplits(columns.maybe_split)
    forms, beside = Forms(), set[str]()  # and columns with a cell of 0 or 1
    for number, line in lines:
        where = f"{said} {number}"
        if line.get(BEYOND):
            raise ShotfitError(f"{where} has more cells than there are columns; put text with a delimiter in quotes.")
        pictured = places.picture(_path(where, line, columns.path)) if picture is None else picture(number)
        if columns.classes:
            label = labels_in_columns(line, columns.classes, where)
        elif how.several_labels:
            label = labels_of(line.get(columns.label), where, forms)
        elif left_out is not None and not text_of(where, line, columns.label):
            left_out.unlabelled.append(number)
            continue
        else:
            label = _field(where, line, columns.label, _SEVERAL)
        if columns.split and line.get(columns.split, "") is None:  # a line of CSV that ends before it
            raise ShotfitError(f"{where} has no {columns.split}; expected path,label[,split] in every line.")
        split = text_of(where, line, columns.split) if columns.split else ""
        if split not in known:
            known[split] = part_named(split)
        if known[split] is None:
            raise ShotfitError(f"{where}: the split is {split[:80]!r}; expected train, val or test.")
        group = text_of(where, line, columns.group) if columns.group else ""
        beside |= {name for name in line if str(line[name]).strip() in ("0", "1")} if how.several_labels else set()
        if pictured.inside is not None or pictured.file != path:
            found.append((pictured, label, split, group))
            maybe.add(line)
    if (splits := maybe.splits()) is not None:
        found = [(*row[:2], split, row[3]) for row, split in zip(found, splits, strict=True)]
        known |= {split: part_named(split) for split in set(splits)}
    parts = {**known, **parts_named(known)}
    names = names or columns.classes
    rows = [Row(pictured, label, parts.get(split) or part, group, names) for pictured, label, split, group in found]
    if how.several_labels and not columns.classes:
        both = sorted(beside & {name for row in rows for name in row.label.split(BAR)} - {columns.path, columns.label})
        if both:
            raise ShotfitError(
                f"{shown(path)} has a column of labels, {columns.label!r}, and one of 0 and 1 for {both[0]!r}; leave "
                "one of the two forms out."
            )
    if not rows and left_out is not None and left_out.unlabelled:
        _field(f"{said} {left_out.unlabelled[0]}", {}, columns.label, _SEVERAL)
    if not rows and some:
        raise ShotfitError(f"{shown(path)} lists no image; expected one a {unit}, as path,label[,split].")
    if columns.group and some and not any(row.group for row in rows):
        raise ShotfitError(
            f"{shown(path)} has no {unit} with a {columns.group!r}; expected the column that names the group of each "
            "image."
        )
    return rows


class Places:
    """From a path as a list has it to the picture: relative to a folder, or absolute. Where nothing lies under the name
    as it stands: with backslashes, without its ending, with an ending in other case, in the other form of Unicode.

    otherwise: another folder, for a name that is not in the first.
    """

    def __init__(self, folder: Path, otherwise: Path | None = None) -> None:
        self.folder, self.otherwise = folder, otherwise
        self._listed: dict[Path, tuple[dict[str, str], dict[str, str]]] = {}

    def picture(self, name: str) -> Picture:
        """The picture of a name; one that does not exist where there is none."""
        found = Picture.of(self.folder / name)
        if found.exists():
            return found
        if "\\" in name:
            windows = Picture.of(self.folder / PureWindowsPath(name).as_posix())
            if windows.exists():
                return windows
        bare = self.folder / name.replace("\\", "/")
        whole, stems = self._names(bare.parent)
        plain = _plain(bare.name)
        listed = whole.get(plain) or (None if bare.suffix.lower() in SUFFIXES else stems.get(plain))
        if listed is not None:
            return Picture(bare.parent / listed)
        other = None if self.otherwise is None else Picture.of(self.otherwise / name)
        return other if other is not None and other.exists() else found

    def _names(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """The pictures of a folder by their plain names, whole and without endings; listed once."""
        if folder not in self._listed:
            try:
                names = sorted((entry.name for entry in os.scandir(folder)), reverse=True)
            except (OSError, ValueError):
                names = []
            pictures = [name for name in names if Path(name).suffix.lower() in SUFFIXES]
            self._listed[folder] = (
                {_plain(name): name for name in pictures},
                {_plain(Path(name).stem): name for name in pictures},
            )
        return self._listed[folder]


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def text_of(where: str, line: Mapping[str, Any], key: str) -> str:
    """The text, or number, under a key; "" where there is none. Raises ShotfitError for a value of another type."""
    value = "" if line.get(key) is None else line[key]
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        hint = f", or {FLAG} for pictures of several classes" if isinstance(value, list) else ""
        raise ShotfitError(f"{where}: the {key} is {_written(value)}; expected text or a whole number{hint}.")
    try:
        return str(value).strip()
    except ValueError:  # a number of more digits than Python writes
        raise ShotfitError(f"{where}: the {key} is a number of thousands of digits; expected text.") from None


def _written(value: object) -> str:
    try:
        return json.dumps(value, default=str)[:80]
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"


def _path(where: str, line: Mapping[str, Any], key: str) -> str:
    name = _field(where, line, key)
    if not is_path(name):
        raise ShotfitError(f"{where}: {name[:200]!r} is no path.")
    return name


def _field(where: str, line: Mapping[str, Any], key: str, more: str = "") -> str:
    text = text_of(where, line, key)
    if not text:
        raise ShotfitError(f"{where} has no {key}; expected path,label[,split] in every line{more}.")
    return text


def is_path(text: str) -> bool:
    """Whether a file may have that name: not too long, no zero byte, and nothing that the file system cannot say."""
    try:
        return len(text) <= LONGEST_PATH and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
