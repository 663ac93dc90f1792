"""`shotfit evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import as_precision, first_given, one_source
from shotfit.commands.console import check_order, is_terminal, print_json, read_all, show_table, to
from shotfit.errors import UsageError, first_few

if TYPE_CHECKING:
    from shotfit.data.tasks import Task
    from shotfit.fitting.asked import Asked
    from shotfit.fitting.model import Model

__all__ = ["evaluate"]


def evaluate(
    model: flags.Model,
    others: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[MODEL] [FOLDER]",
            help="A second model to compare with, if any; then a folder DIR/CLASS/IMAGE, a CSV manifest, or what else "
            "docs/data.md lists.",
            show_default=False,
        ),
    ] = None,
    tasks: flags.Tasks = None,
    task: Annotated[
        str | None,
        typer.Option(help="Which task the folder is: one of the model's, or a new one.", show_default="the only one"),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All images instead of the test part.", show_default="off")
    ] = False,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Print every class, not the worst ten.", show_default="off")
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
    transductive: Annotated[
        bool,
        typer.Option(
            "--transductive",
            help="Score predictions in which the images help each other (StatA), as of predict --transductive.",
            show_default="off",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write a row for each image to this file (.csv, .jsonl, .parquet): label, prediction, whether it is "
            "right, and with --coverage the set, with --unknown-images the mark.",
            show_default="none",
        ),
    ] = None,
    backbone: flags.ModelBackbone = None,
    trust_backbone: flags.TrustBackbone = False,
    method: flags.MethodFile = None,
    class_names: flags.ClassNames = None,
    images: flags.ImagesDir = None,
    path_column: flags.PathColumn = None,
    label_column: flags.LabelColumn = None,
    group_column: flags.GroupColumn = None,
    read_as: flags.ReadAs = None,
    padding: flags.Padding = None,
    frames: flags.Frames = None,
    fps: flags.Fps = None,
    skip_broken: flags.SkipBroken = False,
    lenient: flags.Lenient = False,
    precision: flags.ModelPrecision = None,
    device: flags.Device = "auto",
    as_json: flags.Json = False,
) -> None:
    """Score a fitted model on labelled images: accuracies, F1, calibration, the most confused classes, each class.

    Two models in front of the folder are compared on the same images: both scores, the difference with its 95 %
    interval, and McNemar's exact test.

    The tasks of a list are scored one by one, each among its own classes; one that the model does not know is predicted
    from its name and class names, where the method can. A model of several labels a picture is scored by average
    precision, and by F1 at its thresholds. Where images are boxes of pictures, the pictures are judged too: how many
    have all their boxes right, and how many the right classes.

    With --transductive all images are predicted together: every output says so, and the accuracy of each image alone
    stands beside it.

    \b
    Examples:
      shotfit evaluate shotfit-model photos/           the images that the fit held out
      shotfit evaluate shotfit-model others/ --all     every image of another folder
      shotfit evaluate old-model new-model photos/     which of the two is better, and is it chance?
      shotfit evaluate many --tasks tasks.toml         each task, and the mean over tasks
      shotfit evaluate many --tasks tasks.toml --coverage 0.9
      shotfit evaluate shotfit-model photos/ --out rows.csv   which images are wrong?
      shotfit evaluate shotfit-model photos/ --coverage 0.9 --unknown-images holiday/
      shotfit evaluate shotfit-model photos/ --transductive   the images are predicted together
    """
    stream = sys.stderr if as_json else sys.stdout
    say = to(stream)
    *between, folder = [None] if not others else [None, *others] if len(others) == 1 else others
    models = [model, *(place for place in between if place is not None)]
    if len(models) > 2:
        raise UsageError(f"{len(models)} models were named; expected one or two, and the folder of images last.")
    of_one = first_given({
        "--out": out, "--per-class": per_class, "--coverage": coverage is not None, "--unknown-images": unknown_images,
    })  # fmt: skip
    if of_one is not None and len(models) == 2:
        raise UsageError(f"{of_one} is about one model: evaluate the two one after the other.")
    if transductive:
        _check_together({
            "--tasks": tasks, "two models": len(models) == 2, "--coverage": coverage is not None,
            "--unknown-images": unknown_images,
        })  # fmt: skip
    from shotfit.data.listing import How

    check_order("evaluate", model, [str(folder)] if folder is not None else [])
    way = How(images, path_column, label_column, group_column, read_as, padding, frames, fps)
    own: dict[str, object] = {"--class-names": class_names, "--task": task, **way.flags()}
    source = one_source(folder, tasks, own)
    if tasks is not None and per_class:
        raise UsageError("--per-class prints the classes of one task: leave it out, or read those of all in --json.")
    computing = None if precision is None else as_precision(precision)
    if coverage_per_class and coverage is None:
        raise UsageError("--coverage-per-class is about prediction sets: add --coverage, such as --coverage 0.9.")
    from shotfit.data.reading import Reading
    from shotfit.engine.store import open_store
    from shotfit.evaluation.evaluate import (
        answers,
        answers_together,
        labelled_for,
        model_for,
    )
    from shotfit.evaluation.learned import judged_on_learned
    from shotfit.evaluation.paired import compare_models
    from shotfit.evaluation.pictures import picture_lines, picture_scores
    from shotfit.evaluation.predictions import check_rows_file, write_answers
    from shotfit.evaluation.printed import class_cells, class_lines, paired_lines, score_lines
    from shotfit.evaluation.several import load_task, methods_for, models_of
    from shotfit.evaluation.several_labels import label_lines, labelled_answers, write_label_answers
    from shotfit.evaluation.trust import items_of, trust_lines, trusted
    from shotfit.fitting.addresses import called, local_folder
    from shotfit.fitting.asked import Asked, Verdict
    from shotfit.fitting.clips import check_alone
    from shotfit.fitting.learned import count_learned, said_of_learned
    from shotfit.fitting.padding import check_same_padding, padding_for

    asked = Asked(coverage, coverage_per_class)
    if out is not None:
        check_rows_file(out)

    store, folders = open_store(), [local_folder(place) for place in models]
    if tasks is None:
        opened = [
            load_task(place, task, backbone, own, computing, device, store, trust_backbone)
            for place, own in zip(folders, methods_for(folders, method), strict=True)
        ]
        way = way.under(opened[0].rule, padding_for(opened[0].record, padding) or padding)
        way = replace(way, several_labels=opened[0].several_labels)
    how = Reading(way, class_names, skip_broken=skip_broken, to_fit=False, lenient=lenient)
    found = read_all(source, how, say)
    if tasks is not None:
        pairs = models_of(folders[0], found, backbone, method, computing, device, store, trust_backbone)
        measured = _of_tasks(pairs, asked, unknown_images, skip_broken, everything, out, stream)
        if as_json:
            print_json({"model": called(folders[0])} | measured)
        return
    labelled = found[0]
    for fitted in opened:
        check_same_padding(fitted.record, labelled)
    if any(fitted.several_labels for fitted in opened):
        asks = {"a second model": len(models) > 1, "--task": task, "--coverage": coverage,
                "--unknown-images": unknown_images, "--transductive": transductive}  # fmt: skip
        other = first_given(asks)
        if other is not None:
            raise UsageError(f"{other} goes with models that give each picture one label: leave it out.")
        items = [labelled_for(opened[0].class_names, labelled, everything)]
        judged = labelled_answers(opened[0], items[0])
        for line in label_lines(judged.scores(), per_class):
            say(line)
        if out is not None:
            write_label_answers(out, items[0], judged)
            say(f"written: {out}")
        known = judged_on_learned([(opened[0], [labelled])], everything, say)
        if as_json:
            print_json({"model": called(folders[0])} | judged.scores().as_json() | known)
        return
    if task is not None:
        labelled = replace(labelled, classes=replace(labelled.classes, task=task))
        opened = [model_for(fitted, labelled) for fitted in opened]
    items = [labelled_for(fitted.one_task().names, labelled, everything) for fitted in opened]
    if len(models) == 2:
        paired = compare_models(opened[0], opened[1], items[0], items[1])
        short, full = [place.resolve().name for place in models], [called(place) for place in folders]
        names = short if len({*short}) == 2 else full
        for line in paired_lines(paired, names):
            say(line)
        learned = [count_learned(fitted, own) for fitted, own in zip(opened, items, strict=True)]
        for name, count in zip(names, learned, strict=True):
            if count:
                say(f"{name}: {said_of_learned(count, len(items[0]))}")
        if as_json:
            print_json({"models": full} | paired.as_json() | {"learned_images": learned})
        return
    clips = any(item.picture.clip for item in items[0])
    if clips:
        check_alone(replace(asked, unknown=unknown_images is not None))
    alone = answers(opened[0], items[0])
    said = answers_together(opened[0], items[0]) if transductive else alone
    scores = said.scores()
    lines = score_lines(scores, per_class)
    if is_terminal(stream):
        classes = class_lines(scores, per_class)
        for line in [*lines[: -len(classes)], classes[0]]:
            say(line)
        show_table(class_cells(scores, per_class), stream)
        lines = classes[-1:] if classes[-1].startswith("  and ") else []
    for line in lines:
        say(line)
    more: dict[str, object] = {}
    verdicts: list[Verdict] = []
    pictures = picture_scores(items[0], said)
    if pictures is not None:
        more["by_picture"] = pictures.as_json()
        for line in picture_lines(pictures):
            say(line)
    if clips:
        say(f"{len(items[0]):,} frames of clips were looked at; a clip counts once, by the mean of its frames")
    if transductive:
        more["accuracy_alone"] = float(alone.right.mean())
        say(f"each image alone: accuracy {100 * alone.right.mean():.1f} %")
    else:
        strangers = [] if unknown_images is None else items_of(unknown_images, skip_broken)
        trust, verdicts = trusted(opened[0], items[0], asked, strangers)
        for line in trust_lines(trust):
            say(line)
        more["trust"] = trust.as_json()
    if out is not None:
        write_answers(out, {labelled.name: said}, verdicts)
        say(f"written: {out}")
    known = judged_on_learned([(opened[0], [labelled])], everything, say)
    if as_json:
        print_json({"model": called(folders[0])} | scores.as_json() | more | known)


def _of_tasks(
    pairs: Sequence[tuple[Model, Sequence[Task]]],
    asked: Asked,
    unknown_images: Path | None,
    skip_broken: bool,
    everything: bool,
    out: Path | None,
    stream: TextIO,
) -> dict[str, object]:
    """Score each task of each model, print it, write the rows to `out`, and give what --json tells."""
    from shotfit.evaluation.evaluate import answers_of_tasks, scores_of_tasks
    from shotfit.evaluation.learned import judged_on_learned
    from shotfit.evaluation.predictions import write_answers
    from shotfit.evaluation.several import merged, table
    from shotfit.evaluation.trust import items_of, mean_trust, trust_cells, trust_of_tasks
    from shotfit.fitting.clips import check_alone

    say = to(stream)
    each = [(fitted, answers_of_tasks(fitted, tasks, everything)) for fitted, tasks in pairs]
    said = {name: one for _, own in each for name, one in own.items()}
    if any(item.picture.clip for one in said.values() for item in one.items):
        check_alone(replace(asked, unknown=unknown_images is not None))
    strangers = [] if unknown_images is None else items_of(unknown_images, skip_broken)
    trust = [one for fitted, tasks in pairs for one in trust_of_tasks(fitted, tasks, asked, strangers, everything)]
    refused: dict[str, list[str]] = {}
    for one in trust:
        if one.refusal:
            refused.setdefault(one.refusal, []).append(one.task)
    if all(one.refusal for one in trust):
        raise UsageError(trust[0].refusal)
    if out is not None:
        write_answers(out, said, [verdict for one in trust for verdict in one.verdicts], several=True)
        say(f"written: {out}")
    scores = merged([scores_of_tasks(fitted, own) for fitted, own in each])
    for line in table({"accuracy": scores}):
        say(line)
    show_table(trust_cells(trust), stream)
    for reason, names in refused.items():
        say(f"note: without sets and marks: {first_few(names)}. {reason}")
    found = scores.as_json()
    for one in trust:
        found["tasks"][one.task]["trust"] = one.scores.as_json()
    return found | {"trust": mean_trust(trust).as_json()} | judged_on_learned(pairs, everything, say)


def _check_together(given: Mapping[str, object]) -> None:
    """Refuse what --transductive does not go with. given: whether each was given, by how it is called."""
    other = first_given(given)
    if other is not None:
        raise UsageError(f"--transductive scores one model and task, and does not go with {other}: leave that out.")
