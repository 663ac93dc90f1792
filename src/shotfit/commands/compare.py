"""`shotfit compare`: many methods, shots and seeds in one table."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from shotfit.commands import completion, flags
from shotfit.commands.arguments import (
    as_bands,
    as_bytes,
    as_methods,
    as_numbers,
    as_precision,
    as_recipe,
    as_validation,
    as_views,
    as_window,
    sources_of,
)
from shotfit.commands.console import (
    as_typed,
    is_terminal,
    print_json,
    read_all,
    read_one,
    reporter,
    show_table,
    to,
)
from shotfit.commands.engines import joined
from shotfit.errors import UsageError

__all__ = ["compare"]

COSTS = (
    "cost: time of a seed's fits, with encoding what no run before had encoded; the most memory in use meanwhile; the "
    "saved model's bytes; prediction from files"
)


def compare(
    context: typer.Context,
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FOLDER]...",
            help="A folder DIR/CLASS/IMAGE, a CSV manifest, or what else docs/data.md lists; several are data sets, "
            "each fitted on its own.",
            show_default=False,
        ),
    ] = None,
    tasks: flags.Tasks = None,
    methods: Annotated[
        str,
        typer.Option(
            help="Methods, separated by commas; name+option=value makes a variant (also +lr=, +steps=, +epochs=), "
            "name@paper the published one, auto the race of fit.",
            autocompletion=completion.method_lists,
        ),
    ] = "zero_shot,tip_adapter_f",
    shots: Annotated[str, typer.Option(help="Numbers of labelled images a class, separated by commas.")] = "16",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "1,2,3",
    protocol: Annotated[
        str,
        typer.Option(
            help="few-shot, base-to-new, transfer, domain-shift or open-set; see above.",
            autocompletion=completion.choices("few-shot", "base-to-new", "transfer", "domain-shift", "open-set"),
        ),
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
    recipe: flags.Recipe = "auto",
    epochs: flags.Epochs = None,
    lr: flags.Rate = None,
    views: flags.Views = None,
    validation: flags.ValidationImages = "few",
    out: Annotated[
        Path, typer.Option(help="File of finished runs; a comparison that was interrupted goes on from it.")
    ] = Path("shotfit-compare.jsonl"),
    out_table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the table too: FILE.csv with every figure, FILE.md or FILE.tex, with published figures beside "
            "ours.",
            show_default="none",
        ),
    ] = None,
    keep_predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keep what each run says, image by image, as CSV files in DIR.", show_default="none"
        ),
    ] = None,
    skip_broken: flags.SkipBroken = False,
    lenient: flags.Lenient = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Runs side by side, each in a process with its share of the cores; the table is the same.",
            show_default="1; with --engine ray one for each core",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="ray",
            help="ray carries the runs out on a Ray cluster (extra ray).",
            show_default="this machine",
            autocompletion=completion.choices("ray"),
        ),
    ] = None,
    address: flags.Address = None,
    memory: flags.Memory = None,
    precision: flags.Precision = "auto",
    device: flags.Device = "auto",
    report: flags.Report = None,
    as_json: flags.Json = False,
) -> None:
    """Compare methods on one data set, on several, or on several tasks: one table, mean and spread over the seeds.

    Methods are compared as they are: none falls back to zero-shot. No fit sees the test part or a target. Rows are
    tested against the best of their column. Below stand 95 % intervals, seconds of the fit, peak memory, bytes of the
    model and speed of prediction.

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
    Several folders, by few-shot or base-to-new, are data sets: each is fitted and judged on its own, and the mean
    counts each once.
    With --tasks, by few-shot or base-to-new, each task is judged on its own test part; methods that fit several
    tasks at once do so, others fit one after the other, and the average counts every task once.

    \b
    Examples:
      shotfit compare photos/ --methods zero_shot,linear_probe,tip_adapter_f --shots 1,4,16 --seeds 1,2,3
      shotfit compare photos/ flowers/ --methods zero_shot,linear_probe --out-table table.md --report runs.html
      shotfit compare photos/ --protocol base-to-new --methods zero_shot,coop,coop+length=4+lr=0.01
      shotfit compare photos/ --protocol domain-shift --targets sketches/ cartoons/ --methods coop
      shotfit compare photos/ --methods coop,mma --shots 1,4,16 --jobs 4
      shotfit compare photos/ --methods coop,mma --shots 1,4,16 --engine ray --address auto
      shotfit compare --tasks tasks.toml --leave-out flowers --methods coop,softcpt --shots 4
    """
    say = to(sys.stderr if as_json else sys.stdout)
    names, numbers, draws = as_methods(methods), as_numbers("--shots", shots), as_numbers("--seeds", seeds)
    chosen, judged, bound = as_views(views), as_validation(validation), as_bytes("--memory", memory)
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs is {jobs}; expected 1 or more runs side by side.")
    computing, how_trained = as_precision(precision), as_recipe(recipe)
    from shotfit.checkpoints.asked import with_asked
    from shotfit.checkpoints.weights import load_in
    from shotfit.data.listing import How
    from shotfit.data.reading import Reading
    from shotfit.evaluation.compare import compare as compare_methods
    from shotfit.evaluation.compare import plan_of, read_variants
    from shotfit.evaluation.protocols import check_protocol
    from shotfit.evaluation.published import caption
    from shotfit.evaluation.table import (
        MARKS,
        MOST,
        cells,
        cost_cells,
        interval_cells,
        interval_lines,
        marks,
        selections,
    )
    from shotfit.evaluation.written import check_table, write_table

    way = How(
        images, path_column, label_column, group_column, read_as, padding, frames, fps, as_window(window),
        as_bands(bands),
    )  # fmt: skip
    of_one = {"--class-names": class_names, **way.flags()}
    sources = sources_of(folders, tasks, of_one | {"--template": template})
    if len(sources) > 1:
        for flag, value in of_one.items():
            if value is not None:
                raise UsageError(f"{flag} goes with one folder, and {len(sources)} were named.")
    check_protocol(protocol, targets or [])
    if out_table is not None:
        check_table(out_table)
    if report is not None:
        from shotfit.report.page import check_page

        check_page(report, "--report")
    read_variants(names, numbers, draws, lr, epochs, chosen, how_trained)
    loaded = load_in(with_asked(backbone, text, architecture), computing, device)
    how = Reading(way, class_names, template or (), max(numbers), skip_broken, lenient=lenient)
    found = [task for source in sources for task in read_all(source, how, say)]
    apart = len(sources) > 1
    data = found[0] if tasks is None and not apart else found
    alike = How(frames=frames, fps=fps).under(way.rule, padding)
    other = Reading(alike, skip_broken=skip_broken, to_fit=False, lenient=lenient)
    others = [read_one(target, other, say) for target in targets or []]
    left_out = leave_out or []
    plan = plan_of(data, protocol, others, left_out, apart)
    with joined(engine, address) as cluster:
        rows = compare_methods(
            data,
            names,
            numbers,
            draws,
            protocol=protocol,  # type: ignore[arg-type]  # checked above
            targets=others,
            leave_out=left_out,
            apart=apart,
            backbone=loaded,
            epochs=epochs,
            recipe=how_trained,
            lr=lr,
            views=chosen,
            validation=judged,
            memory=bound,
            out=out,
            keep_predictions=keep_predictions,
            speed=True,
            jobs=jobs or (1 if cluster is None else cluster.cores),
            engine=None if cluster is None else cluster.runs(),
            report=reporter(),
        )
    over = f"mean and standard deviation over {len(draws)} seeds" if len(draws) > 1 else "one seed"
    title = f"accuracy in percent, {over}"
    notes = [*plan.notes, *selections(rows)]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() and not as_json else None
    stream = sys.stderr if as_json else sys.stdout
    for number, part in enumerate(cells(rows, plan.columns, width, names, numbers)):
        if number and not is_terminal(stream):
            say("")
        show_table(part, stream, best=MARKS["best"])
    for line in [f"{title}; runs in {out}", *marks(rows), *notes, ""]:
        say(line)
    intervals = interval_cells(rows)
    if intervals and len(intervals) <= MOST + 1:
        show_table(intervals, stream)
    else:
        for line in interval_lines(rows):
            say(line)
    say("")
    show_table(cost_cells(rows), stream)
    say(COSTS)
    if caption(rows):
        say(f"{caption(rows)}: with --json or --out-table")
    if out_table is not None:
        write_table(out_table, rows, plan.columns, [title, *notes, COSTS], names, numbers)
        say(f"table in {out_table}")
    if report is not None:
        from shotfit.report.comparison import write_comparison

        told = f"Comparison on {', '.join(task.name for task in found[:3])}{' ...' if len(found) > 3 else ''}"
        write_comparison(
            rows, out=report, columns=plan.columns, notes=[title, *plan.notes], title=told, command=as_typed(context),
        )  # fmt: skip
        say(f"written: {report}")
    if as_json:
        kept = {
            name: str(place)
            for name, place in (("table", out_table), ("predictions", keep_predictions), ("report", report))
            if place
        }
        print_json(
            {"protocol": protocol, "rows": [row.as_json() for row in rows], "runs": str(out)}
            | kept
            | {"columns": list(plan.columns), "notes": [title, *marks(rows), *notes, COSTS]}
        )
