"""`shotfit analyze tasks`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import as_numbers, as_precision, sources_of
from shotfit.commands.console import Say, print_json, read_all, show_table, to
from shotfit.commands.opened import open_frozen
from shotfit.errors import UsageError, plural

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shotfit.analysis.tasks import Likeness

__all__ = ["tasks"]

NEAREST = 3  # tasks that a row of the table names
WORST = 10  # pairs with a loss that are named


def tasks(
    folders: flags.DataSets = None,
    tasks: flags.Tasks = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="A model of softcpt, fitted to these or other tasks: compare its contexts too.",
            show_default="names alone",
        ),
    ] = None,
    gains: Annotated[
        bool,
        typer.Option(
            "--gains",
            help="Fit on each task and judge on each other one (minutes; a forecast comes first).",
            show_default="off",
        ),
    ] = False,
    method: Annotated[str, typer.Option(help="With --gains: the method; one that predicts new classes.")] = "coop",
    shots: Annotated[int, typer.Option(min=1, help="With --gains: images a class to fit on.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="With --gains: steps of a fit that trains.")] = 200,
    seeds: Annotated[str, typer.Option(help="With --gains: seeds of the shots, separated by commas.")] = "1,2,3",
    images: Annotated[int, typer.Option(min=1, help="With --gains: images of a task to judge on, at most.")] = 200,
    backbone: flags.Backbone = "mini",
    text: flags.Text = None,
    architecture: flags.Architecture = None,
    plot: flags.Plot = None,
    skip_broken: flags.SkipBroken = False,
    precision: flags.Precision = "auto",
    device: flags.Device = "auto",
    as_json: flags.Json = False,
) -> None:
    """Ask how alike tasks are, which belong together, and which harm each other.

    Likeness by the names of the tasks, by the contexts that a fitted SoftCPT makes of them (--model), and by transfer
    (--gains): a method is fitted on one task and judged on another, on training images that no fit has seen. Tasks are
    put into groups, and a task list with these as parents is printed, for softcpt with hierarchy=true.
    docs/analyze.md says how each is defined.

    \b
    Examples:
      shotfit analyze tasks --tasks tasks.toml --plot tasks.svg
      shotfit analyze tasks --tasks tasks.toml --model many --json
      shotfit analyze tasks photos/ flowers/ signs/ --gains --seeds 1

    \b
    Keys of --json:
      backbone, tasks, classes
      by_name, by_context: cosines, a row a task; shared_context: what all contexts share
      gains: method, shots, seeds, zero_shot, mean, deviation, intervals, negative
      correlations: Spearman's, between names, contexts and gains
      grouped_by, groups; within_and_between: mean gain in a group, and between groups
      proposed: the task list with parents
    """
    say = to(sys.stderr if as_json else sys.stdout)
    draws, computing = as_numbers("--seeds", seeds), as_precision(precision)
    sources = sources_of(folders, tasks, {})
    if plot is not None:
        from shotfit.report.svg import check_plot

        check_plot(plot)
    from dataclasses import replace

    from shotfit.analysis.tasks import likenesses, transfer
    from shotfit.data.reading import Reading
    from shotfit.data.tasklist import check_names
    from shotfit.fitting.model import load

    if len(sources) < 3 and tasks is None:
        raise UsageError(
            "How alike tasks are is asked of three or more: name a task list with --tasks, or more folders."
        )
    frozen = open_frozen(backbone, text, architecture, computing, device)
    found = [task for source in sources for task in read_all(source, Reading(skip_broken=skip_broken), say)]
    check_names(found)
    fitted = None
    if model is not None:
        fitted = load(model, backbone=backbone, precision=None, device=device, store=frozen.store)
    seen = likenesses(frozen, found, fitted)
    if gains:
        told = to(sys.stderr)
        seen = replace(seen, gains=transfer(frozen, found, method, shots, draws, images, steps, told=told))
    proposed = _proposed(seen.groups(), tasks, [(task.name, task.source) for task in found])
    if as_json:
        print_json(seen.as_json() | {"proposed": proposed})
    else:
        show_table(_table(seen), sys.stdout, left=True)
        _say(seen, say)
        say("")
        for line in proposed.splitlines():
            print(line)
    if plot is not None:
        from shotfit.analysis.tasks_plot import plot_tasks

        plot_tasks(seen, plot)
        say(f"written: {plot}")


def _table(seen: Likeness) -> list[list[str]]:
    """A task a row, with those that are nearest."""
    head = ["task", "nearest by name"]
    head += ["nearest by context"] if seen.by_context is not None else []
    head += ["zero-shot", "own gain", "gains most from"] if seen.gains is not None else []
    rows = [head]
    for place, name in enumerate(seen.names):
        row = [name, _nearest(seen.by_name[place], seen.names, place, "{:.2f}")]
        if seen.by_context is not None:
            row.append(_nearest(seen.by_context[place], seen.names, place, "{:.3f}"))
        if seen.gains is not None:
            mean = 100 * seen.gains.mean
            row += [f"{100 * seen.gains.zero_shot[place]:.1f} %", f"{mean[place, place]:+.1f}"]
            row.append(_nearest(mean[:, place], seen.names, place, "{:+.1f}"))
        rows.append(row)
    return rows


def _nearest(values: NDArray[Any], names: Sequence[str], own: int, form: str) -> str:
    order = sorted((place for place in range(len(names)) if place != own), key=lambda place: -values[place])
    return ", ".join(f"{names[place]} ({form.format(values[place])})" for place in order[:NEAREST])


def _say(seen: Likeness, say: Say) -> None:
    """What follows from the matrices."""
    if seen.shared is not None:
        say(f"contexts: {100 * seen.shared:.1f} % of their squared length is their mean's, which all tasks share")
    for what, value in seen.findings().items():
        if value is not None:
            say(f"rank correlation of {what}, over pairs of tasks: {value:+.2f}")
    if seen.gains is not None:
        lost = seen.gains.negative()
        pairs = len(seen.names) * (len(seen.names) - 1)
        say(f"negative transfer: {len(lost)} of {plural(pairs, 'pair')} lose, with an interval below 0")
        for one, other, gain, (low, high) in lost[:WORST]:
            ends = f"{100 * low:+.1f} to {100 * high:+.1f}"
            say(f"  fitted on {one}, judged on {other}: {100 * gain:+.1f} points ({ends})")
        both = seen.within_and_between()
        if both is not None:
            by = "names" if seen.by_context is None else "contexts"
            holds = "as in the paper" if both[0] > both[1] else "unlike in the paper"
            say(f"{holds}: tasks that are alike help each other more: gain {100 * both[0]:+.1f} points within groups "
                f"by {by}, {100 * both[1]:+.1f} between them")  # fmt: skip
    groups = seen.groups()
    say(f"{plural(len(groups), 'group')} by {seen.basis}: {'; '.join(', '.join(group) for group in groups)}")


def _proposed(groups: Sequence[Sequence[str]], tasks: Path | None, places: Sequence[tuple[str, Path]]) -> str:
    """A task list in which tasks of a group have a parent: the list that was given, or one of folders."""
    parents = {name: " and ".join(group[:2]) for group in groups if len(group) > 1 for name in group}
    if tasks is None:
        lines = ["# parents: for softcpt with hierarchy=true"]
        for name, source in places:
            lines += ["", "[[task]]", f"name = {_quoted(name)}", f"data = {_quoted(str(source))}"]
            lines += [f"parent = {_quoted(parents[name])}"] if name in parents else []
        return "\n".join(lines) + "\n"
    from shotfit.data.toml import read_toml
    from shotfit.files import SETTINGS_BYTES, read_text

    entries = read_toml(tasks, "a task list")["task"]
    written, number = list[str](), -1
    for line in read_text(tasks, SETTINGS_BYTES, "a task list").splitlines():
        written.append(line)
        if re.fullmatch(r"\s*\[\[\s*task\s*\]\]\s*(#.*)?", line):
            number += 1
            name = places[number][0] if number < len(places) else ""
            if name in parents and "parent" not in entries[number]:
                written.append(f"parent = {_quoted(parents[name])}")
    return "\n".join(written) + "\n"


def _quoted(text: str) -> str:
    """As TOML has it, which knows no pairs of surrogates."""
    return json.dumps(text, ensure_ascii=False)
