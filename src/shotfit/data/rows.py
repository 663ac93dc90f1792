"""Rows that shotfit writes into files: CSV, JSON Lines and Parquet, each whole or not at all.

columns = {"image": "text", "probability": "number"}
write_rows(Path("rows.parquet"), "parquet", columns, [("a.jpg", 0.5)])

A cell is None where there is no value. In CSV it is empty then, a list has bars between its entries, and numbers have
six digits behind the point; the other two keep the values as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shotfit.data.containers import arrow
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import can_hold, writing
from shotfit.printing import as_csv, as_json

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "Columns", "Kind", "RowForm",
    "as_text", "check_file", "csv_row", "form_of", "schema_for", "table_of", "write_lines", "write_rows",
]  # fmt: skip

RowForm = Literal["csv", "jsonl", "parquet"]
Kind = Literal["text", "whole", "number", "flag", "texts", "numbers"]
Columns = Mapping[str, Kind]

_SUFFIXES: dict[str, RowForm] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_GROUP = 10_000  # rows that a Parquet file has together, and that are held until they are written


def form_of(path: Path) -> RowForm | None:
    """The format that a file's ending tells.

    >>> form_of(Path("rows.PARQUET"))
    'parquet'
    """
    return _SUFFIXES.get(path.suffix.lower())


def check_file(path: Path, flag: str = "--out") -> None:
    """Refuse a file that cannot be written, before anything is computed for it.

    Raises UsageError.
    """
    if path.is_dir():
        raise UsageError(f"{flag} {path} is a folder; expected the name of a file, such as {path / 'rows.csv'}.")
    if path.exists() and not path.is_file():
        raise UsageError(f"{flag} {path} is no regular file: name one that can be replaced.")
    if not can_hold(path):
        raise UsageError(f"{flag} {path} cannot be written there: name a file in a folder that you may write to.")


def write_rows(path: Path, form: RowForm, columns: Columns, rows: Iterable[Sequence[object]]) -> None:
    """Write rows, one at a time as they come; JSON Lines have an object a row.

    Raises UsageError where Parquet cannot be written, ShotfitError and OSError for a file that cannot.
    """
    if form == "parquet":
        _write_parquet(path, columns, rows)
        return
    if form == "csv":
        head = [as_csv([list(columns)]).removesuffix("\n")]
        write_lines(path, itertools.chain(head, (csv_row(row) for row in rows)))
        return
    write_lines(path, (as_json(dict(zip(columns, row, strict=True))) for row in rows))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines, one at a time as they come. What UTF-8 has no bytes for is written as an escape."""
    with writing(path) as file:
        for line in lines:
            file.write(f"{line}\n".encode("utf-8", "backslashreplace"))


def csv_row(row: Sequence[object]) -> str:
    """The row as a line of a CSV file, without its line end.

    >>> csv_row(["a.jpg", 1, 0.5, ("cat", "dog"), True, None])
    'a.jpg,1,0.500000,cat|dog,true,'
    """
    return as_csv([[_cell(value) for value in row]]).removesuffix("\n")


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6f}"
    if isinstance(value, (list, tuple)):
        return "|".join(str(_cell(one)) for one in value)
    return "" if value is None else value


def schema_for(columns: Columns) -> pyarrow.Schema:
    """The columns as Parquet has them. Raises UsageError where pyarrow is missing."""
    pa = arrow()
    kinds = {
        "text": pa.string(),
        "whole": pa.int32(),
        "number": pa.float64(),
        "flag": pa.bool_(),
        "texts": pa.list_(pa.string()),
        "numbers": pa.list_(pa.float64()),
    }
    return pa.schema([(name, kinds[kind]) for name, kind in columns.items()])


def table_of(columns: Columns, rows: Sequence[Sequence[object]]) -> pyarrow.Table:
    """Rows as a table of pyarrow. Raises UsageError where that is missing."""
    pa, schema = arrow(), schema_for(columns)
    cells: list[list[object]] = [[_text(row[place]) for row in rows] for place in range(len(schema))]
    arrays = [pa.array(column, kind) for column, kind in zip(cells, schema.types, strict=True)]
    return pa.table(arrays, schema=schema)


def _write_parquet(path: Path, columns: Columns, rows: Iterable[Sequence[object]]) -> None:
    pa, schema = arrow(), schema_for(columns)
    with writing(path) as file:
        try:
            with pa.parquet.ParquetWriter(file, schema) as writer:
                for group in _groups(rows):
                    writer.write_table(table_of(columns, group))
        except pa.ArrowException as error:
            raise ShotfitError(f"{path} cannot be written ({' '.join(str(error).split())[:200]}).") from error


def _groups(rows: Iterable[Sequence[object]]) -> Iterator[list[Sequence[object]]]:
    remaining = iter(rows)
    while group := list(itertools.islice(remaining, _GROUP)):
        yield group


def as_text(value: str) -> str:
    """A name that is no text as text, with escapes."""
    return value.encode("utf-8", "backslashreplace").decode()


def _text(value: object) -> object:
    if isinstance(value, str):
        return as_text(value)
    return [_text(one) for one in value] if isinstance(value, (list, tuple)) else value
