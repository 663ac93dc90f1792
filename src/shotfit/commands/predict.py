"""`shotfit predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import as_list, as_precision
from shotfit.errors import UsageError

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
        str | None, typer.Option(help="Other class names, separated by commas.", show_default="the fitted ones")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Which of the fitted tasks; with --classes also a new one, of a method that needs no images of it.",
            show_default="the only one",
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Where the model's backbone is now.", show_default="as recorded")
    ] = None,
    method: flags.MethodFile = None,
    precision: flags.ModelPrecision = None,
    device: flags.Device = "auto",
) -> None:
    """Classify images with a fitted model.

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
    computing = None if precision is None else as_precision(precision)
    from shotfit.evaluation.several import load_task
    from shotfit.fitting.asked import Asked
    from shotfit.fitting.predict import find_images, lines

    asked = Asked(coverage, per_class, unknown, known_share)
    found = find_images(images, sys.stdin)
    fitted = load_task(model, task, backbone, method, computing, device)
    names = [] if classes is None else as_list("--classes", classes)
    if task is not None:
        fitted = fitted.for_task(task, names)
    elif names:
        fitted = fitted.for_classes(names)
    for line in lines(fitted, found, form, top, asked):  # type: ignore[arg-type]
        print(line, flush=True)
