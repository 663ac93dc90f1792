"""`shotfit doctor`."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import as_bands, as_window
from shotfit.commands.console import is_terminal, print_json, say_task, show_table, to
from shotfit.errors import ShotfitError, plural

__all__ = ["doctor"]


def doctor(
    folder: flags.Folder,
    backbone: flags.Backbone = "mini",
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
    several_labels: flags.SeveralLabels = False,
    shots: Annotated[int, typer.Option(min=0, help="Also report classes with fewer images; 0 asks for none.")] = 0,
    lenient: flags.Lenient = False,
    as_json: flags.Json = False,
) -> None:
    """Look for problems in a folder of images: everything that would stop a fit, and what is odd.

    The text tower of --backbone, which you mean to fit on, says which class names it reads alike.

    Exits with 3 if there are errors, with 0 if there are only warnings.

    \b
    Example:
      shotfit doctor photos/
    """
    say = to(sys.stderr if as_json else sys.stdout)
    from shotfit.data.doctor import Problem, examine
    from shotfit.data.listing import How
    from shotfit.data.readers import read_task
    from shotfit.engine.store import cache_folder

    way = How(
        images, path_column, label_column, group_column, read_as, None, frames, fps, as_window(window),
        as_bands(bands), several_labels,
    )  # fmt: skip
    task = read_task(folder, class_names=class_names, cache=cache_folder(), **vars(way))
    say_task(task, say)
    for note in task.notes:
        say(f"note: {note}")
    report = examine(task, shots or None, cache_folder(), lenient=lenient)
    if not report.errors:  # else it is not worth the wait for a backbone
        from shotfit.checkpoints.weights import load_in
        from shotfit.engine.frozen import Frozen
        from shotfit.engine.store import open_store
        from shotfit.fitting.names import shared_texts

        alike = shared_texts(Frozen(load_in(backbone), open_store()), [task.classes])
        report = replace(report, warnings=(*report.warnings, *(Problem("alike to the tower", one) for one in alike)))
    stream = sys.stderr if as_json else sys.stdout
    told = [("error", one) for one in report.errors] + [("warning", one) for one in report.warnings]
    if told and is_terminal(stream):
        show_table([["", "what", "found"], *([kind, one.kind, one.message] for kind, one in told)], stream, left=True)
    else:
        for kind, one in told:
            say(f"{kind}: {one.message}")
    found = f"{plural(len(report.errors), 'error')}, {plural(len(report.warnings), 'warning')}"
    say(f"{report.images:,} images of {plural(report.classes, 'class', 'classes')}: {found}")
    if as_json:
        print_json(report.to_json())
    if report.errors:
        raise typer.Exit(ShotfitError.exit_code)
