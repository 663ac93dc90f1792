"""`shotfit report`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import as_precision, first_given, one_source
from shotfit.commands.console import check_order, print_json, read_all, to
from shotfit.errors import UsageError

__all__ = ["report"]


def report(
    model: flags.Model,
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Labelled images: a folder DIR/CLASS/IMAGE, a CSV manifest, or what else docs/data.md lists. Without "
            "it, the report tells what the model's record knows.",
            show_default="the record alone",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write; an older one is replaced.")] = Path("report.html"),
    no_images: Annotated[
        bool, typer.Option("--no-images", help="Leave the thumbnails out; names stay.", show_default="off")
    ] = False,
    task: Annotated[
        str | None,
        typer.Option(help="Which task the folder is: one of the model's, or a new one.", show_default="the only one"),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All images instead of the test part.", show_default="off")
    ] = False,
    backbone: flags.ModelBackbone = None,
    trust_backbone: flags.TrustBackbone = False,
    method: flags.MethodFile = None,
    class_names: flags.ClassNames = None,
    images: flags.ImagesDir = None,
    path_column: flags.PathColumn = None,
    label_column: flags.LabelColumn = None,
    group_column: flags.GroupColumn = None,
    read_as: flags.ReadAs = None,
    frames: flags.Frames = None,
    fps: flags.Fps = None,
    skip_broken: flags.SkipBroken = False,
    lenient: flags.Lenient = False,
    precision: flags.ModelPrecision = None,
    device: flags.Device = "auto",
    as_json: flags.Json = False,
) -> None:
    """Write one HTML page about a model: how good it is, where it is wrong, which labels look wrong, how it was made.

    The page is a single file that you can mail or print: it runs no script and fetches nothing. It judges on the test
    part, as `shotfit evaluate` does, and says where the model has learned the images. It holds thumbnails of your
    images; --no-images leaves them out.

    \b
    Examples:
      shotfit report shotfit-model photos/
      shotfit report shotfit-model others/ --all --out others.html
      shotfit report shotfit-model                 what the model's record knows, without images
    """
    say = to(sys.stderr if as_json else sys.stdout)
    from shotfit.data.listing import How
    from shotfit.report.page import check_page
    from shotfit.report.writing import write_report

    check_page(out, model=model)
    way = How(images, path_column, label_column, group_column, read_as, None, frames, fps)
    own: dict[str, object] = {"--class-names": class_names, "--task": task, "--all": everything, **way.flags()}
    computing = None if precision is None else as_precision(precision)
    if folder is None:
        given = first_given(own)
        if given is not None:
            raise UsageError(f"{given} is about a folder of images, and none was named: name it after the model.")
        write_report(model, out=out)
        say(f"written: {out} (from the model's record alone; name a folder of images for the rest)")
    else:
        check_order("report", model, [str(folder)])
        source = one_source(folder, None, own)
        from shotfit.data.reading import Reading
        from shotfit.engine.store import open_store
        from shotfit.evaluation.evaluate import model_for
        from shotfit.evaluation.several import load_task

        opened = load_task(model, task, backbone, method, computing, device, open_store(), trust_backbone)
        heard = list[str]()
        way = replace(way.under(opened.rule, opened.record.get("padding")), several_labels=opened.several_labels)
        how = Reading(way, class_names, skip_broken=skip_broken, to_fit=False, lenient=lenient)
        (labelled,) = read_all(source, how, say, heard)
        if task is not None:
            labelled = replace(labelled, classes=replace(labelled.classes, task=task))
            opened = model_for(opened, labelled)
        write_report(opened, labelled, out=out, images=not no_images, everything=everything, heard=heard)
        say(f"written: {out} ({out.stat().st_size / 1e6:,.1f} MB)")
    if as_json:
        print_json({"model": str(model), "report": str(out), "bytes": out.stat().st_size})
