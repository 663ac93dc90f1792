"""`shotfit predict`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import as_classes, as_precision, as_share, first_given
from shotfit.commands.boxes import check_boxes, predict_into_boxes
from shotfit.commands.console import check_order, to
from shotfit.commands.engines import joined
from shotfit.commands.into_parts import is_parts, refuse, say_parts
from shotfit.commands.opened import open_export, open_fitted
from shotfit.errors import LEFT_OUT, UsageError, first_few, plural

if TYPE_CHECKING:
    from shotfit.data.finding import Stream
    from shotfit.fitting.model import Model
    from shotfit.fitting.predict import Predictor
    from shotfit.fitting.sorting import Sorter

__all__ = ["predict"]

MOST_CLASSES = 20  # that a summary names


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            help="The folder that `shotfit fit` or `shotfit export` wrote, or hf://owner/name[@revision] for one "
            "on the hub."
        ),
    ],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, folders, archives (.tar, .zip), tables (.parquet, .arrow), lists of paths (.csv, .jsonl, "
            ".parquet, .txt), patterns, addresses (s3://, https://), or - for paths on standard input.",
            show_default=False,
        ),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            "--boxes",
            metavar="FILE",
            help="Label the boxes of this file, in place of images, and write it again to --out: COCO, COCO results, "
            "VOC (XML or a folder), YOLO (data.yaml or a folder of labels), Label Studio.",
            show_default="none",
        ),
    ] = None,
    padding: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="With --boxes: what each box gets around it, a share of its sides such as 0.1.",
            show_default="as fitted",
        ),
    ] = None,
    read_as: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="With --boxes: coco, voc, yolo or label-studio.", show_default="found out"),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="table, csv, jsonl, parquet, label-studio (a JSON file to import) or fiftyone (a folder to import).",
            show_default="the ending of --out, else table",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the predictions to this file, which is there once all are known: .csv, .jsonl, .parquet, .json "
            "(Label Studio), .txt. A name without an ending is a folder of parts, for any number of pictures: run it "
            "again to go on.",
            show_default="standard output",
        ),
    ] = None,
    part: flags.PartOf = None,
    part_size: flags.PartSize = None,
    engine: flags.Engine = None,
    address: flags.Address = None,
    path_column: flags.PathColumn = None,
    images_dir: flags.ImagesDir = None,
    copy_to: Annotated[
        Path | None,
        typer.Option(
            "--copy-to",
            metavar="DIR",
            help="Copy each picture into DIR/CLASS/, and with --unknown into DIR/_unknown/. Nothing is moved or "
            "overwritten.",
            show_default="none",
        ),
    ] = None,
    link_to: Annotated[
        Path | None,
        typer.Option("--link-to", metavar="DIR", help="The same with links to the files.", show_default="none"),
    ] = None,
    frames: flags.Frames = None,
    fps: flags.Fps = None,
    each_frame: Annotated[
        bool,
        typer.Option("--each-frame", help="A row for each frame of a clip, not for the clip.", show_default="off"),
    ] = False,
    by_folder: Annotated[
        bool,
        typer.Option("--by-folder", help="The pictures of a folder are frames of one clip.", show_default="off"),
    ] = False,
    timeline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write what each frame of the clips says: .csv, .jsonl or .parquet; or draw it: .svg, .png.",
            show_default="none",
        ),
    ] = None,
    map_to: Annotated[
        Path | None,
        typer.Option(
            "--map",
            metavar="DIR",
            help="Draw where each of these classes is seen: DIR/PICTURE.CLASS.png, and .npy as an array.",
            show_default="none",
        ),
    ] = None,
    map_classes: Annotated[
        str | None,
        typer.Option(
            "--map-classes",
            metavar="CLASSES",
            help="The classes that --map draws, between commas.",
            show_default="the most probable",
        ),
    ] = None,
    points: Annotated[
        bool,
        typer.Option(
            "--points",
            help="Judge maps by the test part of a set with boxes: how often is the maximum in a box of the class?",
            show_default="off",
        ),
    ] = False,
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many classes of each image.",
            show_default="1; of several labels a picture, those above their thresholds",
        ),
    ] = None,
    coverage: flags.Coverage = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="The coverage holds for each class.", show_default="off")
    ] = False,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Mark images that belong to no class.", show_default="off")
    ] = False,
    known_share: Annotated[
        float | None,
        typer.Option(help="The share of images of the classes that --unknown leaves unmarked.", show_default="0.95"),
    ] = None,
    transductive: Annotated[
        bool,
        typer.Option(
            "--transductive",
            help="Let the images help each other (StatA): an answer then depends on the others. Every row says so.",
            show_default="off",
        ),
    ] = False,
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
    parent: Annotated[
        list[str] | None,
        typer.Option(
            help="What a new task is a kind of, for models fitted with hierarchy=true; again for what is above that.",
            show_default="none",
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
    lenient: flags.Lenient = False,
    precision: flags.ModelPrecision = None,
    device: flags.Device = "auto",
) -> None:
    """Classify images with a fitted model.

    Rows come as soon as they are known, also for paths on standard input. An image that cannot be read becomes a row
    with its error, and the exit code is 4. CSV and Parquet have the columns image, rank, label, probability, set,
    unknown and error; of a model of several labels a picture, a row for each image with image, label (cat|dog),
    probability and error. Pictures in a folder that are of no format that is read are counted in a note. Features are
    kept in the cache: a second prediction of the same pictures decodes none of them.

    With --boxes, each box of a file of annotations or detections gets the model's label and its score; all else in the
    file stays as it is. With --format, the boxes become rows instead.

    A clip has one row: the mean of its frames' probabilities. Windows and bands are those that the model was fitted
    with.

    \b
    Examples:
      shotfit predict shotfit-model new.jpg --top 3
      shotfit predict shotfit-model photos/ "more/*.png" --format csv > labels.csv
      shotfit predict shotfit-model photos.zip "shards/*.tar" --out labels.parquet
      shotfit predict shotfit-model archive/ --out labels       labels/part-00000.parquet, ...
      shotfit predict shotfit-model "s3://bucket/shards/*.tar" --out labels
      shotfit predict shotfit-model archive/ --out labels --engine ray
      shotfit predict shotfit-model inbox/ --copy-to sorted --unknown
      shotfit predict shotfit-model inbox/ --format label-studio --out tasks.json
      shotfit predict many new.jpg --task "garden birds" --classes robin,wren,tit
      shotfit predict shotfit-model photos/ --coverage 0.95 --unknown
      shotfit predict shotfit-model photos/ --transductive --format jsonl
      shotfit predict shotfit-model street.jpg --map maps --map-classes car,bus       where is it seen?
      shotfit predict shotfit-model voc/ --points                                     and is it there?
      find . -name "*.jpg" | shotfit predict shotfit-model - --format jsonl
      shotfit predict shotfit-model --boxes detections.json --images photos/ --out relabelled.json
      shotfit predict shotfit-model run.mp4 --frames 16 --timeline run.svg
      shotfit predict my-export new.jpg         an export: opened in a fraction of the time, without torch
    """
    if skip_broken and strict:
        raise UsageError("--skip-broken goes on where an image cannot be read, and --strict stops there: give one.")
    if known_share is not None and not unknown:
        raise UsageError("--known-share is the share of images that --unknown leaves unmarked: add --unknown.")
    computing = None if precision is None else as_precision(precision)
    of_clips: dict[str, object] = {
        "--frames": frames, "--fps": fps, "--each-frame": each_frame, "--by-folder": by_folder, "--timeline": timeline,
    }  # fmt: skip
    if boxes is not None:
        from shotfit.data.rows import form_of

        form = form_of(out) if form is None and out is not None else form
        check_boxes(out, form, images, {
            "--transductive": transductive, "--copy-to": copy_to, "--link-to": link_to, "--part": part,
            "--part-size": part_size, "--engine": engine, "--address": address, "--path-column": path_column,
            "--map": map_to, "--map-classes": map_classes, "--points": points, **of_clips,
            "an export": (model / "export.json").is_file(),
        }, rows=(top or 1) > 1 or coverage is not None or unknown)  # fmt: skip
        from shotfit.data.detections.reading import read_boxes
        from shotfit.fitting.asked import KNOWN_SHARE, Asked
        from shotfit.fitting.padding import padding_for
        from shotfit.fitting.predict import check_out, form_for
        from shotfit.fitting.relabelling import check_place

        if form is not None:
            chosen = form_for(form, out)
        listed = read_boxes(boxes, images_dir, read_as)
        if out is not None:
            check_place(out, listed) if form is None else check_out(out, chosen)
        opened, _ = open_fitted(model, task, classes, parent or [], backbone, method, computing, device, trust_backbone)
        asked = Asked(coverage, per_class, unknown, KNOWN_SHARE if known_share is None else known_share)
        around = padding_for(opened.record, padding)
        predict_into_boxes(opened, listed, around, out, form, top or 1, asked, strict, skip_broken, lenient)
        return
    if transductive:
        _check_together({
            "--timeline": timeline,
            "--coverage": coverage is not None, "--unknown": unknown, "--copy-to": copy_to, "--link-to": link_to,
            "--map": map_to, "--points": points,
            "a folder of parts": is_parts(out, form), "an export": (model / "export.json").is_file(),
            f"--format {form}": form in ("label-studio", "fiftyone"),
            f"--out {out}": out is not None and out.suffix.lower() == ".json",
        })  # fmt: skip
    if images is None:
        raise UsageError("No image was named: give files, folders, patterns, or paths on standard input with -.")
    if padding is not None or read_as is not None:
        raise UsageError(
            f"{'--read-as' if padding is None else '--padding'} goes with --boxes: add that, or leave it out."
        )
    check_order("predict", model, images)
    if by_folder and (copy_to or link_to):
        raise UsageError("--by-folder makes one picture of a folder; --copy-to and --link-to sort files: leave one.")
    if each_frame and (copy_to or link_to):
        raise UsageError("--each-frame looks at parts of a clip; --copy-to and --link-to sort whole files: leave one.")
    if copy_to is not None and link_to is not None:
        raise UsageError("--copy-to makes copies, and --link-to links: give one.")
    if map_to is not None and (copy_to is not None or link_to is not None):
        raise UsageError("--map draws maps, and --copy-to and --link-to sort pictures: do one after the other.")
    other = next((name for name, value in {
        "--out": out, "--copy-to": copy_to, "--link-to": link_to, "--map-classes": map_classes, "--unknown": unknown,
        "--coverage": coverage, "--top": top, **of_clips,
    }.items() if points and value), None)  # fmt: skip
    if other is not None:
        raise UsageError(
            f"--points prints how often maps point into boxes, and does not go with {other}: leave it out."
        )
    if map_classes is not None and map_to is None:
        raise UsageError("--map-classes are those that --map draws: add --map DIR.")
    from shotfit.data.clips import Sampling, framed
    from shotfit.data.finding import Stream, lines_of
    from shotfit.data.lists import Paths
    from shotfit.data.parts import SIZE
    from shotfit.fitting.asked import KNOWN_SHARE, Asked
    from shotfit.fitting.predict import (
        COLUMNS,
        SEVERAL,
        TOGETHER,
        Peeked,
        as_lines,
        check_out,
        form_for,
        predictions,
        write,
    )
    from shotfit.fitting.predictions import Prediction
    from shotfit.fitting.sorting import Sorter, check_apart
    from shotfit.fitting.timeline import DRAWN, Timelines, check_timeline

    asked = Asked(coverage, per_class, unknown, KNOWN_SHARE if known_share is None else known_share)
    sampling = Sampling(frames, fps)
    if each_frame and timeline is not None:
        raise UsageError("--each-frame gives every frame a row of its own, and --timeline keeps the frames of a clip.")
    if timeline is not None:
        check_timeline(timeline)
    paths, into_parts = Paths(images_dir, path_column), is_parts(out, form)
    broken: Literal["keep", "skip", "stop"] = "skip" if skip_broken else "stop" if strict else "keep"
    if out is not None and into_parts:
        share = as_share(part)
        exported = (model / "export.json").is_file()
        sorts = {"--copy-to": copy_to, "--link-to": link_to, "--map": map_to, "--points": points}
        refuse(out, {"an export": exported, **sorts} | of_clips, into_parts)
        from shotfit.fitting.parts import check_call, predict_parts

        check_call(out, images, share)
        with joined(engine, address) as cluster:
            opened, _ = open_fitted(
                model, task, classes, parent or [], backbone, method, computing, device, trust_backbone
            )
            done = predict_parts(
                opened, images, out, top=top, asked=asked, lenient=lenient, broken=broken, share=share,
                part_size=SIZE if part_size is None else part_size, listed=lines_of(sys.stdin), paths=paths,
                engine=None if cluster is None else cluster.engine(),
            )  # fmt: skip
        say_parts(done, "predicted", skip_broken)
        return
    given = {"--part": part, "--part-size": part_size, "--engine": engine, "--address": address}
    refuse(out, given, into_parts)
    chosen = form_for(form, out)
    if out is not None:
        check_out(out, chosen)
    sorted_to = copy_to or link_to
    written_to = sorted_to or map_to
    if written_to is not None:
        check_apart(written_to, images)
    stream = Stream(images, lines_of(sys.stdin), without=written_to, paths=paths, remote=True)
    say = to(sys.stderr)
    fitted: Predictor
    if (model / "export.json").is_file():
        fitted, names = open_export(model, {
            "--classes": classes, "--task": task, "--parent": parent, "--backbone": backbone,
            "--trust-backbone": trust_backbone, "--method": method, "--precision": precision,
            "--device": device not in ("auto", "cpu"), "--map": map_to, "--points": points,
        })  # fmt: skip
    else:
        fitted, names = open_fitted(
            model, task, classes, parent or [], backbone, method, computing, device, trust_backbone
        )
    if points:
        from shotfit.commands.pointing import say_points
        from shotfit.data.listing import How
        from shotfit.data.reading import Reading

        how = Reading(How(images_dir, path_column), to_fit=False, skip_broken=skip_broken, lenient=lenient)
        say_points(cast("Model", fitted), images, how, chosen, map_to)
        return
    columns = COLUMNS
    if getattr(fitted, "several_labels", False):
        if sorted_to is not None or chosen == "fiftyone":
            from shotfit.fitting.several_labels import refuse as of_one_label  # which needs torch

            raise of_one_label("Copies, links and --format fiftyone")
        columns = SEVERAL
    if transductive:
        from shotfit.fitting.transductive import Together

        fitted, columns = Together(cast("Model", fitted)), TOGETHER
        say("note: --transductive: the answer for each image depends on the others that are predicted with it")
    left_out = 0

    def tell(prediction: Prediction) -> None:
        nonlocal left_out
        left_out += 1
        say(f"not predicted: {' '.join(str(prediction.error).split())}")

    gathered = Timelines()
    peeked = Peeked(framed(stream, sampling, by_folder, each_frame))
    found = gathered.kept(predictions(fitted, peeked, top, broken, tell, asked, lenient))
    sorter = None if sorted_to is None else Sorter(sorted_to, names, link=link_to is not None)
    if sorter is not None:
        found = sorter.placed(found)
    if map_to is not None:
        from shotfit.fitting.mapped import Mapper

        mapped = [] if map_classes is None else as_classes(map_classes)
        mapper = Mapper(map_to, cast("Model", fitted), mapped, top, lenient)
        found = mapper.drawn(found)
    if out is not None:
        write(found, out, chosen, names, columns)
        say(f"written: {out}")
    else:
        # CSV has names as they are, for programs; where people look at it, a terminal gets what it can show.
        say_row = to(sys.stdout) if chosen == "table" or sys.stdout.isatty() else partial(print, flush=True)
        for line in as_lines(found, chosen, names, peeked.first, columns):
            say_row(line)
    if timeline is not None and timeline.suffix.lower() in DRAWN:
        from shotfit.report.timeline import MOST_CLIPS, draw_timelines

        draw_timelines(gathered.of, timeline)
        more = "" if len(gathered.of) <= MOST_CLIPS else f", the first {MOST_CLIPS} of {len(gathered.of):,} clips"
        say(f"written: {timeline}{more}")
    elif timeline is not None:
        gathered.write(timeline)
        say(f"written: {timeline}")
    if sorter is not None:
        say(_sorted(sorter))
    if map_to is not None:
        say(f"{plural(mapper.count, 'map')} drawn into {map_to}")
    if stream.passed_over:
        say(_passed_over(stream))
    for error in stream.damaged:
        say(f"note: {error}")
    if stream.damaged or (left_out and not skip_broken):
        raise typer.Exit(LEFT_OUT)


def _check_together(given: Mapping[str, object]) -> None:
    """Refuse what --transductive does not go with: what was measured on images alone, and what has no room to say so.

    given: whether each was given, by how it is called. Raises UsageError.
    """
    other = first_given(given)
    if other is not None:
        raise UsageError(
            f"--transductive does not go with {other}: use a fitted model, and --format table, csv, jsonl or parquet "
            "without sets, marks or sorting."
        )


def _passed_over(stream: Stream) -> str:
    some = first_few([str(path) for path in stream.passed_over])
    entries = plural(len(stream.passed_over), "entry", "entries")
    return f"note: passed over {entries} that cannot be read: {some}."


def _sorted(sorter: Sorter) -> str:
    """How many pictures lie where."""
    counts = [f"{name} {count:,}" for name, count in sorter.counts.most_common()]
    done = f"{'linked' if sorter.link else 'copied'} into {sorter.folder}"
    there = f", {sorter.there:,} of which were there before" if sorter.there else ""
    return f"{plural(sorter.counts.total(), 'picture')} {done}{there}: {first_few(counts, MOST_CLASSES)}"
