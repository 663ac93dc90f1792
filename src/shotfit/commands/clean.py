"""`shotfit clean`."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import as_bands, as_precision, as_window
from shotfit.commands.console import say_task, to, warn
from shotfit.errors import LEFT_OUT, plural

if TYPE_CHECKING:
    from shotfit.evaluation.clean import Cleaned

__all__ = ["clean"]


def clean(
    folder: flags.Folder,
    count: Annotated[
        int, typer.Option("-n", "--count", min=0, help="How many labels, and groups of doubles, to name; 0: all.")
    ] = 20,
    form: flags.ListForm = None,
    out: flags.ListOut = None,
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
    lenient: flags.Lenient = False,
    precision: flags.Precision = "auto",
    device: flags.Device = "auto",
    as_json: flags.Json = False,
) -> None:
    """Name the labels that look wrong and the pictures that are there twice, the worst first.

    Each label is judged by the other images (confident learning, by cross-validation). A row names the picture, its
    label, the likely one, how probable that is of the two (score), and the pictures of the likely class that look most
    like it. Doubles are the same picture, or nearly so; worst are those under two labels, and in the test part and
    another. All parts are looked at. A picture that cannot be read is told of, and the exit code is 4. Nothing is
    moved or changed.

    \b
    Examples:
      shotfit clean photos/
      shotfit clean photos/ -n 100 --format csv > suspects.csv
      shotfit clean photos/ -n 0 --out suspects.json
    """
    computing = as_precision(precision)
    from shotfit.checkpoints.weights import load_in
    from shotfit.commands.listed import Listed, form_for, put
    from shotfit.data.listing import How
    from shotfit.data.reading import LEFT, Reading
    from shotfit.engine.frozen import Frozen
    from shotfit.engine.store import cache_folder, open_store
    from shotfit.evaluation.clean import COLUMNS, cleaned

    chosen = form_for(form, as_json, out)
    say = to(sys.stdout if chosen == "table" else sys.stderr)
    left_out = list[str]()

    def told(sentence: str) -> None:
        warn(sentence)
        if sentence.startswith(LEFT):
            left_out.append(sentence.removeprefix(LEFT))

    way = How(
        images, path_column, label_column, group_column, read_as, None, frames, fps, as_window(window), as_bands(bands)
    )  # fmt: skip
    reading = Reading(way, class_names, skip_broken=True, to_fit=False, lenient=lenient)
    task = reading.task(folder, cache_folder(), partial(say_task, say=say), told)
    frozen = Frozen(load_in(backbone, computing, device), open_store())
    found = cleaned(frozen, task, count or None, left_out=left_out)
    put(Listed(_tables(found), COLUMNS, found.rows(), {"source": str(folder)} | found.as_json()), chosen, out, say)
    say(f"{found.wrong:,} of {plural(found.images, 'label')} look wrong; {plural(found.groups, 'group')} of doubles")
    if found.alone:
        say(f"note: {plural(found.alone, 'image')} could not be judged: alone in the class, or all of it near doubles")
    if left_out:
        raise typer.Exit(LEFT_OUT)


def _tables(found: Cleaned) -> list[list[list[str]]]:
    """The suspects and the doubles, each with its head; names as people read them, from the working folder on."""
    from shotfit.commands.listed import first_of, percent
    from shotfit.data.images import shown

    suspects = [["", "picture", "label", "likely", "score", "like it"]]
    for one in found.suspects:
        names, like_it = [shown(one.picture), one.label, one.likely], [shown(picture) for picture, _ in one.nearest]
        suspects.append([str(one.rank), *names, percent(one.score), first_of(like_it)])
    doubles = [["doubles", "picture", "and", "labels"]]
    for two in found.doubles:
        others = [shown(picture) for picture in two.pictures[1:]]
        doubles.append([two.problem, shown(two.pictures[0]), first_of(others), ", ".join(dict.fromkeys(two.labels))])
    return [suspects, doubles]
