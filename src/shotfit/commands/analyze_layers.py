"""`shotfit analyze layers`."""

from __future__ import annotations

import sys
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import as_numbers, as_precision, sources_of
from shotfit.commands.console import Say, print_json, read_all, show_table, to
from shotfit.commands.opened import open_frozen
from shotfit.errors import UsageError, plural

if TYPE_CHECKING:
    from shotfit.analysis.layers import Layers

__all__ = ["layers"]


def layers(
    folders: flags.DataSets = None,
    tasks: flags.Tasks = None,
    images: Annotated[int, typer.Option(min=2, help="Training images of a data set to look at, at most.")] = 512,
    seeds: Annotated[str, typer.Option(help="Seeds of the halves, separated by commas.")] = "1,2,3",
    backbone: flags.Backbone = "mini",
    text: flags.Text = None,
    architecture: flags.Architecture = None,
    plot: flags.Plot = None,
    skip_broken: flags.SkipBroken = False,
    precision: flags.Precision = "auto",
    device: flags.Device = "auto",
    as_json: flags.Json = False,
) -> None:
    """Look at each layer of both towers: which data set is a sample from, and how far apart are images and texts?

    The first figure of MMA, for two or more data sets: after each step of each tower, the share of samples whose data
    set is recognised (held-out halves of the training images; for texts, of the class names), and the gap of the two
    towers (1 - CKA). What follows is the block from which mma should adapt. docs/analyze.md says how each is defined.

    \b
    Examples:
      shotfit analyze layers --tasks tasks.toml --plot layers.svg
      shotfit analyze layers photos/ flowers/ --images 200 --json

    \b
    Keys of --json:
      backbone, data_sets, seeds, chance
      levels: from below; of image and of text: step, told (a seed), mean, deviation; and gap
      start: the block from which mma should adapt
      findings: what the paper reports, and whether it is so here
    """
    say = to(sys.stderr if as_json else sys.stdout)
    draws, computing = as_numbers("--seeds", seeds), as_precision(precision)
    sources = sources_of(folders, tasks, {})
    if plot is not None:
        from shotfit.report.svg import check_plot

        check_plot(plot)
    from shotfit.analysis.layers import layers as look
    from shotfit.data.reading import Reading
    from shotfit.data.tasklist import check_names

    if len(sources) == 1 and tasks is None:
        raise UsageError(f"{sources[0]} is one data set, and which of several a sample is from is asked: name more.")
    frozen = open_frozen(backbone, text, architecture, computing, device)
    found = [task for source in sources for task in read_all(source, Reading(skip_broken=skip_broken), say)]
    check_names(found)
    seen = look(frozen, found, seeds=draws, images=images)
    if as_json:
        print_json(seen.as_json())
    else:
        show_table(_table(seen), sys.stdout)
        _say(seen, say)
    if plot is not None:
        from shotfit.analysis.layers_plot import plot_layers

        plot_layers(seen, plot)
        say(f"written: {plot}")


def _table(seen: Layers) -> list[list[str]]:
    """A level a row, from below."""
    rows = [["image tower", "recognised", "text tower", "recognised", "gap"]]
    for level in seen.levels:
        gap = "" if level.gap is None else f"{level.gap:.3f}"
        rows.append([level.image, _share(level.image_told), level.text, _share(level.text_told), gap])
    return rows


def _share(told: tuple[float, ...]) -> str:
    from shotfit.analysis.layers import spread

    if not told:
        return ""
    deviation = spread(told)
    return f"{100 * fmean(told):.1f} %" + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def _say(seen: Layers, say: Say) -> None:
    """What the table is about, and what follows."""
    images = sum(count for _, count, _ in seen.samples)
    names = sum(count for _, _, count in seen.samples)
    say(
        f"recognised: share of held-out samples whose data set is told, of {len(seen.samples)} (guessing: "
        f"{100 * seen.chance:.1f} %); {images:,} training images, {plural(names, 'class name')}; mean and standard "
        f"deviation over {plural(len(seen.seeds), 'seed')}"
    )
    say("gap: 1 - CKA of the classes' mean images and of their names")
    say("what the paper reports, and what is so here:")
    for one in seen.findings():
        say(f"  {'yes' if one.holds else 'no':3}  {one.claim} ({one.here:.3f} against {one.against:.3f})")
    say(f"mma on this backbone: --set start={seen.start}")
