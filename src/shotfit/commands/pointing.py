"""`shotfit predict --points`: how often a map points into a box of the class that it was asked for."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from shotfit.commands.console import print_json, read_all, show_table, to
from shotfit.errors import ShotfitError, UsageError

if TYPE_CHECKING:
    from shotfit.data.reading import Reading
    from shotfit.evaluation.points import Point, Points
    from shotfit.fitting.model import Model

__all__ = ["say_points"]


def say_points(model: Model, sources: list[str], how: Reading, form: str, folder: Path | None) -> None:
    """Ask for each class in each test picture of a set with boxes, and print the share of hits beside chance.

    form: table, or jsonl, which has a line for each question and one for the summary. folder: where maps are drawn.

    Raises UsageError for another format, several sources, and a set without boxes.
    """
    from shotfit.evaluation.evaluate import labelled_for
    from shotfit.evaluation.points import points, summary
    from shotfit.fitting.mapped import Mapper
    from shotfit.fitting.maps import check_maps
    from shotfit.progress import track

    if form not in ("table", "jsonl"):
        raise UsageError(f"--points prints a table, or with --format jsonl a line for each question; not {form}.")
    if len(sources) != 1 or sources[0] == "-":
        raise UsageError("--points judges one set with boxes: name its folder or file alone, as for `evaluate`.")
    check_maps(model, (), 1)
    mapper = None if folder is None else Mapper(folder, model)
    (task,) = read_all(Path(sources[0]), how, to(sys.stderr))
    names = model.one_task().names
    found: list[Point] = []
    for point in track(points(model, labelled_for(names, task), names, how.lenient), "Pointing"):
        found.append(point)
        files = None if mapper is None else mapper.write(point.map)
        if form == "jsonl":
            line = {
                "image": str(point.map.picture), "label": point.map.label, "point": [point.x, point.y],
                "hit": point.hit, "share": round(point.share, 6),
            }  # fmt: skip
            print_json(line | ({} if files is None else {"overlay": files.overlay, "array": files.array}))
    if not found:
        raise ShotfitError(f"The test part of {task.name} has no box to judge points by.")
    rows = summary(found, names)
    if form == "jsonl":
        print_json({"points": [asdict(row) for row in rows]})
        return
    show_table(_cells(rows), sys.stdout)


def _cells(rows: list[Points]) -> list[list[str]]:
    head = ["class", "asked", "point in a box", "share of the boxes"]
    shares = [[f"{100 * value:.1f} %" for value in (row.hits, row.chance)] for row in rows]
    return [head, *([row.label, f"{row.asked:,}", *own] for row, own in zip(rows, shares, strict=True))]
