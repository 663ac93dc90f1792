"""Scores as lines for people: of one model, of its classes, and of two models side by side.

for line in score_lines(evaluate(model, task.test)):
    print(line)
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from shotfit.evaluation.evaluate import Scores
from shotfit.evaluation.intervals import Interval
from shotfit.evaluation.paired import Paired
from shotfit.printing import printable

__all__ = ["WORST", "aligned", "class_cells", "class_lines", "p_value", "paired_lines", "percent", "score_lines"]

WORST = 10  # classes that are shown, unless all are asked for
NAMES = 22  # width of the column of names


def score_lines(scores: Scores, every_class: bool = False) -> list[str]:
    """Figures, intervals, mistakes and classes of one model. every_class: all of them, else the worst ten."""
    lines = [f"{title:{NAMES}} {value}" for title, value in _figures(scores)]
    if scores.transductive:
        lines.insert(0, "transductive: the images were predicted together, and each answer depends on the others")
    ends = f"accuracy {_between(scores.accuracy_interval)}"
    ends += f", mean class accuracy {_between(scores.mean_class_accuracy_interval)}"
    lines.append(f"{'95 % intervals':{NAMES}} {ends} (bootstrap by image)")
    confused = scores.most_confused()
    if confused:
        lines.append("most confused:")
    lines += [f"  {true} taken for {predicted}: {count}" for true, predicted, count in confused]
    return lines + class_lines(scores, every_class)


def class_lines(scores: Scores, every: bool = False) -> list[str]:
    """The classes as a table, worst F1 first. every: all of them, else the worst ten and how many more there are."""
    rows = class_cells(scores, every)
    shown, known = len(rows) - 1, len(scores.per_class)
    head = "classes:" if shown == known else f"classes, the {shown} with the lowest F1:"
    more = [f"  and {known - shown:,} more (--per-class shows all)"] if shown < known else []
    return [head, *(f"  {line}" for line in aligned(rows)), *more]


def class_cells(scores: Scores, every: bool = False) -> list[list[str]]:
    """The classes as cells with their head, worst F1 first."""
    ordered = sorted(scores.per_class, key=lambda own: 2.0 if own.f1 is None else own.f1)
    rows = [["class", "images", "predicted", "precision", "recall", "F1"]]
    for own in ordered if every else ordered[:WORST]:
        shares = [percent(value) for value in (own.precision, own.recall, own.f1)]
        rows.append([own.name, f"{own.images:,}", f"{own.predicted:,}", *shares])
    return rows


def paired_lines(paired: Paired, names: Sequence[str]) -> list[str]:
    """Two models side by side, their difference and its test."""
    rows = [["", *names]]
    for (title, ours), (_, theirs) in zip(_figures(paired.first), _figures(paired.second), strict=True):
        rows.append([title, ours, theirs])
    for title, of in (("95 %, accuracy", "accuracy"), ("95 %, class accuracy", "mean_class_accuracy")):
        rows.append([title, *(_between(getattr(own, f"{of}_interval")) for own in (paired.first, paired.second))])
    first, second = names
    by_class = f"{_signed(paired.mean_class_difference)} points, 95 % {_points(paired.mean_class_difference_interval)}"
    return [
        *aligned(rows, least=NAMES),
        f"difference: {second} less {first}, paired bootstrap by image",
        f"  accuracy             {_signed(paired.difference)} points, 95 % {_points(paired.difference_interval)}",
        f"  mean class accuracy  {by_class}",
        f"right with both: {paired.both_right:,}; only with {first}: {paired.only_first:,}; "
        f"only with {second}: {paired.only_second:,}; with neither: {paired.both_wrong:,}",
        f"McNemar's exact test: p {_equals(paired.p)}",
    ]


def p_value(value: float) -> str:
    """Two digits that count; the smallest as a bound.

    >>> p_value(0.0123), p_value(0.5), p_value(1e-9)
    ('0.012', '0.50', '<0.0001')
    """
    if value < 1e-4:
        return "<0.0001"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def aligned(rows: Sequence[Sequence[str]], least: int = 0, left: bool = False) -> list[str]:
    """Cells in columns, the first to the left, the others to the right, or all `left`. least: width of the first.

    >>> aligned([["class", "F1"], ["猫", "50.0"]])
    ['class    F1', '猫     50.0']
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(cell_len(row[column]) for row in rows) for column in range(len(rows[0]))]
    widths[0] = max(widths[0], least)
    lines = []
    for row in rows:
        gaps = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        others = zip(gaps[1:], row[1:], strict=True)
        cells = [row[0] + gaps[0], *(cell + gap if left else gap + cell for gap, cell in others)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _figures(scores: Scores) -> list[tuple[str, str]]:
    found = [("images", f"{scores.images:,}")]
    for name in ("accuracy", "mean_class_accuracy", "macro_f1", "calibration_error"):
        found.append((name.replace("_", " "), f"{100 * getattr(scores, name):.1f} %"))
    if scores.top5_accuracy is not None:
        found.append(("top-5 accuracy", f"{100 * scores.top5_accuracy:.1f} %"))
    return [*found, ("log loss", f"{scores.log_loss:.3f}")]


def percent(value: float | None) -> str:
    """A fraction in per cent, or a dash."""
    return "-" if value is None else f"{100 * value:.1f}"


def _between(ends: Interval) -> str:
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f} %"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}"


def _points(ends: Interval) -> str:
    return f"{_signed(ends[0])} to {_signed(ends[1])}"


def _equals(p: float) -> str:
    text = p_value(p)
    return f"< {text[1:]}" if text.startswith("<") else f"= {text}"
