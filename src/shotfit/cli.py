"""The command `shotfit`. Every command is a call of the library, with its result printed.

What a command prints for people goes to standard output; with --json that is one object for programs, and the rest goes
to standard error. Errors are one line on standard error. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shotfit.arguments import as_list, as_numbers, as_options, as_repeated, as_validation, as_views, one_source
from shotfit.console import (
    plural,
    print_json,
    read_all,
    read_one,
    reporter,
    say_accuracies,
    say_checked,
    say_task,
    to,
    warn,
)
from shotfit.errors import ShotfitError, UsageError
from shotfit.flags import (
    Backbone,
    ClassNames,
    Epochs,
    Folder,
    FolderOrTasks,
    ImagesDir,
    Json,
    Memory,
    MethodFile,
    Options,
    Rate,
    SkipBroken,
    Tasks,
    Templates,
    ValidationImages,
    Views,
)

if TYPE_CHECKING:
    from shotfit.several import Fitted

__all__ = ["app", "main"]

EXIT_CODES = """\b
Exit codes:
  0    success
  1    a bug of shotfit (--debug shows where)
  2    wrong usage: an unknown flag, method, option or backbone
  3    wrong input: images, manifests, checkpoints, models
  130  interrupted
"""

INTERRUPTED = 130

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
app = typer.Typer(
    name="shotfit",
    epilog=EXIT_CODES,
    context_settings=SETTINGS,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def every_command(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, help="Print the version and exit.", callback=lambda on: _version(on)),
    ] = False,
) -> None:
    """Fit a vision-language model to a folder of images from a few labelled examples.

    \b
    Examples:
      shotfit fit photos/                       fit to photos/CLASS/IMAGE, evaluate, save shotfit-model
      shotfit predict shotfit-model new.jpg     classify other images
      shotfit compare photos/ --methods zero_shot,tip_adapter_f --shots 1,4,16
    """


@app.command(epilog=EXIT_CODES)
def fit(
    folder: FolderOrTasks = None,
    tasks: Tasks = None,
    method: Annotated[
        str, typer.Option(help="A method's name (`shotfit methods`), or path/to/file.py:Class.")
    ] = "tip_adapter_f",
    shots: Annotated[int, typer.Option(min=0, help="Labelled images a class; 0 takes all.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Decides which images are drawn, and all randomness.")] = 1,
    backbone: Backbone = "mini",
    template: Templates = None,
    class_names: ClassNames = None,
    images: ImagesDir = None,
    epochs: Epochs = None,
    lr: Rate = None,
    views: Views = None,
    validation: ValidationImages = "few",
    options: Options = None,
    out: Annotated[Path, typer.Option(help="The model's folder; an older model there is replaced.")] = Path(
        "shotfit-model"
    ),
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep a fit that is found worse than zero-shot.", show_default="off")
    ] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Do not compare with zero-shot before saving.", show_default="off")
    ] = False,
    skip_broken: SkipBroken = False,
    memory: Memory = None,
    as_json: Json = False,
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
    settings, chosen, bound = as_options(options or []), as_views(views), _bytes(memory)
    judged = as_validation(validation)
    from shotfit.methods import find, in_file

    find(method).with_options(settings)
    source = one_source(folder, tasks, {"--images": images, "--class-names": class_names, "--template": template})
    if folder is not None:
        _check_out(out)
    from shotfit.data.reading import Reading

    found = read_all(source, Reading(images, class_names, template or (), shots or None, skip_broken), say)
    for task in found:
        if not task.test:
            raise ShotfitError(
                f"{task.name} has no image to hold out, and the fit is evaluated on such images: add a second image to "
                "a class or a test part, or fit without an evaluation from Python (shotfit.fit)."
            )
    from shotfit.fit import fit as fit_model
    from shotfit.several import merged, overview, places, scored, table

    groups = places(found, method, out, apart=tasks is not None)
    for place in groups:
        _check_out(place)
    results: list[Fitted] = []
    for place, group in groups.items():
        model = fit_model(
            [task.sealed() for task in group], method, shots=shots or None, seed=seed, backbone=backbone,
            options=settings, epochs=epochs, lr=lr, views=chosen, validation=judged, check=not no_check, keep=keep,
            memory=bound,
        )  # fmt: skip
        model.save(place)
        say_checked(model, say)
        results.append(scored(model, group, place))
        model.save(place)
        say_accuracies(results[-1], say)
        flags = "" if len(group) == 1 else " --task TASK"
        if in_file(model.record["found_at"]):
            flags += f" --method {shlex.quote(model.record['found_at'])}"
        say(f"saved {place} (predict: shotfit predict {shlex.quote(str(place))} IMAGES{flags})")
    if len(results) > 1:
        plain, fitted = merged([one.plain for one in results]), merged([one.fitted for one in results])
        for line in table({"zero-shot": plain, method: fitted}):
            say(line)
    if as_json:
        print_json({"method": method} | overview(results, out))


@app.command(epilog=EXIT_CODES)
def predict(
    model: Annotated[Path, typer.Argument(help="The folder that `shotfit fit` wrote.")],
    images: Annotated[list[str], typer.Argument(help="Files, folders, patterns, or - for paths on standard input.")],
    form: Annotated[str, typer.Option("--format", help="table, csv or jsonl.")] = "table",
    top: Annotated[int, typer.Option(min=1, help="How many classes of each image.")] = 1,
    classes: Annotated[
        str | None, typer.Option(help="Other class names, separated by commas.", show_default="the fitted ones")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Which of the model's tasks; with --classes also a new one, of a method that needs no images of it.",
            show_default="the only one",
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Where the model's backbone is now.", show_default="as recorded")
    ] = None,
    method: MethodFile = None,
) -> None:
    """Classify images with a fitted model.

    \b
    Examples:
      shotfit predict shotfit-model new.jpg --top 3
      shotfit predict shotfit-model photos/ "more/*.png" --format csv > labels.csv
      shotfit predict many new.jpg --task "garden birds" --classes robin,wren,tit
      find . -name "*.jpg" | shotfit predict shotfit-model - --format jsonl
    """
    if form not in ("table", "csv", "jsonl"):
        raise UsageError(f"There is no format {form!r}: use table, csv or jsonl.")
    from shotfit.model import load
    from shotfit.predict import find_images, lines

    found = find_images(images, sys.stdin)
    fitted = load(model, backbone, method=method)
    names = [] if classes is None else as_list("--classes", classes)
    if task is not None:
        fitted = fitted.for_task(task, names)
    elif names:
        fitted = fitted.for_classes(names)
    for line in lines(fitted, found, form, top):  # type: ignore[arg-type]
        print(line, flush=True)


@app.command(epilog=EXIT_CODES)
def evaluate(
    model: Annotated[Path, typer.Argument(help="The folder that `shotfit fit` wrote.")],
    folder: FolderOrTasks = None,
    tasks: Tasks = None,
    task: Annotated[
        str | None,
        typer.Option(help="Which task the folder is: one of the model's, or a new one.", show_default="the only one"),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All images instead of the test part.", show_default="off")
    ] = False,
    backbone: Annotated[
        str | None, typer.Option(help="Where the model's backbone is now.", show_default="as recorded")
    ] = None,
    method: MethodFile = None,
    class_names: ClassNames = None,
    images: ImagesDir = None,
    skip_broken: SkipBroken = False,
    as_json: Json = False,
) -> None:
    """Score a fitted model on labelled images: accuracies, F1, calibration and the most confused classes.

    The tasks of a list are scored one by one, each among its own classes; one that the model does not know is predicted
    from its name and class names, where the method can.

    \b
    Examples:
      shotfit evaluate shotfit-model photos/           the images that the fit held out
      shotfit evaluate shotfit-model others/ --all     every image of another folder
      shotfit evaluate many --tasks tasks.toml         each task, and the mean over tasks
    """
    say = to(sys.stderr if as_json else sys.stdout)
    source = one_source(folder, tasks, {"--images": images, "--class-names": class_names, "--task": task})
    from shotfit.data.reading import Reading
    from shotfit.evaluate import evaluate as evaluate_model
    from shotfit.evaluate import evaluate_tasks, labelled_for, model_for
    from shotfit.model import load
    from shotfit.several import merged, models_of, table
    from shotfit.store import Store, cache_folder

    found = read_all(source, Reading(images, class_names, skip_broken=skip_broken), say)
    store = Store(cache_folder() / "streams")
    if tasks is not None:
        pairs = models_of(model, found, backbone, store, method)
        several = merged([evaluate_tasks(fitted, group, everything) for fitted, group in pairs])
        for line in table({"accuracy": several}):
            say(line)
        if as_json:
            print_json({"model": str(model)} | several.as_json())
        return
    fitted = load(model, backbone, store, method)
    labelled = found[0]
    if task is not None:
        labelled = replace(labelled, classes=replace(labelled.classes, task=task))
        fitted = model_for(fitted, labelled)
    scores = evaluate_model(fitted, labelled_for(fitted.one_task().names, labelled, everything))
    say(f"{'images':22} {scores.images:,}")
    for name in ("accuracy", "mean_class_accuracy", "macro_f1", "calibration_error"):
        say(f"{name.replace('_', ' '):22} {100 * getattr(scores, name):.1f} %")
    confused = scores.most_confused()
    if confused:
        say("most confused:")
    for true, predicted, count in confused:
        say(f"  {true} taken for {predicted}: {count}")
    if as_json:
        print_json({"model": str(model)} | scores.as_json())


@app.command(epilog=EXIT_CODES)
def compare(
    folder: FolderOrTasks = None,
    tasks: Tasks = None,
    methods: Annotated[
        str, typer.Option(help="Methods, separated by commas; name+option=value makes a variant (also +lr=, +epochs=).")
    ] = "zero_shot,tip_adapter_f",
    shots: Annotated[str, typer.Option(help="Numbers of labelled images a class, separated by commas.")] = "16",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "1,2,3",
    protocol: Annotated[str, typer.Option(help="few-shot, base-to-new, transfer or domain-shift; see below.")] = (
        "few-shot"
    ),
    targets: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR...",
            help="Folders or manifests to evaluate on, all their images; after FOLDER.",
            show_default="none",
        ),
    ] = None,
    leave_out: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A task of --tasks to predict from its name, unfitted.", show_default="none"),
    ] = None,
    backbone: Backbone = "mini",
    template: Templates = None,
    class_names: ClassNames = None,
    images: ImagesDir = None,
    epochs: Epochs = None,
    lr: Rate = None,
    views: Views = None,
    validation: ValidationImages = "few",
    out: Annotated[
        Path, typer.Option(help="File of finished runs; a comparison that was interrupted goes on from it.")
    ] = Path("shotfit-compare.jsonl"),
    skip_broken: SkipBroken = False,
    memory: Memory = None,
    as_json: Json = False,
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
    A method that predicts no new classes has "-" where it is asked for them. The average is over the targets.
    With --tasks, each task is judged on its own test part; methods that fit several tasks at once do so, others
    fit one after the other, and the average counts every task once.

    \b
    Examples:
      shotfit compare photos/ --methods zero_shot,linear_probe,tip_adapter_f --shots 1,4,16 --seeds 1,2,3
      shotfit compare photos/ --protocol base-to-new --methods zero_shot,coop,coop+length=4+lr=0.01
      shotfit compare photos/ --protocol domain-shift --targets sketches/ cartoons/ --methods coop
      shotfit compare --tasks tasks.toml --leave-out flowers --methods coop,softcpt --shots 4
    """
    say = to(sys.stderr if as_json else sys.stdout)
    names, numbers, draws = as_list("--methods", methods), as_numbers("--shots", shots), as_numbers("--seeds", seeds)
    chosen, judged, bound = as_views(views), as_validation(validation), _bytes(memory)
    from shotfit.data.reading import Reading
    from shotfit.protocols import check_protocol
    from shotfit.variants import read_variant

    source = one_source(folder, tasks, {"--images": images, "--class-names": class_names, "--template": template})
    check_protocol(protocol, targets or [])
    for name in names:
        read_variant(name)
    found = read_all(source, Reading(images, class_names, template or (), max(numbers), skip_broken), say)
    data = found[0] if tasks is None else found
    others = [read_one(target, Reading(skip_broken=skip_broken), say) for target in targets or []]
    from shotfit.compare import compare as compare_methods
    from shotfit.compare import plan_of
    from shotfit.table import table

    plan = plan_of(data, protocol, others, leave_out)
    rows = compare_methods(
        data,
        names,
        numbers,
        draws,
        protocol=protocol,  # type: ignore[arg-type]  # checked above
        targets=others,
        leave_out=leave_out,
        backbone=backbone,
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
    for line in plan.notes:
        say(line)
    if as_json:
        print_json({"protocol": protocol, "rows": [row.as_json() for row in rows], "runs": str(out)})


@app.command(epilog=EXIT_CODES)
def methods(as_json: Json = False) -> None:
    """List the methods.

    \b
    Example:
      shotfit methods
    """
    from shotfit.show import overview

    rows = overview()
    if as_json:
        keys = ("method", "title", "new_classes", "source")
        print_json({"methods": [dict(zip(keys, row, strict=True)) for row in rows]})
        return
    head = ("method", "title", "new classes", "source")
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(4)]
    for row in [head, *rows]:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command(epilog=EXIT_CODES)
def show(
    method: Annotated[str, typer.Argument(help="A method's name, or path/to/file.py:Class.")],
    backbone: Backbone = "mini",
    options: Options = None,
) -> None:
    """Show a method: what it computes, its options, its recipe, and each call of a tower.

    \b
    Example:
      shotfit show coop
      shotfit show coop --set length=4
    """
    settings = as_options(options or [])
    from shotfit.show import describe

    for line in describe(method, backbone, settings):
        print(line)


@app.command(epilog=EXIT_CODES)
def doctor(
    folder: Folder,
    class_names: ClassNames = None,
    images: ImagesDir = None,
    shots: Annotated[int, typer.Option(min=0, help="Also report classes with fewer images; 0 asks for none.")] = 16,
    as_json: Json = False,
) -> None:
    """Look for problems in a folder of images: everything that would stop a fit, and what is odd.

    Exits with 3 if there are errors, with 0 if there are only warnings.

    \b
    Example:
      shotfit doctor photos/
    """
    say = to(sys.stderr if as_json else sys.stdout)
    from shotfit.data.doctor import examine
    from shotfit.data.readers import read_task
    from shotfit.store import cache_folder

    task = read_task(folder, images=images, class_names=class_names, cache=cache_folder())
    say_task(task, say)
    report = examine(task, shots or None, cache_folder())
    for kind, problems in (("error", report.errors), ("warning", report.warnings)):
        for problem in problems:
            say(f"{kind}: {problem.message}")
    found = f"{plural(len(report.errors), 'error')}, {plural(len(report.warnings), 'warning')}"
    say(f"{report.images:,} images of {plural(report.classes, 'class', 'classes')}: {found}")
    if as_json:
        print_json(report.to_json())
    if report.errors:
        raise typer.Exit(ShotfitError.exit_code)


@app.command(epilog=EXIT_CODES)
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete all of it.", show_default="off")] = False,
    as_json: Json = False,
) -> None:
    """Show where features and verdicts are kept and how large that is, or delete it.

    The folder is $SHOTFIT_CACHE, else shotfit in $XDG_CACHE_HOME or ~/.cache. Features take $SHOTFIT_CACHE_LIMIT at
    most, such as 500MB or 2GiB (default: 20GB); those used longest ago are deleted first.

    \b
    Examples:
      shotfit cache
      shotfit cache --clear
    """
    from shotfit.store import Store, cache_folder

    folder = cache_folder()
    store = Store(folder / "streams")
    entries = store.entries()
    size = sum(entry.bytes for entry in entries)
    if clear:
        store.clear()
        for path in folder.glob("files.sqlite*"):
            path.unlink(missing_ok=True)
    if as_json:
        kinds = [{**entry.kind, "rows": entry.rows, "bytes": entry.bytes} for entry in entries]
        print_json({"folder": str(folder), "bytes": size, "limit": store.limit, "cleared": clear, "kinds": kinds})
        return
    print(f"{folder}: {size / 1e6:,.1f} MB of at most {store.limit / 1e6:,.0f} MB{', deleted' if clear else ''}")
    for entry in entries:
        what = f"{entry.kind.get('tower')} tower, step {entry.kind.get('step', 'last')}"
        of = f"backbone {str(entry.kind.get('backbone'))[:12]}"
        print(f"  {what}, {of}: {entry.rows:,} rows, {entry.bytes / 1e6:,.1f} MB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code. Errors of the user are one line, tracebacks come with --debug."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    _print_any_name()
    with warnings.catch_warnings():
        warnings.showwarning = warn
        try:
            words = as_repeated("--targets", [word for word in given if word != "--debug"])
            code = app(words, prog_name="shotfit", standalone_mode=False)
            sys.stdout.flush()
            if code == INTERRUPTED:  # how the parser of arguments tells it
                return _failed("interrupted", INTERRUPTED)
            return code if isinstance(code, int) else 0
        except (BrokenPipeError, SystemExit):  # `shotfit predict ... | head`: the reader has enough
            sys.stdout = None  # else the interpreter complains when it flushes
            return 0
        except Exception as error:
            if debug:
                traceback.print_exc()
            if isinstance(error, typer.Abort):  # older versions of typer
                return _failed("interrupted", INTERRUPTED)
            if isinstance(error, ShotfitError):
                return _failed(f"error: {error}", error.exit_code)
            if hasattr(error, "format_message"):  # of the parser of arguments; older versions of typer have click's
                return _failed(
                    f"error: {error.format_message().strip().rstrip('.')}. See shotfit --help.", UsageError.exit_code
                )
            hint = "" if debug else " Run it again with --debug and report what it shows."
            return _failed(
                f"error: this is a bug of shotfit: {type(error).__name__}: {str(error).rstrip('.')}.{hint}", 1
            )


def _failed(sentence: str, code: int) -> int:
    print(" ".join(sentence.split()), file=sys.stderr)
    return code


def _print_any_name() -> None:
    """File names need not be text; print what cannot be encoded as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _version(asked: bool) -> None:
    if asked:
        import shotfit

        print(shotfit.__version__)
        raise typer.Exit


def _bytes(size: str | None) -> int | None:
    if size is None:
        return None
    from shotfit.store import parse_size

    return max(parse_size(size, "--memory"), 1)


def _check_out(out: Path) -> None:
    """Refuse before the fit what saving would refuse after it."""
    from shotfit.model import check_target

    check_target(out)
