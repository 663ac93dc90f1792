"""Manifests as CSV: a header with `path,label[,split]` or columns of other names, and an image a line.

Between cells stand commas, semicolons or tabs: what the header has most of. Quotes, a byte order mark and Windows line
ends are as in every CSV. An apostrophe in front of = + - @, which keeps a spreadsheet from running the cell, is not
part of the text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shotfit.data.formats.lines import columns_of, rows_of
from shotfit.data.images import shown
from shotfit.data.listing import How, Listing, listed
from shotfit.errors import ShotfitError
from shotfit.files import LIST_BYTES, read_text
from shotfit.printing import from_cell

__all__ = ["read", "recognizes"]

SUFFIXES = (".csv", ".tsv")


def recognizes(source: Path) -> bool:
    """A file that ends in .csv or .tsv."""
    return source.suffix.lower() in SUFFIXES and not source.is_dir()


def read(source: Path, how: How) -> Listing:
    """The images of the manifest.

    Raises:
        ShotfitError: not readable as such, no columns of paths and labels, and what `rows_of` refuses.
    """
    header, lines = table(source)
    columns = columns_of(shown(source), header, how)
    rows = rows_of(source, lines, columns, how)
    return listed(rows, f"manifest {source.name}", f"the lines of {source.name} with split test")


def table(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    """The names of the columns, and each line's number and fields. Raises ShotfitError, as the lines do."""
    text = read_text(path, LIST_BYTES, "a manifest")
    first = text.split("\n", 1)[0]
    delimiter = max("\t,;" if path.suffix.lower() == ".tsv" else ",;\t", key=first.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or []]
    except csv.Error as error:
        raise ShotfitError(f"{shown(path)}, line 1: not valid CSV ({error}).") from error
    reader.fieldnames = columns

    def lines() -> Iterator[tuple[int, dict[str, Any]]]:
        try:
            for line in reader:
                plain = {key: from_cell(cell) if isinstance(cell, str) else cell for key, cell in line.items()}
                yield reader.line_num, plain
        except csv.Error as error:
            raise ShotfitError(f"{shown(path)}, line {reader.line_num}: not valid CSV ({error}).") from error

    return columns, lines()
