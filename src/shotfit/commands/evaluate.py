"""`shotfit evaluate`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import as_precision, one_source
from shotfit.commands.console import print_json, read_all, to

__all__ = ["evaluate"]


def evaluate(
    model: Annotated[Path, typer.Argument(help="The folder that `shotfit fit` wrote.")],
    folder: flags.FolderOrTasks = None,
    tasks: flags.Tasks = None,
    task: Annotated[
        str | None,
        typer.Option(help="Which task the folder is: one of the model's, or a new one.", show_default="the only one"),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All images instead of the test part.", show_default="off")
    ] = False,
    coverage: flags.Coverage = None,
    coverage_per_class: Annotated[
        bool, typer.Option("--coverage-per-class", help="The coverage holds for each class.", show_default="off")
    ] = False,
    unknown_images: Annotated[
        Path | None,
        typer.Option(
            "--unknown-images",
            help="A folder of images that belong to none of the classes: are they told apart?",
            show_default="none",
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Where the model's backbone is now.", show_default="as recorded")
    ] = None,
    method: flags.MethodFile = None,
    class_names: flags.ClassNames = None,
    images: flags.ImagesDir = None,
    skip_broken: flags.SkipBroken = False,
    precision: flags.ModelPrecision = None,
    device: flags.Device = "auto",
    as_json: flags.Json = False,
) -> None:
    """Score a fitted model on labelled images: accuracies, F1, calibration and the most confused classes.

    The tasks of a list are scored one by one, each among its own classes; one that the model does not know is predicted
    from its name and class names, where the method can.

    \b
    Examples:
      shotfit evaluate shotfit-model photos/           the images that the fit held out
      shotfit evaluate shotfit-model others/ --all     every image of another folder
      shotfit evaluate many --tasks tasks.toml         each task, and the mean over tasks
      shotfit evaluate shotfit-model photos/ --coverage 0.9 --unknown-images holiday/
    """
    say = to(sys.stderr if as_json else sys.stdout)
    source = one_source(
        folder,
        tasks,
        {
            "--images": images,
            "--class-names": class_names,
            "--task": task,
            "--coverage": coverage,
            "--unknown-images": unknown_images,
        },
    )
    computing = None if precision is None else as_precision(precision)
    from shotfit.data.reading import Reading
    from shotfit.engine.store import Store, cache_folder
    from shotfit.evaluation.evaluate import evaluate as evaluate_model
    from shotfit.evaluation.evaluate import evaluate_tasks, labelled_for, model_for
    from shotfit.evaluation.several import load_task, merged, models_of, table
    from shotfit.evaluation.trust import evaluate_trust, items_of, trust_lines
    from shotfit.fitting.asked import Asked

    asked = Asked(coverage, coverage_per_class)

    store = Store(cache_folder() / "streams")
    if tasks is None:
        fitted = load_task(model, task, backbone, method, computing, device, store)
    found = read_all(source, Reading(images, class_names, skip_broken=skip_broken, to_fit=False), say)
    if tasks is not None:
        pairs = models_of(model, found, backbone, method, computing, device, store)
        several = merged([evaluate_tasks(fitted, group, everything) for fitted, group in pairs])
        for line in table({"accuracy": several}):
            say(line)
        if as_json:
            print_json({"model": str(model)} | several.as_json())
        return
    labelled = found[0]
    if task is not None:
        labelled = replace(labelled, classes=replace(labelled.classes, task=task))
        fitted = model_for(fitted, labelled)
    items = labelled_for(fitted.one_task().names, labelled, everything)
    scores = evaluate_model(fitted, items)
    trusted = evaluate_trust(fitted, items, asked, [] if unknown_images is None else items_of(unknown_images))
    say(f"{'images':22} {scores.images:,}")
    for name in ("accuracy", "mean_class_accuracy", "macro_f1", "calibration_error"):
        say(f"{name.replace('_', ' '):22} {100 * getattr(scores, name):.1f} %")
    for line in trust_lines(trusted):
        say(line)
    confused = scores.most_confused()
    if confused:
        say("most confused:")
    for true, predicted, count in confused:
        say(f"  {true} taken for {predicted}: {count}")
    if as_json:
        print_json({"model": str(model)} | scores.as_json() | {"trust": trusted.as_json()})
