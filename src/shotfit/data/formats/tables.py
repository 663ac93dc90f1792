"""What Parquet and Arrow files have in common: a column of pictures or paths, one of labels, names of classes.

    read_tables([(Path("train-00000-of-00001.parquet"), "train")], How(), "table cifar10")

Labels are text, or numbers that Hugging Face's ClassLabel names, in the metadata of the schema. The bytes of pictures
are not read here: a picture is its file and row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shotfit.data.cells import values_of
from shotfit.data.containers import batches_of, image_column, picture_columns, schema_of
from shotfit.data.formats.lines import LABELS, Columns, columns_of, rows_of
from shotfit.data.images import shown
from shotfit.data.listing import How, Listing, Part, Row, listed, named
from shotfit.data.lists import plain_column
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError, plural

__all__ = ["class_names_in", "read_tables", "rows_in"]


@dataclass(frozen=True)
class Found:
    """The rows of a table, the names of its classes by number (empty where labels are text), rows without a label."""

    rows: list[Row]
    names: tuple[str, ...]
    unlabeled: int

    def notes(self) -> list[str]:
        """What to know about them, a sentence each."""
        return [f"{plural(self.unlabeled, 'row')} without a label left out"] if self.unlabeled else []


def read_tables(
    files: Sequence[tuple[Path, Part]],
    how: How,
    reader: str,
    test_origin: str = "",
    notes: Sequence[str] = (),
    names: Mapping[str, tuple[str, ...]] | None = None,
) -> Listing:
    """The listing of tables that have the same columns, each of a part.

    names: the class names of columns, where they do not stand in the tables themselves.

    Raises ShotfitError: not readable, no such columns, different names of classes, no row with a label; UsageError.
    """
    rows, told, unlabeled = list[Row](), tuple[str, ...](), 0
    for path, part in files:
        found = rows_in(path, how, part, names)
        if path != files[0][0] and found.names != told:
            raise ShotfitError(f"{shown(path)} has other class names than {shown(files[0][0])}; read one of them.")
        told = found.names
        rows += found.rows
        unlabeled += found.unlabeled
    first = files[0][0]
    if not rows:
        raise ShotfitError(f"{shown(first)} has no row with a label; expected a picture and its label in each.")
    if how.group_column and not any(row.group for row in rows):
        raise ShotfitError(f"{shown(first)} has no row with a {how.group_column!r}; expected the group of each image.")
    listing = listed(rows, reader, test_origin, notes=[*notes, *Found(rows, told, unlabeled).notes()])
    return named(listing, told, shown(first)) if told else listing


def rows_in(path: Path, how: How, part: Part = "train", names: Mapping[str, tuple[str, ...]] | None = None) -> Found:
    """The rows of a table, of `part` where they name none; with the errors of `read_tables`."""
    schema = schema_of(path)
    names = names or class_names_in(schema.metadata)
    columns, in_bytes = _columns(path, schema, names, how)
    told = (columns.label, columns.split, columns.group, *columns.classes, *columns.maybe_split)
    wanted = [name for name in told if name]
    known, unlabeled = names.get(columns.label, ()), 0

    def lines() -> Iterator[tuple[int, dict[str, Any]]]:
        nonlocal unlabeled
        for number, line in _lines(path, wanted if in_bytes else [columns.path, *wanted]):
            if known and line[columns.label] in (None, -1):  # as test parts of the hub are
                unlabeled += 1
            elif known and how.several_labels:
                yield number, line | {columns.label: _named(line[columns.label], known, f"{shown(path)}, row {number}")}
            else:
                yield number, line

    picture = (lambda number: Picture(path, number)) if in_bytes else None
    several = how.several_labels
    rows = rows_of(
        path, lines(), columns, how, unit="row", part=part, picture=picture, some=False, names=known if several else ()
    )
    return Found(rows, () if several else known, unlabeled)


def _named(values: Any, names: Sequence[str], where: str) -> list[str]:
    """The names of a picture's classes, by their numbers. Raises ShotfitError."""
    numbers = values if isinstance(values, list) else [values]
    wrong = [one for one in numbers if not isinstance(one, int) or not 0 <= one < len(names)]
    if wrong:
        raise ShotfitError(f"{where} has the label {wrong[0]!r:.80}, which is none of the {len(names):,} class names.")
    return [names[number] for number in numbers]


def class_names_in(metadata: Mapping[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """The names of each ClassLabel column, from the metadata that `datasets` writes into a schema; {} without."""
    try:
        content = json.loads((metadata or {}).get(b"huggingface", b"{}"))
        return names_of_features(content["info"]["features"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}


def names_of_features(features: object) -> dict[str, tuple[str, ...]]:
    """The names of each ClassLabel among the features of a dataset, or of a list of them."""
    found: dict[str, tuple[str, ...]] = {}
    for column, feature in features.items() if isinstance(features, dict) else ():
        match feature:
            case (
                {"_type": "ClassLabel", "names": [*names]}
                | {"feature": {"_type": "ClassLabel", "names": [*names]}}
                | [{"_type": "ClassLabel", "names": [*names]}]
            ) if all(isinstance(name, str) for name in names):
                found[column] = tuple(names)
    return found


def _columns(path: Path, schema: Any, names: Mapping[str, tuple[str, ...]], how: How) -> tuple[Columns, bool]:
    """The columns that are meant, and whether the pictures' column holds their bytes."""
    in_bytes = picture_columns(schema)
    if how.label_column is None and len(names) == 1 and not any(plain_column(name) in LABELS for name in schema.names):
        how = replace(how, label_column=next(iter(names)))
    twice = [name for name in dict.fromkeys(schema.names) if schema.names.count(name) > 1]
    if twice:
        raise ShotfitError(f"{shown(path)} has two columns {twice[0]!r}; rename one of them.")
    if not in_bytes or (how.path_column is not None and how.path_column not in in_bytes):
        return columns_of(shown(path), schema.names, how), False
    column = image_column(schema, path)
    if how.path_column not in (None, column):
        raise ShotfitError(
            f"{shown(path)} has several columns of pictures, of which {column} is read; leave the others out of the "
            f"table to read {how.path_column}."
        )
    return columns_of(shown(path), schema.names, replace(how, path_column=column)), True


def _lines(path: Path, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of each row, from 0, and its values."""
    number = 0
    for batch in batches_of(path, list(dict.fromkeys(columns))):
        lists = [_values(path, name, column) for name, column in zip(batch.schema.names, batch.columns, strict=True)]
        for values in zip(*lists, strict=True):
            yield number, dict(zip(batch.schema.names, values, strict=True))
            number += 1


def _values(path: Path, name: str, column: Any) -> list[Any]:
    """The values of a column. Raises ShotfitError for what is no value of Python."""
    try:
        return values_of(column)
    except (ValueError, IndexError, OverflowError) as error:  # text that is none, times beyond the calendar
        raise ShotfitError(f"{shown(path)} has a value in {name} that cannot be read ({error}).") from error
