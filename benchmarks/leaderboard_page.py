"""docs/leaderboard.md, its pictures, and the tables of docs/choose.md, out of leaderboard.jsonl.

python -m benchmarks.leaderboard page
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.leaderboard_plots import PLAIN, cost_drawn, ranks_drawn
from benchmarks.standings import (
    LEFT_OUT,
    RACE,
    SETS,
    Figure,
    Standings,
    accuracies,
    critical_difference,
    friedman,
    mean_accuracy,
    mean_ranks,
    read,
)
from shotfit.evaluation.published import published_of
from shotfit.methods import METHODS, find

__all__ = ["TITLES", "cells_of", "choices", "page", "row_of", "write"]

DOCS = Path(__file__).parent.parent / "docs"
TITLES = {"caltech101": "Caltech101", "dtd": "DTD", "flowers17": "Flowers17", "gtsrb": "GTSRB",
          "rbc_shapes": "rbc_shapes", "grocery": "Grocery"}  # fmt: skip
PARTS = (("auto", 16), ("paper", 16), ("paper", 1))
ANCHORS = dict(  # the section of each method, which some share
    re.findall(r"^\| \[`(\w+)`\]\(#([\w-]+)\)", (DOCS / "methods.md").read_text(encoding="utf-8"), re.MULTILINE)
)
AVERAGE = "average of 11"  # as published.csv calls it
UNLIKE = ("gtsrb", "rbc_shapes")  # traffic signs and blood cells: no photographs of daily life
SHOWN = 6  # methods of a table of the chooser
QUICK = 30.0  # seconds of a fit
BEGIN, END = "<!-- table: {} -->\n", "<!-- end of the table -->\n"
MADE = "<!-- Made by `python -m benchmarks.leaderboard page`: change benchmarks/leaderboard_page.py, not this file. -->"


def write() -> None:
    """Write the page, its pictures, and the tables of the chooser."""
    found = read()
    (DOCS / "leaderboard.md").write_text(page(found), encoding="utf-8")
    for recipe, shots in PARTS:
        for kind, draw in (("ranks", ranks_drawn), ("cost", cost_drawn)):
            picture = draw(found, recipe, shots)
            if picture:
                (DOCS / "leaderboard" / f"{kind}_{recipe}_{shots}.svg").write_text(picture, encoding="utf-8")
    chooser = DOCS / "choose.md"
    text = chooser.read_text(encoding="utf-8")
    for name, table in choices(found).items():
        before, begin, rest = text.partition(BEGIN.format(name))
        _, _, after = rest.partition(END)
        text = f"{before}{begin}{table}{END}{after}"
    chooser.write_text(text, encoding="utf-8")


def page(found: Standings) -> str:
    """The page of the leaderboard."""
    lines = [
        "# Leaderboard", "", MADE, "",
        f"Methods on six data sets with the backbone `mini`, in percent of the test images. {_summary(found)}",
        "", *_best(found),
    ]  # fmt: skip
    for recipe, shots in PARTS:
        lines += ["", *_part(found, recipe, shots)]
    return "\n".join([*lines, "", *_manner()]) + "\n"


def _summary(found: Standings) -> str:
    """The answer in a sentence."""
    table = accuracies(found, "auto", 16)
    ranked = {name: rank for name, rank in mean_ranks(table).items() if name != RACE}
    if not ranked:
        return "No method has been run on all of them yet."
    first, *others = ranked
    more = f", before {_names(others[:2])}" if others else ""
    return (
        f"With 16 images a class and the default recipe, `{first}` has the best mean rank{more}, of the "
        f"{len(ranked)} methods that have been run on all six."
    )


def _names(names: Sequence[str]) -> str:
    return " and ".join(f"`{name}`" for name in names)


def _best(found: Standings) -> list[str]:
    """The best method of each set at 16 shots, beside the plain command."""
    plain = found.get((RACE, "auto", 16), {})
    lines = [
        "## The best of each data set, and the plain command", "",
        "At 16 shots, by either recipe. The plain command, `shotfit fit DIR`, races a shortlist on held-out images "
        "([methods.md](methods.md#two-recipes)).", "",
        "| data set | best | accuracy | plain command | behind by |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for data in SETS:
        own = {
            (name, recipe): row[data].accuracy
            for (name, recipe, shots), row in found.items()
            if shots == 16 and data in row and name != RACE
        }
        if not own:
            lines.append(f"| {TITLES[data]} | | | | |")
            continue
        (name, recipe), best = max(own.items(), key=lambda pair: pair[1])
        raced = plain.get(data)
        behind = ("", "") if raced is None else (f"{raced.accuracy:.1f}", f"{best - raced.accuracy:.1f}")
        lines.append(f"| {TITLES[data]} | {_linked(name)} ({recipe}) | {best:.1f} | {behind[0]} | {behind[1]} |")
    return lines


def _part(found: Standings, recipe: str, shots: int) -> list[str]:
    """One recipe and number of shots: ranks and their picture, the table, what the methods cost."""
    table, rows = accuracies(found, recipe, shots), {
        name: found.get((name, recipe, shots), {}) for name in (*METHODS, *([RACE] if recipe == "auto" else []))
    }  # fmt: skip
    ranked = mean_ranks(table)
    number = "One shot" if shots == 1 else f"{shots} shots"
    said = "the default recipe, `auto`" if recipe == "auto" else "the papers' recipes"
    lines = [f"## {number}, {said}", ""]
    if len(ranked) > 2:
        name = f"{recipe}_{shots}"
        lines += [
            f"Mean ranks of the {len(ranked)} methods with figures for all six sets (1 is the best). Friedman's test "
            f"that they differ by chance alone: p = {friedman(table):.1g}. Two of them are told apart (Nemenyi, 5 %) "
            f"where their ranks differ by {critical_difference(len(ranked), len(SETS)):.1f} or more: six data sets are "
            "few for so many methods.", "",
            f"![Mean ranks, with the critical difference](leaderboard/ranks_{name}.svg)", "",
            f"![Mean accuracy against the seconds of a fit](leaderboard/cost_{name}.svg)", "",
        ]  # fmt: skip
    head = ["method", "rank", "mean", *TITLES.values(), "seconds", "memory", "model"]
    lines += [row_of(head), "|---" * len(head) + "|"]
    order = [*ranked, *(name for name in rows if name not in ranked)]
    for name in order:
        own = rows[name]
        whole = len(own) == len(SETS)
        cells = [
            _linked(name),
            f"{ranked[name]:.1f}" if name in ranked else "",
            f"{mean_accuracy(own):.1f}" if whole else "",
        ]
        lines.append(row_of([*cells, *cells_of(own)]))
    return lines


def _linked(name: str) -> str:
    """A method's name, leading to its page."""
    return PLAIN if name == RACE else f"[`{name}`](methods.md#{ANCHORS[name]})"


def cells_of(own: Mapping[str, Figure]) -> list[str]:
    """Accuracies by data set, then seconds, memory and size."""
    return [*(_accuracy(own.get(data)) for data in SETS), *_costs(own.values())]


def _accuracy(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return f"{figure.accuracy:.1f}" + ("" if figure.spread is None else f" ± {figure.spread:.1f}")


def _costs(figures: Iterable[Figure]) -> list[str]:
    """Seconds of a fit, mean over the sets; memory, the most; bytes of a model, mean over the sets."""
    own = list(figures)
    if not own:
        return ["", "", ""]
    memory = max((one.memory for one in own if one.memory), default=None)
    sizes = [one.bytes for one in own if one.bytes]
    return [
        f"{fmean(one.seconds for one in own):,.0f}",
        "" if memory is None else f"{memory / 1e9:.1f} GB",
        _size(fmean(sizes)) if sizes else "",
    ]


def _size(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"


def row_of(cells: Sequence[str]) -> str:
    """A row of a table."""
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def _manner() -> list[str]:
    """How the figures were taken, and what was left out."""
    long = json.loads(LEFT_OUT.read_text(encoding="utf-8")) if LEFT_OUT.is_file() else []
    return [
        "## How it is measured", "",
        "`python -m benchmarks.leaderboard` carries the runs out and goes on where it stopped; its results are "
        "`benchmarks/leaderboard.jsonl`, a line a run of `shotfit compare`. Shots are drawn by CoOp's rule, with the "
        "seeds 1 to 3 (`auto`: 1), views are drawn once, and class names are those of the folders. Figures with ± are "
        "means and standard deviations over the seeds. Seconds are those of a fit on one core of a machine that did "
        "other work beside it, with the frozen model's features in the store already; memory is the most of "
        "the whole process; a model's size is that of its folder, without the backbone.", "",
        "Empty: not run yet" + (f", or left out since a run would take more than 20 minutes: {'; '.join(long)}." if long
                                else "."), "",
        "Ranks are compared as in Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, "
        "2006. `mini` is a small backbone: names that say little to it (traffic signs, blood cells) leave more to be "
        "learned than CLIP's would, so the order may differ on yours. `shotfit compare DIR --methods ...` runs your "
        "pictures.",
    ]  # fmt: skip


def choices(found: Standings) -> dict[str, str]:
    """The tables of the chooser, by need."""
    whole = {
        (name, recipe): row for (name, recipe, shots), row in found.items() if shots == 16 and len(row) == len(SETS)
        and not (recipe == "auto" and name != RACE and find(name).grid is None)
    }  # fmt: skip
    single = {(name, recipe): row for (name, recipe, shots), row in found.items()
              if shots == 1 and recipe == "paper" and len(row) == len(SETS)}  # fmt: skip

    def best(rows: Mapping[tuple[str, str], Mapping[str, Figure]], sets: Sequence[str],
             keep: Callable[[str, Mapping[str, Figure]], bool] = lambda *_: True) -> str:  # fmt: skip
        kept = {key: own for key, own in rows.items() if keep(key[0], own)}
        means = {key: fmean(own[data].accuracy for data in sets) for key, own in kept.items()}
        head = ["method", "recipe", "accuracy", "seconds", "memory", "model"]
        lines = [row_of(head), "|---" * len(head) + "|"]
        for name, recipe in sorted(means, key=lambda key: -means[key])[:SHOWN]:
            own = kept[name, recipe]
            lines.append(row_of([_linked(name), recipe, f"{means[name, recipe]:.1f}", *_costs(own.values())]))
        return "\n".join(lines) + "\n"

    def new_classes(name: str, _: Mapping[str, Figure]) -> bool:
        return name != RACE and find(name).accepts_new_classes

    def quick(_: str, own: Mapping[str, Figure]) -> bool:
        return fmean(one.seconds for one in own.values()) <= QUICK

    def several(name: str, _: Mapping[str, Figure]) -> bool:
        return name != RACE and find(name).several_tasks

    return {
        "any": best(whole, SETS),
        "published": _published(),
        "quick": best(whole, SETS, quick),
        "new classes": best(whole, SETS, new_classes),
        "one shot": best(single, SETS),
        "unlike": best(whole, UNLIKE),
        "like": best(whole, [data for data in SETS if data not in UNLIKE]),
        "several tasks": best(whole, SETS, several),
    }


def _published() -> str:
    """What authors publish of base and new classes, the best H first."""
    rows = []
    for name in METHODS:
        own = [one for one in published_of(name) if one.data_set == AVERAGE and one.method == name]
        found = {(one.column, one.backbone): one for one in own}
        values = [found.get((column, "ViT-B/16")) for column in ("base", "new", "H")]
        if name != "zero_shot" and (last := values[-1]) is not None:
            percents = ["" if one is None else f"{100 * one.value:.2f}" for one in values]
            rows.append((last.value, [_linked(name), *percents, last.source]))
    head = ["method", "base", "new", "H", "from"]
    ordered = [cells for _, cells in sorted(rows, key=lambda row: -row[0])]
    return "\n".join([row_of(head), "|---" * len(head) + "|", *map(row_of, ordered)]) + "\n"
