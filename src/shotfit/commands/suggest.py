"""`shotfit suggest`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import as_precision
from shotfit.commands.console import check_order, to
from shotfit.errors import LEFT_OUT, first_few, plural

__all__ = ["suggest"]


def suggest(
    model: flags.Model,
    inbox: Annotated[
        list[str],
        typer.Argument(
            metavar="INBOX",
            help="Unlabelled pictures: files, folders, archives (.tar, .zip), tables, patterns, or - for paths on "
            "standard input.",
        ),
    ],
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many pictures to name.")] = 20,
    form: flags.ListForm = None,
    out: flags.ListOut = None,
    task: Annotated[
        str | None, typer.Option(help="Which of the fitted tasks is meant.", show_default="the only one")
    ] = None,
    backbone: flags.ModelBackbone = None,
    trust_backbone: flags.TrustBackbone = False,
    method: flags.MethodFile = None,
    lenient: flags.Lenient = False,
    precision: flags.ModelPrecision = None,
    device: flags.Device = "auto",
    as_json: flags.Json = False,
) -> None:
    """Name the unlabelled pictures that are worth a label next: doubtful ones that are unlike each other.

    The first row is the most telling. Each names the picture, the class that the model takes it for and the one it
    might be as well, the share of the doubtful pictures that it stands for (score), and pictures of the inbox that the
    model takes for the same class and that look most like it.
    Pictures that the model has learned, copies and near doubles are passed over. A picture that cannot be read is told
    of, and the exit code is 4. Nothing is moved or changed.

    \b
    Examples:
      shotfit suggest shotfit-model inbox/ -n 20
      shotfit suggest shotfit-model inbox/ --format csv > next.csv
      shotfit suggest shotfit-model photos.zip "more/*.jpg" --out next.json
    """
    computing = None if precision is None else as_precision(precision)
    check_order("suggest", model, inbox)
    from shotfit.commands.listed import Listed, first_of, form_for, percent, put
    from shotfit.data.finding import Stream, lines_of
    from shotfit.engine.store import open_store
    from shotfit.evaluation.several import load_task
    from shotfit.evaluation.suggest import COLUMNS
    from shotfit.evaluation.suggest import suggest as choose

    chosen, say = form_for(form, as_json, out), to(sys.stderr)
    stream = Stream(inbox, lines_of(sys.stdin))
    fitted = load_task(model, task, backbone, method, computing, device, open_store(), trust_backbone)
    pictures = [picture for picture in stream if picture is not None]
    found = choose(fitted, pictures, count, task=task, lenient=lenient)
    cells = [["", "picture", "likely", "", "or", "score", "like it"]]
    for one in found:
        likely = [one.label, percent(one.probability), one.second or "-"]
        cells.append([str(one.rank), str(one.picture), *likely, percent(one.score), first_of(one.nearest)])
    plain = {"model": str(model)} | found.as_json()
    put(Listed([cells], COLUMNS, [one.row() for one in found], plain), chosen, out, say)
    for sentence in found.broken:
        say(f"not looked at: {' '.join(sentence.split())}")
    passed = [f"{found.learned:,} learned before"] * bool(found.learned)
    passed += [plural(found.copies, "double")] * bool(found.copies)
    told = f" (passed over: {', '.join(passed)})" if passed else ""
    say(f"{len(found):,} of {plural(found.images, 'picture')} to label next{told}")
    if stream.passed_over:
        some = first_few([str(path) for path in stream.passed_over])
        say(f"note: passed over {plural(len(stream.passed_over), 'entry', 'entries')} that cannot be read: {some}.")
    if found.broken:
        raise typer.Exit(LEFT_OUT)
