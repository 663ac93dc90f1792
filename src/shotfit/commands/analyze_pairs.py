"""`shotfit analyze pairs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import as_bands, as_numbers, as_precision, as_window
from shotfit.commands.console import as_typed, print_json, read_one, show_table, to
from shotfit.commands.opened import open_frozen

__all__ = ["pairs"]


def pairs(
    context: typer.Context,
    folder: flags.Folder,
    negative_template: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="What an image of a class is not, with {} for the class name; may be repeated.",
            show_default="made of the templates: a photo without {}.",
        ),
    ] = None,
    shots: Annotated[int, typer.Option(min=0, help="Training images of a class that are drawn; 0: all.")] = 16,
    seeds: Annotated[str, typer.Option(help="Seeds of the draws, separated by commas.")] = "1,2,3",
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write a page with the images of which the halves say different things (extra `report`).",
            show_default="none",
        ),
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="With --page: images of each kind, at most.")] = 24,
    no_images: Annotated[
        bool, typer.Option("--no-images", help="With --page: leave the thumbnails out.", show_default="off")
    ] = False,
    backbone: flags.Backbone = "mini",
    text: flags.Text = None,
    architecture: flags.Architecture = None,
    template: flags.Templates = None,
    class_names: flags.ClassNames = None,
    images: flags.ImagesDir = None,
    path_column: flags.PathColumn = None,
    label_column: flags.LabelColumn = None,
    group_column: flags.GroupColumn = None,
    read_as: flags.ReadAs = None,
    frames: flags.Frames = None,
    fps: flags.Fps = None,
    window: flags.Window = None,
    bands: flags.Bands = None,
    plot: flags.Plot = None,
    skip_broken: flags.SkipBroken = False,
    lenient: flags.Lenient = False,
    precision: flags.Precision = "auto",
    device: flags.Device = "auto",
    as_json: flags.Json = False,
) -> None:
    """What do negatives add: how alike are images to what they are not, and what does each half of DualAdapter decide?

    Training images are compared with the positive and the negative text of each class, with images of their class and
    of others, and with the negative cache (the mean of the other classes). Nothing is trained, and each image is
    compared with caches that were made without it. "own nearer" is the share of pairs in which the thing of the own
    class is nearer than that of another: 50 % says nothing; for negatives, less is better. Then each half classifies
    alone: the positive one by what is nearest, the negative one by what is farthest.

    \b
    Examples:
      shotfit analyze pairs photos/
      shotfit analyze pairs photos/ --negative-template "a photo of something other than {}."
      shotfit analyze pairs photos/ --page pairs.html --plot pairs.svg

    \b
    Keys of --json:
      pairs: by kind, of own and other: pairs, mean, deviation, quantiles, histogram; nearer
      halves: accuracy by what decides; overlaps: both halves on the images of each seed
      disagreements: images of the first seed of which the halves say different things, the surest first
    """
    say, stream = to(sys.stderr if as_json else sys.stdout), sys.stderr if as_json else sys.stdout
    draws, computing = as_numbers("--seeds", seeds), as_precision(precision)
    if plot is not None:
        from shotfit.report.svg import check_plot

        check_plot(plot)
    if page is not None:
        from shotfit.report.page import check_page

        check_page(page, "--page")
    from shotfit.analysis.comparing import pairs_of
    from shotfit.analysis.pairs import half_cells, kind_cells
    from shotfit.data.listing import How
    from shotfit.data.reading import Reading

    frozen = open_frozen(backbone, text, architecture, computing, device)
    way = How(
        images, path_column, label_column, group_column, read_as, None, frames, fps, as_window(window), as_bands(bands)
    )  # fmt: skip
    task = read_one(folder, Reading(way, class_names, template or (), None, skip_broken, lenient=lenient), say)
    found = pairs_of(frozen, task, shots, draws, negative_template or ())
    show_table(kind_cells(found), stream)
    say("mean cosines, and where 90 % of them lie; own nearer: percent of pairs, mean and deviation over the seeds")
    show_table(half_cells(found), stream)
    for overlap in found.overlaps:
        say(overlap.sentence())
    say(found.sentence())
    if plot is not None:
        from shotfit.analysis.plots import plot_pairs

        plot_pairs(found, plot)
        say(f"written: {plot}")
    if page is not None:
        from shotfit.analysis.pairs_page import write_pairs_page

        write_pairs_page(found, folder, page, count, not no_images, as_typed(context))
        say(f"written: {page} ({page.stat().st_size / 1e6:,.1f} MB)")
    if as_json:
        print_json(found.as_json())
