"""Manifests as CSV: a header with `path,label[,split]` or columns of other names, and an image a line.

Between cells stand commas, semicolons, tabs or bars: those with which the header has columns of usual names, or the
most columns. Quotes, a byte order mark and Windows line ends are as in every CSV, `sep=;` on top as Excel has it. An
apostrophe in front of = + - @, which keeps a spreadsheet from running the cell, is not part of the text.

The CSV that `predict` writes is a manifest too: of each image the first row, where it is no error and not unknown.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from shotfit.data.formats.lines import BEYOND, LABELS, LeftOut, columns_of, list_text, rows_of
from shotfit.data.images import SUFFIXES as IMAGES
from shotfit.data.images import shown
from shotfit.data.label_sets import FLAG
from shotfit.data.listing import How, Listing, Part, Row, listed
from shotfit.data.lists import PATHS, plain_column
from shotfit.errors import ShotfitError, first_few
from shotfit.printing import from_cell

__all__ = ["SUFFIXES", "read", "recognizes", "rows_in", "table"]

SUFFIXES = (".csv", ".tsv")

_DELIMITERS = ",;\t|"
_PREDICTED = {"image", "rank", "label", "probability"}  # columns of what `predict` writes

Lines = Iterable[tuple[int, dict[str, Any]]]


def recognizes(source: Path) -> bool:
    """A file that ends in .csv or .tsv."""
    return source.suffix.lower() in SUFFIXES and not source.is_dir()


def read(source: Path, how: How) -> Listing:
    """The images of the manifest.

    Raises:
        ShotfitError: not readable as such, no columns of paths and labels, and what `rows_of` refuses.
    """
    reader = f"manifest {source.name}"
    if _is_predicted(table(source)[0], how):
        reader = f"predictions {source.name}, of each image the first label"
    rows, notes = rows_in(source, how)
    return listed(rows, reader, f"the lines of {source.name} with split test", notes=notes)


def rows_in(source: Path, how: How, part: Part = "train") -> tuple[list[Row], list[str]]:
    """A row for each line, of `part` where it names none, and what to know about it; with the errors of `read`."""
    header, lines = table(source)
    if _is_predicted(header, how):
        left_out = LeftOut()
        rows = rows_of(source, _first(lines, left_out), columns_of("", header, how), how, otherwise=Path.cwd())
        return rows, left_out.notes()
    if how.several_labels and {"probability", "error"} <= set(header):  # what `predict` writes
        lines = ((number, line) for number, line in lines if not line.get("error"))
    elif (
        not how.several_labels and how.label_column is None and not any(plain_column(name) in LABELS for name in header)
    ):
        _refuse_unlabeled(shown(source), header, list(islice(lines, 50)))
    columns = columns_of(shown(source), header, how)
    twice = [name for name in (columns.path, columns.label, *columns.classes) if header.count(name) > 1]
    if twice:
        raise ShotfitError(f"{shown(source)} has two columns {twice[0]!r}; rename one of them.")
    left_out = LeftOut()
    rows = rows_of(source, lines, columns, how, part=part, left_out=left_out)
    return rows, left_out.notes()


def _is_predicted(header: list[str], how: How) -> bool:
    return set(header) >= _PREDICTED and not how.has_columns


def table(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    """The names of the columns, and each line's number and fields. Raises ShotfitError, as the lines do."""
    text = list_text(path)
    first = text.split("\n", 1)[0].strip().casefold()
    told = first[4] if len(first) == 5 and first.startswith("sep=") else ""
    text, skipped = (text.split("\n", 1)[-1], 1) if told else (text, 0)
    skipped += len(text) - len(text.lstrip("\n"))
    text = text.lstrip("\n")
    delimiter = told or _delimiter(text, "\t,;|" if path.suffix.lower() == ".tsv" else _DELIMITERS)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey=BEYOND, skipinitialspace=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or []]
    except csv.Error as error:
        raise ShotfitError(f"{shown(path)}, line 1: not valid CSV ({error}).") from error
    reader.fieldnames = columns

    def lines() -> Iterator[tuple[int, dict[str, Any]]]:
        try:
            for line in reader:
                beyond = "".join(line.pop(BEYOND, ())).strip()
                found = {BEYOND: beyond} | {key: cell and from_cell(cell) for key, cell in line.items()}
                if any(cell and cell.strip() for cell in found.values()):  # spreadsheets end in lines of delimiters
                    yield reader.line_num + skipped, found
        except csv.Error as error:
            raise ShotfitError(f"{shown(path)}, line {reader.line_num + skipped}: not valid CSV ({error}).") from error

    return columns, lines()


def _delimiter(text: str, candidates: str) -> str:
    def fit(delimiter: str) -> tuple[int, int]:
        try:
            header = next(csv.reader(io.StringIO(text[:100_000], newline=""), delimiter=delimiter), [])
        except csv.Error:
            return 0, 0
        names = {plain_column(name) for name in header}
        return bool(names & set(PATHS)) + bool(names & set(LABELS)), len(header)

    return max(candidates, key=fit)


def _first(lines: Lines, left_out: LeftOut) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of predictions that label an image; counts those of errors and unknown images."""
    for number, line in lines:
        if line.get("error"):
            left_out.errors += 1
        elif str(line.get("rank")).strip() == "1":
            if str(line.get("unknown") or "").strip().casefold() in ("true", "yes", "1"):
                left_out.unknown += 1
            else:
                yield number, line


def _refuse_unlabeled(where: str, header: list[str], lines: list[tuple[int, dict[str, Any]]]) -> None:
    """Say what a table without a column of labels is, where that shows."""
    numbers = {"0", "1", "0.0", "1.0"}
    binary = [
        name
        for name in dict.fromkeys(header)
        if len(lines) > 1 and all(str(line.get(name)).strip() in numbers for _, line in lines)
    ]
    if len(binary) > 1:
        raise ShotfitError(
            f"{where} has no column of labels, but columns of 0 and 1, as for a class each ({first_few(binary)}); say "
            f"{FLAG} if a picture may be of several or none of them, else expected one column with the name of each "
            "image's class, such as label (in pandas: table[columns].idxmax(axis=1))."
        )
    if any(Path(name).suffix.lower() in IMAGES for name in header):
        raise ShotfitError(
            f"{where} names no columns in its first line, but an image ({first_few(header)}); add a first line "
            "path,label."
        )
