"""The table of a comparison as a file: CSV with every figure, Markdown or LaTeX as papers print it.

write_table(Path("table.md"), rows, plan.columns)

CSV has a line for each method, number of shots and column. Markdown and LaTeX have a table for each number of shots, a
method a line: accuracies, the authors' figures where there are some, and what the method costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.published import caption
from shotfit.evaluation.rows import Row
from shotfit.evaluation.table import axes, costs, marks
from shotfit.files import write_atomically
from shotfit.printing import as_csv, as_markdown, printable

__all__ = ["check_table", "table_text", "write_table"]

FORMATS = (".csv", ".md", ".tex")
COSTS = ("fit", "peak memory", "model", "prediction")
# What LaTeX would read as a command.
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"<": "$<$", ">": "$>$"}


def check_table(path: Path) -> None:
    """Refuse, before anything is fitted, a file that no table can be written to.

    Raises UsageError.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"--out-table is {path}; expected a file that ends in .csv, .md or .tex.")
    if path.is_dir():
        raise UsageError(f"--out-table {path} is a folder: name a file.")


def write_table(
    path: Path,
    rows: Sequence[Row],
    columns: Sequence[str],
    notes: Sequence[str] = (),
    methods: Sequence[str] = (),
    shots: Sequence[int] = (),
) -> None:
    """Write the rows in the format of the file's suffix. columns: the table's, in order. notes: go below it.

    methods, shots: those that were asked for; in Markdown and LaTeX one without a result has "-" alone.

    Raises UsageError for another suffix, ShotfitError for a file that cannot be written.
    """
    check_table(path)
    try:
        text = table_text(path.suffix, rows, columns, notes, methods, shots)
        write_atomically(path, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise ShotfitError(f"{path} cannot be written ({error.strerror}): name another --out-table.") from None


def table_text(
    suffix: str,
    rows: Sequence[Row],
    columns: Sequence[str],
    notes: Sequence[str] = (),
    methods: Sequence[str] = (),
    shots: Sequence[int] = (),
) -> str:
    """The text of the file."""
    if suffix == ".csv":
        return _csv(rows)
    below = [*notes, *marks(rows), *([caption(rows)] if caption(rows) else [])]
    methods, shots, _ = axes(rows, columns, methods, shots)
    tables = [_cells(number, methods, [row for row in rows if row.shots == number], columns) for number in shots]
    if suffix == ".md":
        lines = [line for table in tables for line in _markdown(table)]
        lines += [f"- {as_markdown(note)}" for note in below]
    else:
        lines = [line for table in tables for line in _latex(table, below)]
    return "\n".join([*lines, ""])


def _csv(rows: Sequence[Row]) -> str:
    names = [field.name for field in fields(Row)]
    lines = [[_plain(getattr(row, name)) for name in names] for row in rows]
    return as_csv([names, *lines])


def _plain(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def _cells(shots: int, methods: Sequence[str], rows: Sequence[Row], columns: Sequence[str]) -> list[list[str]]:
    """Head and lines of one number of shots; a column `published` behind each that has such figures."""
    cells = {(row.method, row.column): row for row in rows}
    known = {row.column for row in rows if row.published is not None}
    head = [f"{shots} shot{'s' if shots > 1 else ''}"]
    for column in columns:
        head += [column, "published"] if column in known else [column]
    lines = [[*head, *COSTS]]
    for method in methods:
        line = [method]
        for column in columns:
            row = cells.get((method, column))
            line.append("-" if row is None else _cell(row))
            if column in known:
                line.append("-" if row is None or row.published is None else f"{100 * row.published:.2f}")
        own = next((row for row in rows if row.method == method), None)
        lines.append([*line, *(["-"] * len(COSTS) if own is None else costs(own))])
    return lines


def _cell(row: Row) -> str:
    spread = "" if row.spread is None else f" ± {100 * row.spread:.1f}"
    mark = {"best": " *", "alike": " ~", "untested": " ?"}.get(row.standing, "")
    return f"{100 * row.mean:.1f}{spread}{mark}"


def _markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    rule = "|---|" + "--:|" * (len(lines[0]) - 1)
    head, *rest = ("| " + " | ".join(as_markdown(cell) for cell in line) + " |" for line in lines)
    return [head, rule, *rest, ""]


def _latex(lines: Sequence[Sequence[str]], notes: Sequence[str]) -> list[str]:
    head, *rest = (" & ".join(_escaped(cell) for cell in line) + r" \\" for line in lines)
    rules = [r"\toprule", head, r"\midrule", *rest, r"\bottomrule"]  # of the package booktabs
    tabular = [f"\\begin{{tabular}}{{l{'r' * (len(lines[0]) - 1)}}}", *rules, r"\end{tabular}"]
    below = rf"\caption{{{'. '.join(map(_escaped, notes))}.}}"
    return [r"\begin{table}", r"\centering", *tabular, below, r"\end{table}", ""]


def _escaped(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in printable(text))
