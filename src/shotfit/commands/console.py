"""What commands read and say: tasks after the doctor has seen them, lines for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from shotfit.errors import first_few
from shotfit.printing import as_json, printable

if TYPE_CHECKING:
    from shotfit.data.reading import Reading
    from shotfit.data.tasks import Task
    from shotfit.evaluation.several import Fitted
    from shotfit.fitting.model import Model

__all__ = [
    "Say",
    "plural",
    "print_json",
    "read_all",
    "read_one",
    "reporter",
    "say_accuracies",
    "say_checked",
    "say_refit",
    "say_support",
    "say_task",
    "to",
    "training_lines",
    "warn",
]

Say = Callable[[str], None]


def warn(message: Warning | str, *_: object, **__: object) -> None:
    to(sys.stderr)(f"warning: {' '.join(str(message).split())}")


def to(stream: TextIO) -> Say:
    """Print lines to a stream, for people: whatever stands in them, a terminal shows it and does nothing else."""
    return lambda line: print(printable(line), file=stream, flush=True)


def print_json(value: dict[str, Any]) -> None:
    print(as_json(value), flush=True)


def read_one(source: Path, how: Reading, say: Say) -> Task:
    """The task of a folder or manifest, after the doctor has seen it."""
    from shotfit.engine.store import cache_folder

    return how.task(source, cache_folder(), partial(say_task, say=say), warn)


def read_all(source: Path, how: Reading, say: Say) -> list[Task]:
    """The tasks of a list (.toml), or the one of a folder or manifest, after the doctor has seen them."""
    from shotfit.engine.store import cache_folder

    return how.tasks(source, cache_folder(), partial(say_task, say=say), warn)


def say_task(task: Task, say: Say) -> None:
    counts = f"{len(task.train):,} train, {len(task.val):,} validation and {len(task.test):,} test images"
    say(f"{task.name}: {plural(len(task.classes.names), 'class', 'classes')}, {counts}, read as {task.reader}")
    say(f"test part: {task.test_origin}")
    if task.ignored:
        from shotfit.data.images import shown

        some = first_few([path.name for path in task.ignored], 5)
        lost = task.passed_over()
        among = f"; {plural(len(lost), 'picture')} among them ({first_few([shown(path) for path in lost])})"
        say(f"ignored: {plural(len(task.ignored), 'entry', 'entries')} ({some}){among if lost else ''}")


def reporter() -> Callable[[Any], None]:
    """Tells each run of a comparison on standard error, and once what is refused."""
    told = set[str]()

    def report(run: Any) -> None:
        found = " (found in the file)" if run["resumed"] else f" in {run['seconds']:.1f} s"
        what = f"{run['method']}, {plural(run['shots'], 'shot')}, seed {run['seed']}"
        scores = ", ".join(
            f"{column} {100 * score['accuracy']:.1f} %" for column, score in run["scores"].items() if score is not None
        )
        to(sys.stderr)(f"{run['number']} of {run['total']}: {what}: {scores}{found}")
        if run["refusal"] and run["refusal"] not in told:
            told.add(run["refusal"])
            to(sys.stderr)(f"note: {run['refusal']}")

    return report


def say_checked(model: Model, say: Say) -> None:
    """How the fit compared with zero-shot where no test image was looked at."""
    record = model.record
    checked = record.get("checked")
    say(f"selection: {record['selection']}")
    if record.get("race"):
        say("tried on held-out images:")
    for row in record.get("race", ()):
        if row["accuracy"] is not None:
            what = f"{row['method']} of {row['chosen']['members']}" if row["method"] == "ensemble" else row["method"]
            say(f"  {100 * row['accuracy']:5.1f} %  {what}")
    for row in record.get("race", ()):
        if "refused" in row:
            say(f"not tried: {row['method']} ({row['refused'].rstrip('.')})")
    for line in training_lines(record):
        say(line)
    if not checked:
        return
    ours, plain = 100 * checked["accuracy"], 100 * checked["zero_shot_accuracy"]
    say(f"check on {checked['on']}: {record['fitted_method']} {ours:.1f} %, zero-shot {plain:.1f} %")
    if ours < plain and not record["fell_back"]:
        say(f"{record['fitted_method']} is worse than zero-shot there, and was kept as asked.")
    half = record.get("half_of_the_labels")
    if half:
        lost = 100 * (half["accuracy"] - half["half"])
        helps = lost > 100 * half["error"]
        much = f"{abs(lost):.1f} points {'fewer' if lost >= 0 else 'more'}"
        verdict = "more labels would help" if helps else "more labels would change little"
        say(f"{verdict}: with half of them, {much} are right of {plural(half['images'], 'held-out image')}")


def training_lines(record: dict[str, Any]) -> list[str]:
    """What a training did, and what to do where it did nothing."""
    training = record.get("training")
    if not training:
        return []
    before, after = 100 * training["right_before"], 100 * training["right_after"]
    losses = f"loss {training['first_loss']:.3g} to {training['last_loss']:.3g}"
    lines = [f"training: {training['steps']:,} steps, {losses}, support images right {before:.1f} to {after:.1f} %"]
    noise = 100 * (0.25 / training["looked_at"]) ** 0.5
    if abs(after - 100 * training["right_zero_shot"]) <= noise:
        lines.append(
            f"{record['fitted_method']} is no better than zero-shot on the images that it has learned from: give it "
            f"more steps (--steps) or a higher rate (--lr){'' if record['recipe'] == 'auto' else ', or --recipe auto'}."
        )
    return lines


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
    width = max(len("zero-shot"), len(name))
    say(f"accuracy on {plural(result.fitted.images, 'held-out image')}:")
    if len(result.fitted.tasks) > 1:
        for line in table({"zero-shot": result.plain, name: result.fitted}):
            say(f"  {line}")
        return
    say(f"  {'zero-shot':{width}}  {100 * result.plain.accuracy:5.1f} %")
    say(f"  {name:{width}}  {100 * result.fitted.accuracy:5.1f} %")


def plural(number: int, word: str, words: str = "") -> str:
    return f"{number:,} {word if number == 1 else words or word + 's'}"
