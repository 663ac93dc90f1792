"""`shotfit analyze difficulty`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shotfit.commands import completion, flags
from shotfit.commands.arguments import as_classes, as_methods, as_numbers, as_precision, as_views, sources_of
from shotfit.commands.console import print_json, read_all, reporter, show_table, to
from shotfit.commands.opened import open_frozen
from shotfit.errors import plural

if TYPE_CHECKING:
    from shotfit.analysis.difficulty import Difficulty
    from shotfit.analysis.gains import Gain

__all__ = ["difficulty"]


def difficulty(
    folders: flags.DataSets = None,
    tasks: flags.Tasks = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Names to measure the distance of the class names to: between commas, or @FILE with one a line.",
            show_default="none",
        ),
    ] = None,
    gains: Annotated[
        bool,
        typer.Option(
            "--gains",
            help="Fit three methods, and say what each gains over zero-shot on the test part.",
            show_default="off",
        ),
    ] = False,
    methods: Annotated[
        str,
        typer.Option(
            help="With --gains: a text-side, an image-side and a combined method, in this order.",
            autocompletion=completion.method_lists,
        ),
    ] = "coop,vpt,apex",
    shots: Annotated[int, typer.Option(min=1, help="With --gains: labelled images a class.")] = 16,
    seeds: Annotated[str, typer.Option(help="With --gains: seeds, separated by commas.")] = "1,2,3",
    out: Annotated[
        Path, typer.Option(help="With --gains: file of finished runs; what was interrupted goes on from it.")
    ] = Path("shotfit-difficulty.jsonl"),
    views: flags.Views = None,
    backbone: flags.Backbone = "mini",
    text: flags.Text = None,
    architecture: flags.Architecture = None,
    template: flags.Templates = None,
    plot: flags.Plot = None,
    skip_broken: flags.SkipBroken = False,
    precision: flags.Precision = "auto",
    device: flags.Device = "auto",
    as_json: flags.Json = False,
) -> None:
    """How hard are data sets for a backbone, and which side of it should a method change?

    The measures of APEX, of training images alone, also for zero-shot:

    \b
      rtd           accuracy of guessing over that of zero-shot: 1 at chance, never below 1 / classes
      separability  cosine of two images of a class over that of images of two classes, in the mean
      alpha         APEX's coefficient of the second half of the classes after a fit to the first, mean (least to
                    largest): 1 trusts what was learned, 0 trusts zero-shot
      names         distance of the class names to the nearest name of --reference

    --gains fits three methods as `shotfit compare` does, judges them on the test part, and says first how long that
    takes. Then it says whether APEX's claim holds on these sets: the harder, the more is gained by visual prompts and
    text adapters over text prompts.

    \b
    Examples:
      shotfit analyze difficulty photos/
      shotfit analyze difficulty photos/ flowers/ --reference @names.txt --plot hard.svg
      shotfit analyze difficulty photos/ flowers/ signs/ dishes/ --gains --methods taskres,clip_adapter,dualadapter

    \b
    Keys of --json:
      tasks: of each its measures and the advice
      gains: of each task and role (text, image, combined) the method, accuracies and the gain by seed
      claims: rank correlations with rtd, p by permutation, and whether that holds (null: too few sets)
    """
    say, stream = to(sys.stderr if as_json else sys.stdout), sys.stderr if as_json else sys.stdout
    draws, computing, chosen = as_numbers("--seeds", seeds), as_precision(precision), as_views(views)
    names = [] if reference is None else as_classes(reference, "--reference")
    sources = sources_of(folders, tasks, {"--template": template})
    if plot is not None:
        from shotfit.report.svg import check_plot

        check_plot(plot)
    from shotfit.analysis.difficulty import difficulty_of
    from shotfit.analysis.gains import advice_of, claims_of, gains_of, roles_of, seconds_of
    from shotfit.data.reading import Reading
    from shotfit.data.tasklist import check_names
    from shotfit.progress import lasting, track

    roles = roles_of(as_methods(methods), shots, draws, chosen) if gains else {}
    frozen = open_frozen(backbone, text, architecture, computing, device)
    how = Reading(templates=template or (), shots=shots if gains else None, skip_broken=skip_broken)
    read = [task for source in sources for task in read_all(source, how, say)]
    check_names(read)
    found = [difficulty_of(frozen, task, names) for task in track(read, "Looking at data sets")]
    show_table(_cells(found), stream)
    say("of training images; rtd: accuracy of guessing / of zero-shot; alpha: mean (least to largest)")
    measured: Sequence[Gain] = ()
    if gains:
        seconds = seconds_of(frozen, read, roles, shots, draws, chosen)
        say(f"{plural(len(read) * len(roles) * len(draws), 'fit')}: about {lasting(seconds)} of training")
        measured = gains_of(
            read, roles, shots, draws, backbone=frozen.backbone, views=chosen, store=frozen.store, out=out,
            report=reporter(),
        )  # fmt: skip
        show_table(_gain_cells(found, measured), stream)
        say(f"gain over zero-shot on the test part in points, {plural(shots, 'shot')}; runs in {out}")
    claims = claims_of(found, measured) if len(found) > 1 else []
    for claim in claims:
        say(claim.sentence())
    for one in found:
        say(f"{one.task}: {advice_of(one, measured)}")
    if plot is not None:
        from shotfit.analysis.plots import plot_difficulty

        plot_difficulty(found, measured, plot)
        say(f"written: {plot}")
    if as_json:
        print_json(
            {
                "backbone": frozen.backbone.name,
                "tasks": [one.as_json() | {"advice": advice_of(one, measured)} for one in found],
                "gains": [one.as_json() for one in measured],
                "claims": [vars(one) for one in claims],
            }
        )


def _cells(found: Sequence[Difficulty]) -> list[list[str]]:
    """A row for each task, the hardest first."""
    named = any(one.names is not None for one in found)
    head = ["data set", "classes", "images", "zero-shot", "rtd", "within", "between", "separability", "alpha"]
    rows = [head + ["names"] * named]
    for one in sorted(found, key=lambda one: -(one.rtd or float("inf"))):
        alpha = one.alpha
        ends = "-" if alpha is None else f"{alpha.mean:.2f} ({alpha.least:.2f} to {alpha.largest:.2f})"
        cells = [one.task, f"{one.classes:,}", f"{one.images:,}", f"{100 * one.zero_shot:.1f} %", _number(one.rtd)]
        cells += [_number(value, 3) for value in (one.within, one.between, one.separability)]
        rows.append([*cells, ends, *[_number(one.names, 2)] * named])
    return rows


def _gain_cells(found: Sequence[Difficulty], gains: Sequence[Gain]) -> list[list[str]]:
    """A row for each task, the hardest first: what each role gains."""
    roles = {gain.role: gain.method for gain in gains}
    of = {(gain.task, gain.role): gain for gain in gains}
    rows = [["data set", "rtd", "zero-shot", *(f"{role}: {method}" for role, method in roles.items())]]
    for one in sorted(found, key=lambda one: -(one.rtd or float("inf"))):
        own = [of[one.task, role] for role in roles]
        spreads = ["" if gain.spread is None else f" ± {100 * gain.spread:.1f}" for gain in own]
        gained = [f"{100 * gain.mean:+.1f}{spread}" for gain, spread in zip(own, spreads, strict=True)]
        rows.append([one.task, _number(one.rtd), f"{100 * own[0].zero_shot:.1f} %", *gained])
    return rows


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
