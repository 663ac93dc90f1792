"""Lists that `suggest` and `clean` print or write: a table for people, CSV or one JSON object for programs.

chosen = form_for(None, False, Path("next.csv"))        # "csv"
put(Listed(tables, columns, rows, plain), chosen, out, say)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from shotfit.commands.console import Say, show_table, to
from shotfit.data.rows import check_file, csv_row, write_lines
from shotfit.errors import UsageError
from shotfit.evaluation.printed import aligned
from shotfit.printing import as_json

__all__ = ["Form", "Listed", "first_of", "form_for", "percent", "put"]

Form = Literal["table", "csv", "json"]

_SUFFIXES: dict[str, Form] = {".csv": "csv", ".json": "json", ".txt": "table"}


def form_for(asked: str | None, json: bool, out: Path | None) -> Form:
    """The format that is asked for; without one, what the file's ending says, or a table.

    Raises UsageError for an unknown format or ending, two different ones, and a file that cannot be written.

    >>> form_for(None, False, Path("next.csv")), form_for(None, True, None)
    ('csv', 'json')
    """
    known = ", ".join(get_args(Form))
    if json and asked not in (None, "json"):
        raise UsageError(f"--json and --format {asked} ask for two formats: give one.")
    named = "json" if json else asked
    if out is not None:
        check_file(out)
        named = named or _SUFFIXES.get(out.suffix.lower())
        if named is None:
            raise UsageError(f"--out {out} has no ending that says its format: give --format, one of {known}.")
    for form in get_args(Form):
        if form == (named or "table"):
            return form
    raise UsageError(f"There is no format {named!r}: use one of {known}.")


@dataclass(frozen=True)
class Listed:
    """What is printed or written. tables: of cells, each with its head; rows: with the keys `columns`; plain: for JSON.

    An empty table is left out.
    """

    tables: Sequence[Sequence[Sequence[str]]]
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    plain: Mapping[str, Any]


def put(found: Listed, form: Form, out: Path | None, say: Say) -> None:
    """Print what was found, or write it to the file, whole or not at all."""
    tables = [cells for cells in found.tables if len(cells) > 1]
    if form == "table" and out is None:
        for cells in tables:
            show_table(cells, sys.stdout, left=True)
        return
    if form == "table":
        lines = [line for cells in tables for line in aligned(cells, left=True)]
    elif form == "csv":
        lines = [csv_row(found.columns), *(csv_row([row[name] for name in found.columns]) for row in found.rows)]
    else:
        lines = [as_json(found.plain)]
    if out is not None:
        write_lines(out, lines)
        say(f"written: {out}")
        return
    # CSV has names as they are, for programs; where people look at it, a terminal gets what it can show
    say_line = to(sys.stdout) if sys.stdout.isatty() else partial(print, flush=True)
    for line in lines:
        say_line(line)


def percent(share: float) -> str:
    """A share in a table.

    >>> percent(0.1234)
    '12.3 %'
    """
    return f"{100 * share:.1f} %"


def first_of(names: Sequence[str]) -> str:
    """Several pictures in a cell of a table.

    >>> first_of(["a.jpg", "b.jpg", "c.jpg"]), first_of([])
    ('a.jpg and 2 more', '-')
    """
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return f"{names[0]}{more}" if names else "-"
