"""The page of a comparison.

rows = shotfit.compare("photos/", ["zero_shot", "linear_probe"], shots=[1, 4, 16], seeds=[1, 2, 3])
write_comparison(rows, out="comparison.html")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shotfit.errors import UsageError
from shotfit.evaluation.published import caption
from shotfit.evaluation.rows import Row
from shotfit.evaluation.table import cells, costs, interval_cells, marks, selections
from shotfit.report.charts import against_cost, against_shots
from shotfit.report.page import check_page, rendered, write_page

__all__ = ["write_comparison"]

CHARTS = 12  # columns that have a chart; all are in the tables
ROWS = 2000


def write_comparison(
    rows: Sequence[Row],
    *,
    out: str | Path,
    columns: Sequence[str] = (),
    notes: Sequence[str] = (),
    command: str = "",
    title: str = "comparison",
) -> Path:
    """Write one self-contained HTML page about a comparison, and give back where it stands.

    rows: what `compare` gives. columns: of the table, in order; else those that have rows. notes: sentences below it.
    command: what repeats it.

    Raises UsageError without rows, for a file that is no .html or cannot be written, and where the extra `report` is
    not installed.
    """
    place = Path(out)
    check_page(place)
    if not rows:
        raise UsageError("The comparison has no rows: there is nothing to report.")
    shown = list(columns or dict.fromkeys(row.column for row in rows))
    judged = [column for column in shown if any(row.column == column for row in rows)]
    charts = [(column, against_shots(rows, column, f"shots-{number}")) for number, column in enumerate(judged[:CHARTS])]
    last = judged[-1]  # the mean or the harmonic mean, where there are several
    of_last = [row for row in rows if row.column == last]
    prices = [
        ("Seconds of a fit", against_cost(of_last, lambda row: row.seconds, "seconds of a fit", "seconds")),
        (
            "Memory of a fit",
            against_cost(of_last, lambda row: _megabytes(row.peak_memory), "peak memory of a fit in MB", "memory"),
        ),
    ]
    page = rendered(
        "comparison.html",
        title=title,
        charts=charts,
        left_out=len(judged) - len(charts),
        tables=[(part[0], part[1:]) for part in cells(rows, shown)],
        marks=marks(rows),
        notes=[*notes, *selections(rows)],
        intervals=interval_cells(rows)[: ROWS + 1],
        last=last,
        prices=[(heading, svg) for heading, svg in prices if svg is not None],
        costs=[(row.method, row.shots, *costs(row)) for row in {(row.method, row.shots): row for row in rows}.values()],
        published=[row for row in rows if row.published is not None],
        published_by=caption(rows),
        command=command,
    )
    write_page(place, page)
    return place


def _megabytes(size: int | None) -> float | None:
    return None if size is None else size / 1e6
