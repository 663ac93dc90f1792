"""`shotfit fit`: fit, check, save and evaluate."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shotfit.commands import completion, flags
from shotfit.commands.arguments import (
    as_bands,
    as_bytes,
    as_needs,
    as_options,
    as_precision,
    as_recipe,
    as_savings,
    as_validation,
    as_views,
    as_window,
    one_source,
)
from shotfit.commands.console import (
    print_json,
    read_all,
    say_accuracies,
    say_checked,
    say_labels,
    say_refit,
    say_support,
    say_terms,
    to,
)
from shotfit.commands.start import start
from shotfit.commands.torchrun import as_one
from shotfit.errors import UsageError

if TYPE_CHECKING:
    from shotfit.data.tasks import Task
    from shotfit.evaluation.several import Fitted
    from shotfit.fitting.model import Model
    from shotfit.methods.base import Method

__all__ = ["fit"]


@as_one
def fit(
    context: typer.Context,
    folder: flags.FolderOrTasks = None,
    tasks: flags.Tasks = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Class names between commas, or @FILE with one a line, in place of images: a zero-shot model.",
            show_default="those of the images",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="A method's name (`shotfit methods`), path/to/file.py:Class, or auto, which tries several.",
            autocompletion=completion.methods,
        ),
    ] = "auto",
    needs: Annotated[
        str | None,
        typer.Option(help="What auto looks for: new-classes, to predict other classes too.", show_default="none"),
    ] = None,
    shots: Annotated[int, typer.Option(min=0, help="Labelled images to draw of each class; 0 takes all.")] = 0,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Decides which images are drawn, and all randomness.")
    ] = 1,
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
    padding: flags.Padding = None,
    frames: flags.Frames = None,
    fps: flags.Fps = None,
    window: flags.Window = None,
    bands: flags.Bands = None,
    several_labels: flags.SeveralLabels = False,
    recipe: flags.Recipe = "auto",
    budget: Annotated[
        float | None,
        typer.Option(help="Seconds that choosing may take, in place of counted work.", show_default="counted work"),
    ] = None,
    epochs: flags.Epochs = None,
    steps: flags.Steps = None,
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
    again: Annotated[
        bool,
        typer.Option("--refit", help="Once it is evaluated, fit again to the held-out images too.", show_default="off"),
    ] = False,
    skip_broken: flags.SkipBroken = False,
    lenient: flags.Lenient = False,
    memory: flags.Memory = None,
    precision: flags.Precision = "auto",
    device: flags.Device = "auto",
    without: flags.Without = None,
    report: flags.Report = None,
    as_json: flags.Json = False,
) -> None:
    """Fit a method to all labelled images of a folder, save the model, and evaluate it on held-out images.

    The test part of the folder, or a fifth of each class where it has none, is not seen by the fit. A fit that the
    validation part or cross-validation finds worse than zero-shot is replaced by zero-shot (--keep keeps it).

    --refit fits the saved model to the held-out images too, after the accuracy on them is measured. --classes makes a
    zero-shot model of class names alone, without an image.

    --method auto, the default, tries a shortlist of methods on images that it holds out of the support, and saves the
    best of them or an ensemble, with random views of the images where they help.

    --recipe auto, the default, tries a few learning rates, lengths and options of the method on images that it holds
    out of the support, and says what it chose; what you give yourself (--lr, --epochs, --steps, --set) is not tried.
    --recipe paper is the published recipe.

    --several-labels is for pictures of several classes, or none (cat|dog in the label column): each class has a
    probability and a threshold of its own.

    A method of several tasks (softcpt, coop_mt) fits the tasks of a list at once, into one model; any other fits them
    one by one, into a folder OUT/TASK each. --method auto does that too, and saves one model by softcpt where that is
    better on the mean over the tasks.

    \b
    Examples:
      shotfit fit photos/ --out birds
      shotfit fit photos/ --shots 4 --out birds --report birds.html
      shotfit fit labels.csv --group-column patient --refit --out lesions
      shotfit fit labels.csv --several-labels --out scenes
      shotfit fit --classes "red kite,buzzard" --out raptors
      shotfit fit --tasks tasks.toml --method softcpt --shots 4 --out many
      shotfit fit photos/ --needs new-classes --out open
      shotfit fit clips/ --frames 16 --out actions      CLASS/CLIP.mp4
      shotfit fit scans/ --window -160,240 --out organs      DICOM, or pictures of 16 bits
      shotfit fit photos/ --method mma --recipe paper
      shotfit fit photos/ --method coop --set length=4 --steps 200
      torchrun --nproc-per-node 2 -m shotfit fit photos/ --method mma --steps 2000
      shotfit fit labels.csv --images photos/ --template "a sketch of a {}." --json

    \b
    Keys of --json, which is one object, the last line:
      method, model, predicts_with, shots, seed, seconds, selection, fell_back
      test_images, accuracy, zero_shot_accuracy, and of several tasks: tasks, models
      of --several-labels: mean_average_precision, micro_f1, macro_f1 in their place
      support_images, labelled_images, learned_images, refit: what it learned from
      recipe, choice: what was tried, what it scored, and what was chosen
      found: values of options that were to be found, such as start=auto of mma
      race: of --method auto, the accuracy and score of each method on held-out images
      training: steps, first and last loss, support images right before and after
      checked, half_of_the_labels: accuracy on held-out images, and with half the labels
      trust: how the probabilities are calibrated, and log loss before and after
    """
    say = to(sys.stderr if as_json else sys.stdout)
    settings, chosen, bound = as_options(options or []), as_views(views), as_bytes("--memory", memory)
    if classes is not None:
        if several_labels:
            raise UsageError("--several-labels needs images, from which each class has its threshold: leave it out.")
        start(context, classes, out, say)
        return
    judged, computing, savings = as_validation(validation), as_precision(precision), as_savings(without)
    how_trained = as_recipe(recipe)
    from shotfit.checkpoints.asked import with_asked
    from shotfit.checkpoints.weights import load_in
    from shotfit.data.listing import How
    from shotfit.data.reading import Reading
    from shotfit.engine.ranks import is_first
    from shotfit.evaluation.several import Fitted, fitted_in_turn, merged, overview, places, scored, table
    from shotfit.evaluation.several_labels import scored_labels
    from shotfit.fitting.fit import entrants_of
    from shotfit.fitting.fit import fit as fit_model
    from shotfit.fitting.folder import check_outside, check_target, how_to_open
    from shotfit.fitting.padding import padding_of
    from shotfit.fitting.race import AUTO, OF_SEVERAL
    from shotfit.fitting.refit import refit
    from shotfit.methods import in_file

    wanted, drawn = as_needs(needs), shots or None
    entered = entrants_of(
        method, settings, wanted, not no_check, drawn, seed, epochs, lr, chosen, steps, how_trained, budget
    )
    if report is not None:
        if tasks is not None:
            raise UsageError("--report is about one task: leave it out, and run `shotfit report` for each task.")
        from shotfit.report.page import check_page

        check_page(report, "--report", out)
    prototype = method if method == AUTO else entered[0]
    way = How(
        images, path_column, label_column, group_column, read_as, padding, frames, fps, as_window(window),
        as_bands(bands), several_labels,
    )  # fmt: skip
    own = {"--class-names": class_names, "--template": template, **way.flags()}
    source = one_source(folder, tasks, own)
    if folder is not None:
        check_target(out)
        check_outside(out, [folder])
    loaded = load_in(with_asked(backbone, text, architecture), computing, device)
    how = Reading(way, class_names, template or (), shots or None, skip_broken, lenient=lenient)
    heard = list[str]()
    found = read_all(source, how, say, heard)
    padding_of(found, padding)
    for task in found:
        say_support(task, shots, seed, say)
    groups = places(found, method, out, apart=tasks is not None)
    for place in groups:
        check_target(place)
        check_outside(place, [task.source for task in found])
    fixed: dict[str, Any] = {
        "shots": drawn, "seed": seed, "epochs": epochs, "steps": steps, "lr": lr, "views": chosen,
        "memory": bound, "savings": savings,
    }  # fmt: skip

    def fit_to(group: Sequence[Task], prototype: str | Method = prototype) -> Model:
        return fit_model(
            [task.sealed() for task in group], prototype, backbone=loaded, validation=judged, check=not no_check,
            keep=keep, recipe=how_trained, budget=budget, needs=wanted if prototype == AUTO else None, **fixed,
        )  # fmt: skip

    together = (out, partial(fit_to, prototype=OF_SEVERAL)) if method == AUTO and wanted is None else None
    results: list[Fitted] = []
    for place, model in fitted_in_turn(groups, fit_to, together):
        group = groups.get(place, found)
        if not is_first():  # of several processes: the first one saves and evaluates
            if again:
                refit(model, group, **fixed)
            continue
        model.save(place)
        say_checked(model, say)
        if model.several_labels:
            say_labels(model, scored_labels(model, group[0]), say)
            result = Fitted(model, place)
        else:
            result = scored(model, group, place)
            say_accuracies(result, say)
        if again:
            result = replace(result, model=refit(model, group, **fixed))
            say_refit(result.model, sum(len(task.test) for task in group), say)
        result.model.save(place)
        results.append(result)
        if report is not None:
            from shotfit.report.writing import write_report

            (task,) = group
            data = task if task.test else None  # else the page tells what the record knows
            written = write_report(model, data, out=report, heard=heard)
            say(f"written: {written}{', about the model before it was fitted again' if again else ''}")
        flags = "" if len(group) == 1 else " --task TASK"
        flags += how_to_open(model.record["backbone"]["name"])
        if in_file(model.record["found_at"]):
            flags += f" --method {shlex.quote(model.record['found_at'])}"
        say(f"saved {place} (predict: shotfit predict {shlex.quote(str(place))} IMAGES{flags})")
    say_terms(loaded.name, say)
    if len(results) > 1 and any(one.fitted.tasks for one in results):
        plain, fitted = merged([one.plain for one in results]), merged([one.fitted for one in results])
        for line in table({"zero-shot": plain, method: fitted}):
            say(line)
    if as_json and results:
        print_json({"method": method} | overview(results, out))
