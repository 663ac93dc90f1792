"""The authors' figures beside ours: `assets/published.csv`, as `docs/methods.md` prints them.

published("coop", "caltech101", 16).value           # 0.92

They were measured on CLIP, on the authors' images and choices. A row of a comparison gets one only where method, data
set, number of shots, protocol and column are the same.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import shotfit
from shotfit.evaluation.protocols import Plan
from shotfit.evaluation.rows import Row

__all__ = ["Published", "caption", "published", "published_of", "with_published"]

ALIKE = {  # other names of the data sets, as folders are called
    "caltech": "caltech101", "describabletextures": "dtd", "describabletexturesdataset": "dtd", "fgvc": "fgvcaircraft",
    "flowers102": "oxfordflowers", "oxfordflowers102": "oxfordflowers", "food": "food101", "pets": "oxfordpets",
    "cars": "stanfordcars", "sun": "sun397", "ucf": "ucf101", "ucf101midframes": "ucf101", "imagenet1k": "imagenet",
}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A figure of a paper or its program: a fraction, its spread over seeds if it is known, and where it is from.

    shots: None for zero-shot, which has none. column: accuracy; base, new or H; mean of a suite of tasks.
    """

    method: str
    data_set: str
    shots: int | None
    protocol: str
    column: str
    backbone: str
    value: float
    spread: float | None
    source: str


def published(
    method: str, data_set: str, shots: int, protocol: str = "few-shot", column: str = "accuracy"
) -> Published | None:
    """The authors' figure, or None. Names of data sets may be written as their folders are.

    >>> published("tip_adapter", "describable-textures", 16).value
    0.6093
    """
    found = _by_case()
    case = method.removesuffix("@paper"), _plain(data_set)
    return found.get((*case, shots, protocol, column)) or found.get((*case, None, protocol, column))


def published_of(method: str) -> list[Published]:
    """All figures of a method and its variants, in the order of the file.

    >>> sorted({figure.method for figure in published_of("softcpt")})
    ['softcpt', 'softcpt+variant=nats']
    """
    return [own for own in _by_case().values() if own.method.partition("+")[0] == method]


def with_published(rows: Sequence[Row], plan: Plan, protocol: str) -> list[Row]:
    """The rows with the authors' figures, where there are any."""
    cases: dict[str, tuple[str, str]] = {}  # of each column, the data set and what is measured
    if protocol in ("few-shot", "base-to-new"):
        for lesson in plan.lessons:
            (task,) = lesson.tasks
            for exam in lesson.exams:
                cases[exam.column] = task.name, exam.column.split(" ")[-1] if protocol == "base-to-new" else "accuracy"
            own = tuple(exam.column for exam in lesson.exams)
            cases |= {summary.column: (task.name, "H") for summary in plan.summaries if summary.over == own}
    result = []
    for row in rows:
        name, column = cases.get(row.column, ("", ""))
        found = published(row.method, name, row.shots, protocol, column)
        result.append(row if found is None else replace(row, published=found.value, published_by=_by(found)))
    return result


def caption(rows: Sequence[Row]) -> str:
    """What stands under a table that has published figures; empty where it has none."""
    sources = dict.fromkeys(row.published_by for row in rows if row.published is not None)
    if not sources:
        return ""
    return f"published: the authors' figures on CLIP, with their splits and choices ({'; '.join(sources)})"


def _by(found: Published) -> str:
    return f"{found.backbone}, {found.source}"


@cache
def _by_case() -> dict[tuple[str, str, int | None, str, str], Published]:
    with (Path(shotfit.__file__).parent / "assets" / "published.csv").open(encoding="utf-8", newline="") as file:
        figures = [_read(line) for line in csv.DictReader(file)]
    return {(own.method, _plain(own.data_set), own.shots, own.protocol, own.column): own for own in figures}


def _read(line: dict[str, str]) -> Published:
    return Published(
        method=line["method"],
        data_set=line["data_set"],
        shots=int(line["shots"]) if line["shots"] else None,
        protocol=line["protocol"],
        column=line["column"],
        backbone=line["backbone"],
        value=round(float(line["value"]) / 100, 6),
        spread=float(line["spread"]) / 100 if line["spread"] else None,
        source=line["source"],
    )


def _plain(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return ALIKE.get(plain, plain)
