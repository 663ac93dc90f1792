"""A page for each method, made from its file: docs/method/NAME.md, which is made anew with the site and not kept.

    python docs/method_pages.py

Equations and departures are those of the file's docstring, options, recipe and grid those of its class. The cost is
what a dry run calls of the towers, the authors' figures those of assets/published.csv, ours those of the leaderboard.
`conf.py` has the pages written when the site is made, and leads links of methods to them.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from textwrap import dedent

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # the leaderboard lies in benchmarks/

from benchmarks.leaderboard_page import TITLES, cells_of, row_of  # noqa: E402
from benchmarks.standings import SETS, Standings, read  # noqa: E402
from shotfit.checkpoints.weights import load_in  # noqa: E402
from shotfit.commands.describe import (  # noqa: E402
    CLASSES,
    call_lines,
    dry_run,
    options_of,
    recipe_lines,
    shown,
    verified,
)
from shotfit.evaluation.published import Published, published_of  # noqa: E402
from shotfit.methods import METHODS, find  # noqa: E402
from shotfit.methods.base import Method  # noqa: E402
from shotfit.towers.backbone import Backbone  # noqa: E402

__all__ = ["FOLDER", "linked", "page", "write"]

FOLDER = HERE / "method"
BACKBONE = "mini"
ROWS = re.compile(r"^\| \[`(\w+)`\]\(#([\w-]+)\) \| (.*?) \| .*\|$", re.MULTILINE)  # of the table of methods.md
DIFFERS = "# differs: "


def write() -> None:
    """Write every page that is not there as it should be."""
    FOLDER.mkdir(exist_ok=True)
    found, overview = read(), (HERE / "methods.md").read_text(encoding="utf-8")
    backbone = load_in(BACKBONE, device="cpu")
    rows = {name: (anchor, learned) for name, anchor, learned in ROWS.findall(overview)}
    before, wanted = "", {}
    for name in METHODS:
        anchor, learned = rows[name]
        before = learned = re.sub("^the same", before, learned)
        wanted[f"{name}.md"] = page(find(name), anchor, learned, found, backbone)
    for file in FOLDER.glob("*.md"):
        if file.name not in wanted:
            file.unlink()
    for place, text in wanted.items():
        file = FOLDER / place
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def page(method: type[Method], anchor: str, learned: str, found: Standings, backbone: Backbone) -> str:
    """The page of a method. anchor: of its section of methods.md. learned: what is, in words."""
    new = "predicts class names that it was not fitted to" if method.accepts_new_classes else "knows its classes alone"
    several = "; fits several tasks at once" if method.several_tasks else ""
    checked = "" if verified(method) else "; not compared with its authors' program"
    module = inspect.getmodule(method)
    head, differs = _docstring(module.__doc__ or "" if module else "")
    lines = [
        f"# {method.title}", "",
        f"`shotfit fit DIR --method {method.name}` · {method.paper}", "",
        f"**Learned:** {learned}. **New classes:** {new}{several}{checked}.", "",
        *head,
    ]  # fmt: skip
    if differs:
        lines += ["## Where it departs from the authors' program", "", *(f"- {one}" for one in differs), ""]
    lines += [*_options(method), *_training(method), *_cost(method, backbone), *_ours(method, found)]
    lines += _published(method)
    return "\n".join([*lines, f"More: [methods.md](../methods.md#{anchor})."]) + "\n"


def _docstring(text: str) -> tuple[list[str], list[str]]:
    """A method's docstring as Markdown, and the departures that it lists."""
    text = re.sub(r"Published: see\s+docs/methods\.md#\w+\.", "", text)
    text = re.sub(r"docs/methods\.md#(\w+)", r"[methods.md](../methods.md#\1)", text)
    lines, differs = [], list[str]()
    for indented, block in groupby(text.strip().split("\n"), key=lambda line: line.startswith("    ") or not line):
        own = "\n".join(block).strip("\n")
        if indented:
            lines += ["", *(["```text", dedent(own), "```", ""] if own.strip() else [])]
            continue
        before, *found = re.split(rf"^{DIFFERS}", own, flags=re.MULTILINE)
        differs += [" ".join(one.split()) for one in found]
        lines += [before.rstrip()] if before.strip() else []
    return [*lines, ""], differs


def _options(method: type[Method]) -> list[str]:
    rows = options_of(method)
    if not rows:
        return ["It has no options.", ""]
    head = ["## Options", "", "With `--set name=value`:", "", "| option | default | |", "|---|---|---|"]
    return [*head, *(f"| `{name}` | `{default}` | {_cell(text)} |" for name, default, text in rows), ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _training(method: type[Method]) -> list[str]:
    """The paper's recipe, and what `auto` chooses from."""
    prototype = method()
    recipe = prototype.training_recipe()
    lines = ["## Training", "", "```text", *recipe_lines(recipe), "```", ""]
    if method.grid is None or recipe is None:
        return lines
    lines += ["What `--recipe auto` tries ([two recipes](../methods.md#two-recipes)):", ""]
    lines += ["| what | tried | alone | why |", "|---|---|---|---|"]
    for axis in method.grid.axes:
        tried = ", ".join(map(shown, axis.values))
        lines.append(f"| `{axis.name}` | {tried} | {shown(method.grid.robust[axis.name])} | {_cell(axis.reason)} |")
    return [*lines, ""]


def _cost(method: type[Method], backbone: Backbone) -> list[str]:
    """What runs of the towers, and what is computed once."""
    calls = call_lines(dry_run(method(), backbone))
    said = (
        f"What each part runs of the towers of `{BACKBONE}`, for {len(CLASSES)} classes of one image "
        f"(`shotfit show {method.name}`, with `--backbone` for another):"
    )
    return ["## Cost", "", said, "", "```text", *calls, "```", ""] if calls else []


def _ours(method: type[Method], found: Standings) -> list[str]:
    """What the leaderboard says: accuracy and cost."""
    rows = [
        [recipe, str(shots), *cells_of(own)]
        for shots in (1, 16)
        for recipe in ("paper", "auto")
        if (own := found.get((method.name, recipe, shots))) and (recipe == "paper" or method.grid is not None)
    ]
    if not rows:
        return []
    head = ["recipe", "shots", *(TITLES[data] for data in SETS), "seconds", "memory", "model"]
    said = "Accuracy in percent with `mini`, and what a fit costs on one core; [the leaderboard](../leaderboard.md)."
    return ["## Our figures", "", said, "", row_of(head), "|---" * len(head) + "|", *map(row_of, rows), ""]


def _published(method: type[Method]) -> list[str]:
    """The authors' figures, a table for each protocol, backbone and source."""
    figures = published_of(method.name)
    if not figures:
        return []
    lines = ["## Published", ""]
    tables: dict[tuple[str, str, str], list[Published]] = {}
    for one in figures:
        tables.setdefault((one.protocol, one.backbone, one.source), []).append(one)
    for (protocol, backbone, source), own in tables.items():
        lines += [f"{protocol}, {backbone}, in percent ({source}):", "", *_pivoted(own), ""]
    return lines


def _pivoted(own: Sequence[Published]) -> list[str]:
    """Data sets and variants by shots and columns."""
    columns = list(dict.fromkeys((one.shots, one.column) for one in own))
    several = len({one.method for one in own}) > 1
    heads = [column if shots is None else f"{column}, {shots} shots" for shots, column in columns]
    head = ["data set", *(["variant"] if several else []), *heads]
    rows: dict[tuple[str, str], dict[tuple[int | None, str], str]] = {}
    for one in own:
        rows.setdefault((one.data_set, one.method), {})[one.shots, one.column] = _figure(one)
    lines = [row_of(head), "|---" * len(head) + "|"]
    for (data, variant), values in rows.items():
        lines.append(row_of([data, *([f"`{variant}`"] if several else []), *(values.get(one, "") for one in columns)]))
    return lines


def _figure(one: Published) -> str:
    return f"{100 * one.value:.2f}" + ("" if one.spread is None else f" ± {100 * one.spread:.2f}")


def linked(source: str) -> str:
    """A page of the site's root whose links to methods lead to their pages.

    >>> linked("[`coop`](methods.md#coop), [`softcpt`](#softcpt), [`x`](#x)")
    '[`coop`](method/coop.md), [`softcpt`](method/softcpt.md), [`x`](#x)'
    """

    def led(link: re.Match[str]) -> str:
        return f"[`{link[1]}`](method/{link[1]}.md)" if link[1] in METHODS else link[0]

    return re.sub(r"\[`(\w+)`\]\((?:methods\.md)?#[\w-]+\)", led, source)


if __name__ == "__main__":
    write()
