"""What commands read and say: tasks after the doctor has seen them, lines for people, JSON for programs."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from shotfit.errors import UsageError, first_few, plural
from shotfit.printing import as_json, cut, printable

if TYPE_CHECKING:
    import typer
    from rich.console import Console

    from shotfit.data.reading import Reading
    from shotfit.data.tasks import Task
    from shotfit.evaluation.several import Fitted
    from shotfit.evaluation.several_labels import LabelScores
    from shotfit.fitting.model import Model

__all__ = [
    "Say",
    "as_typed",
    "check_order",
    "is_terminal",
    "print_json",
    "read_all",
    "read_one",
    "reporter",
    "say_accuracies",
    "say_checked",
    "say_labels",
    "say_refit",
    "say_support",
    "say_task",
    "say_terms",
    "show_table",
    "to",
    "warn",
]

Say = Callable[[str], None]


def warn(message: Warning | str, *_: object, **__: object) -> None:
    to(sys.stderr)(f"warning: {' '.join(str(message).split())}")


def warner() -> Callable[..., None]:
    """What tells a command's warnings, each sentence once: Python forgets what it told where filters change."""
    told = set[str]()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if str(message) not in told:
            told.add(str(message))
            warn(message)

    return show


LONGEST = 2000  # characters of a line; names and values from outside have any length
COLORS = {"error: ": "red", "warning: ": "yellow", "note: ": "cyan"}  # of how a line begins, on a terminal


def to(stream: TextIO) -> Say:
    """Print lines to a stream, for people: whatever stands in them, a terminal shows it and does nothing else.

    A line of more than LONGEST characters is shown by its beginning and end.

    On a terminal, "error:", "warning:" and "note:" have colors, unless NO_COLOR is set.
    """

    def say(line: str) -> None:
        text = cut(printable(line), LONGEST)
        begin = next((begin for begin in COLORS if text.startswith(begin)), None)
        if begin is not None and is_terminal(stream):
            from rich.text import Text

            styled = Text(text)
            styled.stylize(COLORS[begin], 0, len(begin) - 1)
            _terminal(stream).print(styled, soft_wrap=True)
            stream.flush()
        else:
            print(text, file=stream, flush=True)

    return say


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody looks at what is printed there, on a terminal that can do more than print."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def show_table(rows: Sequence[Sequence[str]], stream: TextIO, best: str = "", left: bool = False) -> None:
    """Print cells in columns, the first row as the head: ruled on a terminal, as wide as that; aligned elsewhere.

    best: how a cell ends that is the best of its column. left: all columns hold texts, and begin at the left.
    """
    from shotfit.evaluation.printed import aligned

    if not is_terminal(stream):
        for line in aligned(rows, left=left):
            to(stream)(line)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for number, title in enumerate(rows[0]):
        table.add_column(Text(printable(title)), justify="right" if number and not left else "left", overflow="fold")
    for row in rows[1:]:
        table.add_row(*(Text(printable(cell), "green" if best and cell.endswith(best) else "") for cell in row))
    _terminal(stream).print(table)
    stream.flush()


def _terminal(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False)


def print_json(value: dict[str, Any]) -> None:
    print(as_json(value), flush=True)


def as_typed(context: typer.Context) -> str:
    """The command that is running, without what is as by default. Of an absolute path stands the name alone."""
    words, at = [context.info_name or ""], context.parent
    while at is not None and at.parent is not None:  # the groups that it is in
        words, at = [at.info_name or "", *words], at.parent
    words = ["shotfit", *words]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if value in (None, False, [], ()) or value == parameter.get_default(context):
            continue
        flag = [] if parameter.param_type_name == "argument" else [parameter.opts[0]]
        values = value if isinstance(value, (list, tuple)) else [value]
        for one in values:
            shown = one.name if isinstance(one, Path) and one.is_absolute() else str(one)
            words += flag if value is True else [*flag, shown]
    return " ".join(map(shlex.quote, words))


def read_one(source: Path, how: Reading, say: Say) -> Task:
    """The task of a folder or manifest, after the doctor has seen it."""
    from shotfit.engine.store import cache_folder

    return how.task(source, cache_folder(), partial(say_task, say=say), warn)


def read_all(source: Path, how: Reading, say: Say, heard: list[str] | None = None) -> list[Task]:
    """The tasks of a list (.toml), or the one of a folder or manifest, after the doctor has seen them.

    heard: what the doctor warns of goes there, too.
    """
    from shotfit.engine.store import cache_folder

    def warned(sentence: str) -> None:
        if heard is not None:
            heard.append(sentence)
        warn(sentence)

    return how.tasks(source, cache_folder(), partial(say_task, say=say), warned)


def say_task(task: Task, say: Say) -> None:
    counts = f"{len(task.train):,} train, {len(task.val):,} validation and {len(task.test):,} test images"
    say(f"{task.name}: {plural(len(task.classes.names), 'class', 'classes')}, {counts}, read as {task.reader}")
    say(f"test part: {task.test_origin}")
    if task.classes.several_labels:
        say(labels_line(task))
    if task.ignored:
        from shotfit.data.images import shown

        some = first_few([path.name for path in task.ignored], 5)
        lost = task.passed_over()
        among = f"; {plural(len(lost), 'picture')} among them ({first_few([shown(path) for path in lost])})"
        say(f"ignored: {plural(len(task.ignored), 'entry', 'entries')} ({some}){among if lost else ''}")


def labels_line(task: Task) -> str:
    """Of a task of several labels a picture, how many a picture has, and the pictures of each class."""
    items = [*task.train, *task.val, *task.test]
    counts = Counter(label for item in items for label in item.labels)
    named = [f"{task.classes.names[label]} {count:,}" for label, count in counts.most_common()]
    without = plural(sum(not item.labels for item in items), "picture")
    return f"labels: {counts.total() / max(len(items), 1):.1f} a picture, {without} without any; {first_few(named, 12)}"


def reporter() -> Callable[[Any], None]:
    """Tells each run of a comparison on standard error, and once what is refused."""
    told = set[str]()

    def report(run: Any) -> None:
        found = " (found in the file)" if run["resumed"] else f" in {run['seconds']:.1f} s"
        what = f"{run['method']}, {plural(run['shots'], 'shot')}, seed {run['seed']}"
        scores = ", ".join(
            f"{column} {100 * score['accuracy']:.1f} %" for column, score in run["scores"].items() if score is not None
        )
        beside = f"; {run['under_way']} under way" if run.get("under_way") else ""
        to(sys.stderr)(f"{run['number']} of {run['total']}: {what}: {scores or 'no result'}{found}{beside}")
        if run["refusal"] and run["refusal"] not in told:
            told.add(run["refusal"])
            to(sys.stderr)(f"note: {run['refusal']}")

    return report


def say_checked(model: Model, say: Say) -> None:
    """How the fit compared with zero-shot where no test image was looked at."""
    from shotfit.fitting.figures import figures_of
    from shotfit.fitting.summary import half_lines, training_lines

    record = model.record
    checked = record.get("checked")
    alone = record.get("race") and record["selection"].startswith("nothing was chosen")
    why = f"{record['fitted_method']}, since no other is clearly better on held-out images"
    say(f"selection: {why if alone else record['selection']}")
    if record.get("race"):
        several = record["classes"][0].get("several_labels")
        say(f"tried on held-out images{' (mean average precision)' if several else ''}:")
    for row in record.get("race", ()):
        if row["accuracy"] is not None:
            what = f"{row['method']} of {row['chosen']['members']}" if row["method"] == "ensemble" else row["method"]
            what += f", {views} random views" if (views := row["chosen"].get("views")) else ""
            say(f"  {100 * row['accuracy']:5.1f} %  {what}")
    for row in record.get("race", ()):
        if "refused" in row:
            say(f"not tried: {row['method']} ({row['refused'].rstrip('.')})")
    for line in training_lines(record):
        say(line)
    if not checked:
        return
    title, fitted, zero = figures_of(checked)
    ours, plain = 100 * (fitted or 0.0), 100 * (zero or 0.0)
    what = "" if title == "accuracy" else f"{title} of "
    say(f"check on {checked['on']}: {what}{record['fitted_method']} {ours:.1f} %, zero-shot {plain:.1f} %")
    if ours < plain and not record["fell_back"]:
        say(f"{record['fitted_method']} is worse than zero-shot there, and was kept as asked.")
    for line in half_lines(record):
        say(line)


def say_support(task: Task, shots: int, seed: int, say: Say) -> None:
    """What a fit will learn from, before it starts."""
    drawn, held_out = len(task.support(shots or None, seed).train), len(task.test)
    of = f"learned from {drawn:,} of {plural(len(task.train), 'labelled image')}"
    say(f"{of}{f' ({held_out:,} more are held out)' if held_out else ''}")


def say_refit(model: Model, held_out: int, say: Say) -> None:
    """That the saved model has learned the held-out images too, or why it has not."""
    record = model.record
    if record.get("refit"):
        images = f"{plural(record['support_images'], 'labelled image')}, the {held_out:,} held-out ones among them"
        say(f"fitted again to {images}: the accuracy above is that of the model before")
    else:
        say("not fitted again: zero-shot learns from no image")


def say_accuracies(result: Fitted, say: Say) -> None:
    from shotfit.evaluation.several import table

    name = result.model.record["method"]
    if not result.fitted.tasks:
        say("no image could be held out (no class has a second one), so the accuracy is not known")
        return
    say(f"accuracy on {plural(result.fitted.images, 'held-out image')}:")
    both = {"zero-shot": result.plain} | ({} if name == "zero_shot" else {name: result.fitted})
    if len(result.fitted.tasks) > 1:
        for line in table(both):
            say(f"  {line}")
        return
    width = max(map(len, both))
    for title, scores in both.items():
        say(f"  {title:{width}}  {100 * scores.accuracy:5.1f} %")


def say_labels(model: Model, scores: tuple[LabelScores, LabelScores] | None, say: Say) -> None:
    """How a model of several labels a picture does on its test part, beside zero-shot. scores: of `scored_labels`."""
    if scores is None:
        say("no image could be held out (no class has a second one), so no figure is known")
        return
    (plain, fitted), name = scores, model.record["method"]
    say(f"mean average precision on {plural(fitted.images, 'held-out image')}:")
    both = {"zero-shot": plain} | ({} if name == "zero_shot" else {name: fitted})
    width = max(map(len, both))
    for title, one in both.items():
        say(f"  {title:{width}}  {100 * one.mean_average_precision:5.1f} %")
    say(f"with the thresholds: micro F1 {100 * fitted.micro_f1:.1f} %, macro F1 {100 * fitted.macro_f1:.1f} %")


def say_terms(backbone: str, say: Say) -> None:
    """For what the weights may be used, of a backbone that ships with shotfit."""
    from shotfit.checkpoints.names import terms_of

    terms = terms_of(backbone)
    if terms:
        say(f"note: {terms}; for a product, choose another --backbone")


def check_order(command: str, model: Path, images: Sequence[str]) -> None:
    """Refuse images in the place of the model where a model is in theirs.

    Raises UsageError with the command that was meant.
    """

    def is_model(folder: Path) -> bool:
        return any((folder / record).is_file() for record in ("adapter.json", "export.json"))

    places = [place for place in images if is_model(Path(place))]
    if places and model.exists() and not is_model(model):
        others = [str(model), *(image for image in images if image != places[0])]
        words = " ".join(map(shlex.quote, [places[0], *others[:3]])) + (" ..." if len(others) > 3 else "")
        raise UsageError(f"{places[0]} is the model, and comes first: shotfit {command} {words}")
