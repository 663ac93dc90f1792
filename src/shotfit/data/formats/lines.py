"""What formats with a line or an object for each image have in common: its fields, and paths as people write them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from shotfit.data.images import SUFFIXES, shown
from shotfit.data.listing import How, Row, part_named
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError, UsageError

__all__ = ["LABELS", "PATHS", "SPLITS", "Columns", "Places", "columns_of", "is_path", "rows_of", "text_of"]

PATHS = ("path", "file_name", "filename", "file", "filepath", "image", "image_path", "image_id", "id", "img", "name")
LABELS = ("label", "class", "class_name", "category", "target", "y", "species", "breed", "labels", "diagnosis")
SPLITS = ("split", "part", "subset", "fold_name", "set_name")
"""What columns are called, the likeliest first; in any case."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a source hold paths, labels, parts and groups; None: there is none."""

    path: str
    label: str
    split: str | None = None
    group: str | None = None


def columns_of(where: str, names: Iterable[str], how: How) -> Columns:
    """The columns that are meant: those that the user names, else the usual names.

    Raises ShotfitError where one is not there, with the names that are; UsageError for groups by one of the others.
    """
    found = list(dict.fromkeys(names))
    lower = {name.strip().casefold(): name for name in reversed(found)}

    def named(asked: str | None, usual: tuple[str, ...], what: str, flag: str) -> str | None:
        if asked is not None:
            if asked not in found and asked.strip().casefold() not in lower:
                raise ShotfitError(
                    f"{where} has no column {asked!r} ({flag}); its columns: {', '.join(found)[:200] or '(none)'}."
                )
            return asked if asked in found else lower[asked.strip().casefold()]
        return next((lower[name] for name in usual if name in lower), None)

    path = named(how.path_column, PATHS, "path", "--path-column")
    label = named(how.label_column, tuple(name for name in LABELS if name != path), "label", "--label-column")
    if path is None or label is None:
        missing, flag = ("path", "--path-column") if path is None else ("label", "--label-column")
        raise ShotfitError(
            f"{where} has the columns {', '.join(found)[:200] or '(none)'}; expected path,label or path,label,split in "
            f"its first line, or {flag} NAME for the column of the {missing}s."
        )
    split = named(None, SPLITS, "split", "")
    group = named(how.group_column, (), "group", "--group-column")
    if group is not None and group in (path, label, split):
        raise UsageError(f"the group column is {group!r}; expected a column of its own, such as patient or track.")
    return Columns(path, label, split, group)


def rows_of(path: Path, lines: Iterable[tuple[int, Mapping[str, Any]]], columns: Columns, how: How) -> list[Row]:
    """A row for each line: its number, for messages, and its fields by column.

    Raises ShotfitError: a line without path or label, an unknown part, no line at all, no line with a group.
    """
    places, rows = Places(how.images or path.parent), []
    for number, line in lines:
        where = f"{shown(path)}, line {number}"
        name, label = (_field(where, line, column) for column in (columns.path, columns.label))
        if not is_path(name):
            raise ShotfitError(f"{where}: {name!r} is no path.")
        if columns.split and line.get(columns.split, "") is None:  # a line of CSV that ends before it
            raise ShotfitError(f"{where} has no {columns.split}; expected path,label[,split] in every line.")
        said = text_of(where, line, columns.split) if columns.split else ""
        part = part_named(said) if said else "train"
        if part is None:
            raise ShotfitError(f"{where}: the split is {said!r}; expected train, val or test.")
        group = text_of(where, line, columns.group) if columns.group else ""
        rows.append(Row(places.picture(name), label, part, group))
    if not rows:
        raise ShotfitError(f"{shown(path)} lists no image; expected one a line, as path,label[,split].")
    if columns.group and not any(row.group for row in rows):
        raise ShotfitError(
            f"{shown(path)} has no line with a {columns.group!r}; expected the column that names the group of each "
            "image."
        )
    return rows


class Places:
    """From a path as a list has it to the picture: relative to a folder, or absolute; with backslashes, or without its
    ending, where nothing lies under the name as it stands.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._endings: dict[Path, dict[str, str]] = {}

    def picture(self, name: str) -> Picture:
        """The picture of a name; one that does not exist where there is none."""
        found = Picture.of(self.folder / name)
        if found.exists():
            return found
        if "\\" in name:
            windows = Picture.of(self.folder / PureWindowsPath(name).as_posix())
            if windows.exists():
                return windows
        bare = self.folder / name
        if bare.suffix.lower() in SUFFIXES:
            return found
        ending = self._named(bare.parent).get(bare.name)
        return found if ending is None else Picture(bare.parent / ending)

    def _named(self, folder: Path) -> dict[str, str]:
        """The pictures of a folder by their names without endings; listed once."""
        if folder not in self._endings:
            try:
                names = sorted(entry.name for entry in os.scandir(folder))
            except (OSError, ValueError):
                names = []
            pictures = [name for name in names if Path(name).suffix.lower() in SUFFIXES]
            self._endings[folder] = {Path(name).stem: name for name in reversed(pictures)}
        return self._endings[folder]


def text_of(where: str, line: Mapping[str, Any], key: str) -> str:
    """The text, or number, under a key; "" where there is none. Raises ShotfitError for a value of another type."""
    value = "" if line.get(key) is None else line[key]
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise ShotfitError(f"{where}: the {key} is {json.dumps(value)[:80]}; expected text or a whole number.")
    return str(value).strip()


def _field(where: str, line: Mapping[str, Any], key: str) -> str:
    text = text_of(where, line, key)
    if not text:
        raise ShotfitError(f"{where} has no {key}; expected path,label[,split] in every line.")
    return text


def is_path(text: str) -> bool:
    """Whether a file may have that name: no zero byte, and nothing that the file system cannot say."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
