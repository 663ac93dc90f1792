"""`shotfit fit`: fit, check, save and evaluate."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import (
    as_bytes,
    as_options,
    as_precision,
    as_savings,
    as_validation,
    as_views,
    one_source,
)
from shotfit.commands.console import print_json, read_all, say_accuracies, say_checked, to
from shotfit.errors import ShotfitError

if TYPE_CHECKING:
    from shotfit.evaluation.several import Fitted

__all__ = ["fit"]


def fit(
    folder: flags.FolderOrTasks = None,
    tasks: flags.Tasks = None,
    method: Annotated[
        str, typer.Option(help="A method's name (`shotfit methods`), or path/to/file.py:Class.")
    ] = "tip_adapter_f",
    shots: Annotated[int, typer.Option(min=0, help="Labelled images a class; 0 takes all.")] = 16,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Decides which images are drawn, and all randomness.")
    ] = 1,
    backbone: flags.Backbone = "mini",
    template: flags.Templates = None,
    class_names: flags.ClassNames = None,
    images: flags.ImagesDir = None,
    epochs: flags.Epochs = None,
    lr: flags.Rate = None,
    views: flags.Views = None,
    validation: flags.ValidationImages = "few",
    options: flags.Options = None,
    out: Annotated[Path, typer.Option(help="The model's folder; an older model there is replaced.")] = Path(
        "shotfit-model"
    ),
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep a fit that is found worse than zero-shot.", show_default="off")
    ] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Do not compare with zero-shot before saving.", show_default="off")
    ] = False,
    skip_broken: flags.SkipBroken = False,
    memory: flags.Memory = None,
    precision: flags.Precision = "auto",
    device: flags.Device = "auto",
    without: flags.Without = None,
    as_json: flags.Json = False,
) -> None:
    """Fit a method to a folder of images, save the model, and evaluate it on held-out images.

    The test part of the folder, or a fifth of each class where it has none, is not seen by the fit. A fit that the
    validation part or cross-validation finds worse than zero-shot is replaced by zero-shot (--keep keeps it).

    A method of several tasks (softcpt, coop_mt) fits the tasks of a list at once, into one model; any other fits them
    one by one, into a folder OUT/TASK each.

    \b
    Examples:
      shotfit fit photos/ --shots 4 --out birds
      shotfit fit --tasks tasks.toml --method softcpt --shots 4 --out many
      shotfit fit photos/ --method coop --set length=4 --epochs 50
      shotfit fit labels.csv --images photos/ --template "a sketch of a {}." --json
    """
    say = to(sys.stderr if as_json else sys.stdout)
    settings, chosen, bound = as_options(options or []), as_views(views), as_bytes("--memory", memory)
    judged, computing, savings = as_validation(validation), as_precision(precision), as_savings(without)
    from shotfit.checkpoints.weights import load_in
    from shotfit.data.reading import Reading
    from shotfit.evaluation.several import merged, overview, places, scored, table
    from shotfit.fitting.fit import check_numbers
    from shotfit.fitting.fit import fit as fit_model
    from shotfit.fitting.folder import check_outside, check_target, how_to_open
    from shotfit.methods import find, in_file

    prototype = find(method).with_options(settings)
    check_numbers(prototype, shots, seed, epochs, lr, chosen)
    source = one_source(folder, tasks, {"--images": images, "--class-names": class_names, "--template": template})
    if folder is not None:
        check_target(out)
        check_outside(out, [folder])
    loaded = load_in(backbone, computing, device)
    found = read_all(source, Reading(images, class_names, template or (), shots or None, skip_broken), say)
    for task in found:
        if task.train and not task.test:
            raise ShotfitError(
                f"{task.name} has no image to hold out, and the fit is evaluated on such images: add a second image to "
                "a class or a test part, or fit without an evaluation from Python (shotfit.fit)."
            )
    groups = places(found, method, out, apart=tasks is not None)
    for place in groups:
        check_target(place)
        check_outside(place, [task.source for task in found])
    results: list[Fitted] = []
    for place, group in groups.items():
        model = fit_model(
            [task.sealed() for task in group], prototype, shots=shots or None, seed=seed, backbone=loaded,
            epochs=epochs, lr=lr, views=chosen, validation=judged, check=not no_check, keep=keep,
            memory=bound, savings=savings,
        )  # fmt: skip
        model.save(place)
        say_checked(model, say)
        results.append(scored(model, group, place))
        model.save(place)
        say_accuracies(results[-1], say)
        flags = "" if len(group) == 1 else " --task TASK"
        flags += how_to_open(model.record["backbone"]["name"])
        if in_file(model.record["found_at"]):
            flags += f" --method {shlex.quote(model.record['found_at'])}"
        say(f"saved {place} (predict: shotfit predict {shlex.quote(str(place))} IMAGES{flags})")
    if len(results) > 1:
        plain, fitted = merged([one.plain for one in results]), merged([one.fitted for one in results])
        for line in table({"zero-shot": plain, method: fitted}):
            say(line)
    if as_json:
        print_json({"method": method} | overview(results, out))
