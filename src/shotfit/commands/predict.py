"""`shotfit predict`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import as_classes, as_precision
from shotfit.commands.console import plural, to
from shotfit.errors import LEFT_OUT, UsageError, first_few

__all__ = ["predict"]


def predict(
    model: Annotated[Path, typer.Argument(help="The folder that `shotfit fit` wrote.")],
    images: Annotated[list[str], typer.Argument(help="Files, folders, patterns, or - for paths on standard input.")],
    form: Annotated[str, typer.Option("--format", help="table, csv or jsonl.")] = "table",
    top: Annotated[int, typer.Option(min=1, help="How many classes of each image.")] = 1,
    coverage: flags.Coverage = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="The coverage holds for each class.", show_default="off")
    ] = False,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Mark images that belong to no class.", show_default="off")
    ] = False,
    known_share: Annotated[
        float, typer.Option(help="The share of images of the classes that --unknown leaves unmarked.")
    ] = 0.95,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Other class names, between commas, or @FILE with one a line.", show_default="the fitted ones"
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Which of the fitted tasks; with --classes also a new one, of a method that needs no images of it.",
            show_default="the only one",
        ),
    ] = None,
    backbone: flags.ModelBackbone = None,
    trust_backbone: flags.TrustBackbone = False,
    method: flags.MethodFile = None,
    skip_broken: Annotated[
        bool,
        typer.Option(
            "--skip-broken", help="Leave images out that cannot be read, and exit with 0.", show_default="off"
        ),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first image that cannot be read.", show_default="off")
    ] = False,
    precision: flags.ModelPrecision = None,
    device: flags.Device = "auto",
) -> None:
    """Classify images with a fitted model.

    An image that cannot be read becomes a row with its error, and the exit code is 4. CSV has the columns image, rank,
    label, probability, set, unknown and error. Pictures in a folder that are of no format that is read are counted in a
    note.

    \b
    Examples:
      shotfit predict shotfit-model new.jpg --top 3
      shotfit predict shotfit-model photos/ "more/*.png" --format csv > labels.csv
      shotfit predict many new.jpg --task "garden birds" --classes robin,wren,tit
      shotfit predict shotfit-model photos/ --coverage 0.95 --unknown
      find . -name "*.jpg" | shotfit predict shotfit-model - --format jsonl
    """
    if form not in ("table", "csv", "jsonl"):
        raise UsageError(f"There is no format {form!r}: use table, csv or jsonl.")
    if skip_broken and strict:
        raise UsageError("--skip-broken goes on where an image cannot be read, and --strict stops there: give one.")
    computing = None if precision is None else as_precision(precision)
    from shotfit.evaluation.several import load_task
    from shotfit.fitting.asked import Asked
    from shotfit.fitting.model import Prediction
    from shotfit.fitting.predict import find_images, lines

    asked = Asked(coverage, per_class, unknown, known_share)
    found = find_images(images, sys.stdin)
    say = to(sys.stderr)
    if found.passed_over:
        some = first_few([str(path) for path in found.passed_over])
        say(f"note: passed over {plural(len(found.passed_over), 'entry', 'entries')} that cannot be read: {some}.")
    fitted = load_task(model, task, backbone, method, computing, device, trust_backbone=trust_backbone)
    names = [] if classes is None else as_classes(classes)
    if task is not None:
        fitted = fitted.for_task(task, names)
    elif names:
        fitted = fitted.for_classes(names)
    left_out = 0

    def tell(prediction: Prediction) -> None:
        nonlocal left_out
        left_out += 1
        say(f"not predicted: {' '.join(str(prediction.error).split())}")

    # CSV has names as they are, for programs; where people look at it, a terminal gets what it can show.
    say_row = to(sys.stdout) if form == "table" or sys.stdout.isatty() else partial(print, flush=True)
    broken: Literal["keep", "skip", "stop"] = "skip" if skip_broken else "stop" if strict else "keep"
    for line in lines(fitted, found.images, form, top, broken, tell, asked):  # type: ignore[arg-type]
        say_row(line)
    if left_out and not skip_broken:
        raise typer.Exit(LEFT_OUT)
