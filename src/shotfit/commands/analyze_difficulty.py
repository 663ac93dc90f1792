"""`shotfit analyze difficulty`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shotfit.commands import completion, flags
from shotfit.commands.arguments import as_classes, as_methods, as_numbers, as_precision, one_source
from shotfit.commands.console import print_json, read_all, reporter, show_table, to
from shotfit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shotfit.analysis.difficulty import Difficulty
    from shotfit.analysis.gains import Gain

__all__ = ["difficulty"]


def difficulty(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FOLDER]...",
            help="Data sets, each looked at on its own: folders DIR/CLASS/IMAGE, manifests, or what else docs/data.md "
            "lists.",
            show_default=False,
        ),
    ] = None,
    tasks: flags.Tasks = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Names to measure the distance of the class names to: between commas, or @FILE with one a line.",
            show_default="no distance",
        ),
    ] = None,
    gains: Annotated[
        bool,
        typer.Option(
            "--gains", help="Fit methods too, and say what they gain over zero-shot on the test part.",
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
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw it: FILE.svg or FILE.png (extra `report`).", show_default="none"),
    ] = None,
    backbone: flags.Backbone = "mini",
    template: flags.Templates = None,
    class_names: flags.ClassNames = None,
    images: flags.ImagesDir = None,
    path_column: flags.PathColumn = None,
    label_column: flags.LabelColumn = None,
    group_column: flags.GroupColumn = None,
    read_as: flags.ReadAs = None,
    skip_broken: flags.SkipBroken = False,
    lenient: flags.Lenient = False,
    precision: flags.Precision = "auto",
    device: flags.Device = "auto",
    as_json: flags.Json = False,
) -> None:
    """How hard is a task for this backbone, and which side of it should a method change?

    \b
    rtd           accuracy of guessing over that of zero-shot: 1 at chance, small where names do it; never below
                  1 / classes
    separability  mean cosine of two images of a class over that of images of two classes
    alpha         APEX's coefficient for the second half of the classes after a fit to the first: mean (least to
                  largest); 1 trusts what was learned, 0 zero-shot
    names         distance of the class names to the nearest name of --reference

    Training images alone are looked at, for zero-shot too. --gains fits three methods and judges them on the test
    part, as `shotfit compare` does; it says first how long that takes. Then it tells whether APEX's claim holds on
    these tasks: the harder, the more is gained by visual prompts and text adapters.

    \b
    Examples:
      shotfit analyze difficulty photos/
      shotfit analyze difficulty photos/ flowers/ signs/ --reference @names.txt --plot hard.svg
      shotfit analyze difficulty photos/ flowers/ signs/ dishes/ --gains --methods taskres,clip_adapter,apex
    """
    say = to(sys.stderr if as_json else sys.stdout)
    draws, computing = as_numbers("--seeds", seeds), as_precision(precision)
    names = as_classes(reference, "--reference") if reference is not None else []
    from shotfit.analysis.difficulty import difficulty_of
    from shotfit.analysis.gains import claims_of, gains_of, roles_of, seconds_of
    from shotfit.analysis.plot_file import check_plot, write_plot
    from shotfit.checkpoints.weights import load_in
    from shotfit.data.listing import How
    from shotfit.data.reading import Reading
    from shotfit.data.tasklist import check_names
    from shotfit.engine.frozen import Frozen
    from shotfit.engine.store import open_store
    from shotfit.evaluation.compare import read_variants
    from shotfit.evaluation.printed import lasting
    from shotfit.progress import track

    roles = roles_of(as_methods(methods)) if gains else {}
    if gains:
        read_variants(list(roles.values()), [shots], draws, None, None, None)
    if plot is not None:
        check_plot(plot)
    way = How(images, path_column, label_column, group_column, read_as)
    of_one = {"--class-names": class_names, **way.flags()}
    places: list[Path | None] = [*folders] if folders else [None]
    sources = [one_source(place, tasks, of_one | {"--template": template}) for place in places]
    given = next((flag for flag, value in of_one.items() if value is not None), None)
    if len(sources) > 1 and given is not None:
        raise UsageError(f"{given} goes with one folder, and {len(sources)} were named.")
    frozen = Frozen(load_in(backbone, computing, device), open_store())
    how = Reading(way, class_names, template or (), shots if gains else None, skip_broken, lenient=lenient)
    read = [task for source in sources for task in read_all(source, how, say)]
    check_names(read)
    found = [difficulty_of(frozen, task, names) for task in track(read, "Looking at tasks")]
    show_table(_cells(found), sys.stderr if as_json else sys.stdout)
    for one in found:
        say(f"{one.task}: {advice_of(one)}")
    measured = list["Gain"]()
    claims = []
    if gains:
        say(f"{len(read) * len(roles) * len(draws):,} fits: {lasting(seconds_of(frozen, read, roles, shots, draws))}")
        measured = gains_of(
            read, roles, shots, draws, backbone=frozen.backbone, store=frozen.store, out=out, report=reporter()
        )
        claims = claims_of(found, measured)
        show_table(_gain_cells(found, measured), sys.stderr if as_json else sys.stdout)
        say(f"gain over zero-shot on the test part in points, {shots} shots; runs in {out}")
        for claim in claims:
            say(claim.sentence())
