"""The table of a comparison as lines: accuracies, how sure they are, and what the methods cost."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from shotfit.evaluation.intervals import Interval
from shotfit.evaluation.printed import aligned, p_value
from shotfit.evaluation.rows import SIGNIFICANT, Row, Standing

__all__ = [
    "MARKS", "MOST", "axes", "cells", "cost_cells", "interval_cells", "interval_lines", "marks", "selections",
    "table",
]  # fmt: skip

MARKS: dict[Standing, str] = {"best": " *", "alike": " ~", "worse": "  ", "untested": " ?", "": "  "}
MOST = 40  # lines of intervals


def table(rows: Sequence[Row], columns: Sequence[str] = (), width: int | None = None) -> list[str]:
    """The rows as lines: those of `cells`, one table below the other."""
    lines = []
    for part in cells(rows, columns, width):
        lines += [*aligned(part), ""]
    return lines[:-1]


def cells(
    rows: Sequence[Row],
    columns: Sequence[str] = (),
    width: int | None = None,
    methods: Sequence[str] = (),
    shots: Sequence[int] = (),
) -> list[list[list[str]]]:
    """Tables of cells with their heads: a method a row, accuracies in percent, "-" where there is none, and marks.

    One column of scores: a number of shots a column. Several: one table for each number of shots. columns: all that are
    to stand there, in order; else those that have rows. width: of a line at most, so that more columns go into a table
    of their own below. methods, shots: those that were asked for; one without a result has "-" alone.
    """
    methods, shots, titles = axes(rows, columns, methods, shots)
    tested = any(row.standing for row in rows)
    texts = {
        (row.method, row.shots, row.column): f"{100 * row.mean:.1f}"
        + _plus_minus(row.spread)
        + (MARKS[row.standing] if tested else "")
        for row in rows
    }
    none = "-  " if tested else "-"
    room = "  " if tested else ""
    if len(titles) == 1:
        head = ["method", *(_shots(number) + room for number in shots)]
        return [
            [head, *([name, *(texts.get((name, number, titles[0]), none) for number in shots)] for name in methods)]
        ]
    found = []
    for number in shots:
        head = [_shots(number), *(title + room for title in titles)]
        whole = [head, *([name, *(texts.get((name, number, title), none) for title in titles)] for name in methods)]
        found += _fitting(whole, width)
    return found


def marks(rows: Sequence[Row]) -> list[str]:
    """What the marks of the table mean; nothing where no row was tested."""
    tests = sum(row.p is not None for row in rows)
    if not tests:
        return []
    several = any(len(row.seeds) > 1 for row in rows)
    lines = [
        f"* best of its column; ~ not told apart from it (p >= {SIGNIFICANT}); without a mark: worse",
        "p: McNemar's exact test against the best on the same images, "
        + ("of which each counts for the row that is right with more seeds; " if several else "")
        + f"Holm's correction for the table's {tests} test{'s' if tests > 1 else ''}",
    ]
    if any(row.standing == "untested" for row in rows):
        lines.append("? not tested: its runs, of an older version, do not say which images are right")
    made = dict.fromkeys(row.column for row in rows if not row.images)
    if made:
        lines.append(f"not tested, and without marks: {', '.join(made)}")
    return lines


def interval_lines(rows: Sequence[Row]) -> list[str]:
    """95 % intervals of the means and p of the tests, a row a line; a note in their place where they are too many."""
    found = interval_cells(rows)
    if len(found) > MOST + 1:
        return [f"95 % intervals and p of {len(found) - 1} cells: with --json, or --out-table FILE.csv"]
    return aligned(found) if found else []


def interval_cells(rows: Sequence[Row]) -> list[list[str]]:
    """The intervals as cells with their head; nothing where no row has any."""
    shown = [row for row in rows if row.interval_by_image or row.interval_by_seed]
    _, shots, titles = axes(rows)
    lines = [["95 % interval", "by image", "by seed", "p"]]
    for row in shown:
        parts = [row.method]
        parts += [_shots(row.shots)] if len(shots) > 1 else []
        parts += [row.column] if len(titles) > 1 else []
        p = "-" if row.p is None else p_value(row.p)
        lines.append([", ".join(parts), _between(row.interval_by_image), _between(row.interval_by_seed), p])
    return lines if shown else []


def cost_cells(rows: Sequence[Row]) -> list[list[str]]:
    """The costs as cells with their head."""
    several = len({row.shots for row in rows}) > 1
    lines = [["cost", "fit", "peak memory", "model", "prediction"]]
    for row in {(row.method, row.shots): row for row in rows}.values():
        name = f"{row.method}, {_shots(row.shots)}" if several else row.method
        lines.append([name, *costs(row)])
    return lines


def costs(row: Row) -> list[str]:
    """What a row costs, in units for people."""
    speed = "-" if row.images_per_second is None else f"{row.images_per_second:,.0f} images/s"
    return [f"{row.seconds:.1f} s", _bytes(row.peak_memory), _bytes(row.model_bytes), speed]


def selections(rows: Sequence[Row]) -> list[str]:
    """What each method chose anything by, a line for each way, of the methods that choose at all."""
    several = len({row.shots for row in rows}) > 1
    ways: dict[str, list[str]] = {}
    for row in rows:
        if row.selection:
            ways.setdefault(row.selection, []).append(row.method + (f" ({_shots(row.shots)})" if several else ""))
    return [f"selection of {', '.join(dict.fromkeys(methods))}: {way}" for way, methods in ways.items()]


def axes(
    rows: Sequence[Row], columns: Sequence[str] = (), methods: Sequence[str] = (), shots: Sequence[int] = ()
) -> tuple[list[str], list[int], list[str]]:
    """Methods, numbers of shots and columns, each once in their order; given ones behind others that have rows."""
    added = [row.method for row in rows if row.method not in methods]
    every = dict.fromkeys([*added, *methods]), dict.fromkeys([*shots, *(row.shots for row in rows)])
    return list(every[0]), list(every[1]), list(columns or dict.fromkeys(row.column for row in rows))


def _fitting(cells: Sequence[Sequence[str]], width: int | None) -> list[list[list[str]]]:
    """The columns in as many tables as the width needs, each with the first one.

    >>> _fitting([["method", "photos", "flowers"]], 16)
    [[['method', 'photos']], [['method', 'flowers']]]
    """
    sizes = [max(cell_len(row[column]) for row in cells) for column in range(len(cells[0]))]
    groups: list[list[int]] = [[]]
    used = sizes[0]
    for column in range(1, len(sizes)):
        if groups[-1] and width is not None and used + 2 + sizes[column] > width:
            groups.append([])
            used = sizes[0]
        groups[-1].append(column)
        used += 2 + sizes[column]
    return [[[row[0], *(row[column] for column in group)] for row in cells] for group in groups]


def _plus_minus(spread: float | None) -> str:
    return "" if spread is None else f" ± {100 * spread:.1f}"


def _between(ends: Interval | None) -> str:
    return "-" if ends is None else f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"


def _bytes(size: int | None) -> str:
    """Bytes in the unit that leaves two or three digits, by powers of 1,000.

    >>> _bytes(412_300_000), _bytes(900), _bytes(None)
    ('412 MB', '0.9 kB', '-')
    """
    if size is None:
        return "-"
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.{0 if size >= 10 * factor else 1}f} {unit}"
    return f"{size / 1e3:.{0 if size >= 1e4 else 1}f} kB"


def _shots(number: int) -> str:
    return f"{number} shot{'s' if number > 1 else ''}"
