"""`shotfit compare`: many methods, shots and seeds in one table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import (
    as_bytes,
    as_methods,
    as_numbers,
    as_precision,
    as_validation,
    as_views,
    one_source,
)
from shotfit.commands.console import plural, print_json, read_all, read_one, reporter, to

__all__ = ["compare"]


def compare(
    folder: flags.FolderOrTasks = None,
    tasks: flags.Tasks = None,
    methods: Annotated[
        str, typer.Option(help="Methods, separated by commas; name+option=value makes a variant (also +lr=, +epochs=).")
    ] = "zero_shot,tip_adapter_f",
    shots: Annotated[str, typer.Option(help="Numbers of labelled images a class, separated by commas.")] = "16",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "1,2,3",
    protocol: Annotated[
        str, typer.Option(help="few-shot, base-to-new, transfer, domain-shift or open-set; see above.")
    ] = "few-shot",
    targets: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR...",
            help="Folders or manifests to evaluate on, all their images; after FOLDER.",
            show_default="none",
        ),
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A task of --tasks to predict from its name, unfitted; several times for several.",
            show_default="none",
        ),
    ] = None,
    backbone: flags.Backbone = "mini",
    template: flags.Templates = None,
    class_names: flags.ClassNames = None,
    images: flags.ImagesDir = None,
    epochs: flags.Epochs = None,
    lr: flags.Rate = None,
    views: flags.Views = None,
    validation: flags.ValidationImages = "few",
    out: Annotated[
        Path, typer.Option(help="File of finished runs; a comparison that was interrupted goes on from it.")
    ] = Path("shotfit-compare.jsonl"),
    skip_broken: flags.SkipBroken = False,
    memory: flags.Memory = None,
    precision: flags.Precision = "auto",
    device: flags.Device = "auto",
    as_json: flags.Json = False,
) -> None:
    """Compare methods on the images of a folder, or of several tasks: one table, mean and spread over the seeds.

    Methods are compared as they are: none falls back to zero-shot. No fit sees the test part or a target.

    \b
    Protocols:
      few-shot      fit on all classes, judge on the test part
      base-to-new   fit on the first half of the classes; judge base and new classes apart; H is the
                    harmonic mean of the two means
      transfer      fit on all classes; judge on the test part, and on the classes of each target
      domain-shift  the same for targets with the folder's classes or some of them
      open-set      fit on the first half of the classes; judge it on them, and how well images of the
                    others are told apart as unknown (AUROC, FPR at 95 %)
    A method that predicts no new classes has "-" where it is asked for them. The average is over the targets.
    With --tasks, by few-shot or base-to-new, each task is judged on its own test part; methods that fit several
    tasks at once do so, others fit one after the other, and the average counts every task once.

    \b
    Examples:
      shotfit compare photos/ --methods zero_shot,linear_probe,tip_adapter_f --shots 1,4,16 --seeds 1,2,3
      shotfit compare photos/ --protocol base-to-new --methods zero_shot,coop,coop+length=4+lr=0.01
      shotfit compare photos/ --protocol domain-shift --targets sketches/ cartoons/ --methods coop
      shotfit compare --tasks tasks.toml --leave-out flowers --methods coop,softcpt --shots 4
    """
    say = to(sys.stderr if as_json else sys.stdout)
    names, numbers, draws = as_methods(methods), as_numbers("--shots", shots), as_numbers("--seeds", seeds)
    chosen, judged, bound = as_views(views), as_validation(validation), as_bytes("--memory", memory)
    computing = as_precision(precision)
    from shotfit.checkpoints.weights import load_in
    from shotfit.data.reading import Reading
    from shotfit.evaluation.compare import compare as compare_methods
    from shotfit.evaluation.compare import plan_of, read_variants
    from shotfit.evaluation.protocols import check_protocol
    from shotfit.evaluation.table import selections, table

    source = one_source(folder, tasks, {"--images": images, "--class-names": class_names, "--template": template})
    check_protocol(protocol, targets or [])
    read_variants(names, numbers, draws, lr, epochs, chosen)
    loaded = load_in(backbone, computing, device)
    found = read_all(source, Reading(images, class_names, template or (), max(numbers), skip_broken), say)
    data = found[0] if tasks is None else found
    others = [read_one(target, Reading(skip_broken=skip_broken, to_fit=False), say) for target in targets or []]
    left_out = leave_out or []
    plan = plan_of(data, protocol, others, left_out)
    rows = compare_methods(
        data,
        names,
        numbers,
        draws,
        protocol=protocol,  # type: ignore[arg-type]  # checked above
        targets=others,
        leave_out=left_out,
        backbone=loaded,
        epochs=epochs,
        lr=lr,
        views=chosen,
        validation=judged,
        memory=bound,
        out=out,
        report=reporter(),
    )
    for line in table(rows, plan.columns):
        say(line)
    say(f"accuracy in percent, mean and standard deviation over {plural(len(draws), 'seed')}; runs in {out}")
    for line in [*plan.notes, *selections(rows)]:
        say(line)
    if as_json:
        print_json({"protocol": protocol, "rows": [row.as_json() for row in rows], "runs": str(out)})
