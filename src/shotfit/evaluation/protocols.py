"""Protocols: what a method is fitted to and what it is judged on, as data.

    plan = plan_protocol("base-to-new", read_task(Path("photos")))
    plan.columns                            # ("base", "new", "H")

few-shot      fit on shots of all classes, judge on the test part.
base-to-new   fit on the first half of the classes; judge its test images among these, those of the other half among the
              others; H is the harmonic mean.
transfer      fit on all classes; judge on the test part, and on all images of each target among the target's classes.
domain-shift  the same for targets that have the source's classes or some of them.
open-set      fit on the first half of the classes; judge its test images among these, and how well images of the other
              half are told from them (AUROC, and the share of these that pass where 95 % of the known images do).

Several tasks are few-shot or base-to-new, each judged on its own test part: a method that can is fitted to all of them
at once, another to each on its own. Some of them may be left out and predicted from their names and class names.
Several data sets are the same with every method fitted to each on its own.

Base to new and the rule of shots are those of Zhou et al., "Learning to Prompt for Vision-Language Models" (IJCV 2022)
and "Conditional Prompt Learning for Vision-Language Models" (CVPR 2022). `compare` runs a plan.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, harmonic_mean
from typing import Literal, get_args

from shotfit.data.shots import base_and_new, renumbered
from shotfit.data.tasklist import check_names
from shotfit.data.tasks import ClassList, Item, Task, composed, plain_name
from shotfit.errors import ShotfitError, UsageError, first_few
from shotfit.evaluation.evaluate import labelled_for

__all__ = [
    "PROTOCOLS",
    "Exam",
    "Lesson",
    "Plan",
    "Protocol",
    "Summary",
    "check_protocol",
    "plan_data_sets",
    "plan_protocol",
    "plan_tasks",
    "warn_of_shared_images",
]

Protocol = Literal["few-shot", "base-to-new", "transfer", "domain-shift", "open-set"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)


@dataclass(frozen=True, eq=False)
class Exam:
    """Images that a fitted model is judged on, one column of the table.

    task: which of the fitted tasks is asked, where there are several. classes: the class list that the images' labels
    count, where it is not a fitted one. among: the fitted classes that are candidates, by position; all where it is
    empty. unknown: images of none of the classes, and measure: by which number they are told apart from `items`.
    """

    column: str
    items: Sequence[Item]
    task: str | None = None
    classes: ClassList | None = None
    among: tuple[int, ...] = ()
    unknown: Sequence[Item] = ()
    measure: Literal["accuracy", "auroc", "fpr_at_95"] = "accuracy"


@dataclass(frozen=True, eq=False)
class Lesson:
    """What one fit learns from, and the exams after it.

    kept: the labels of each task that the fit is to know; all where it is empty.
    """

    tasks: tuple[Task, ...]
    exams: tuple[Exam, ...]
    kept: tuple[tuple[int, ...], ...] = ()

    def support(self, shots: int, seed: int, validation: Literal["few", "full"] = "few") -> list[Task]:
        """What the fit receives, sealed: shots are drawn from all classes first, then classes are left out.

        Raises as `Task.support` does.
        """
        drawn = [task.support(shots, seed, validation) for task in self.tasks]
        if not self.kept:
            return drawn
        return [_restricted(task, labels) for task, labels in zip(drawn, self.kept, strict=True)]


@dataclass(frozen=True)
class Summary:
    """A column made of others: their mean, or the harmonic mean."""

    column: str
    over: tuple[str, ...]
    harmonic: bool = False

    def of(self, values: Sequence[float]) -> float:
        """The summary of one value for each column in `over`.

        >>> round(Summary("H", ("base", "new"), harmonic=True).of([0.6, 0.3]), 6)
        0.4
        """
        return harmonic_mean(values) if self.harmonic else fmean(values)


HARMONIC = Summary("H", ("base", "new"), harmonic=True)


@dataclass(frozen=True, eq=False)
class Plan:
    """All that a protocol does with a method, for each number of shots and each seed.

    together: one lesson in place of the others, for methods that fit several tasks at once. summaries: a later one may
    be made of those before it.
    """

    lessons: tuple[Lesson, ...]
    together: Lesson | None = None
    summaries: tuple[Summary, ...] = ()

    @property
    def all_lessons(self) -> tuple[Lesson, ...]:
        """Every lesson that a method may take."""
        return self.lessons if self.together is None else (*self.lessons, self.together)

    @property
    def exams(self) -> tuple[Exam, ...]:
        """Every exam that a method may be asked to take."""
        lessons = self.lessons if self.together is None else (self.together,)
        return tuple(exam for lesson in lessons for exam in lesson.exams)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table: the exams, and each summary behind those that it is made of, or else at the end."""
        titles = [exam.column for exam in self.exams]
        for summary in self.summaries:
            first, last = titles.index(summary.over[0]), titles.index(summary.over[-1])
            together = titles[first : last + 1] == list(summary.over)
            titles.insert(last + 1 if together else len(titles), summary.column)
        return tuple(titles)

    @property
    def notes(self) -> list[str]:
        """What the columns mean, for people."""
        counts = [f"{exam.column}: {len(exam.items):,} images" for exam in self.exams if not exam.unknown]
        lines = [", ".join(counts)]
        others = next((exam for exam in self.exams if exam.unknown), None)
        if others is not None:
            lines.append(
                f"AUROC and FPR95: known images against {len(others.unknown):,} of the classes that were left out; "
                "FPR95 is the share of these that pass as known where 95 % of the known do (lower is better)"
            )
        for summary in self.summaries:
            kind = "harmonic mean of the means of" if summary.harmonic else "mean over"
            lines.append(f"{summary.column}: {kind} {', '.join(summary.over)}")
        return lines

    def lessons_of(self, several_tasks: bool) -> tuple[Lesson, ...]:
        """The lessons that a method takes; several_tasks: it fits them at once."""
        return (self.together,) if self.together is not None and several_tasks else self.lessons


def plan_protocol(protocol: str, source: Task, targets: Sequence[Task] = ()) -> Plan:
    """The plan of a protocol. The test part of the source is only reached by its exams.

    Raises:
        UsageError: an unknown protocol, targets that are missing or not wanted, the source as its own target.
        ShotfitError: nothing to judge on, two classes of one name where classes are told by their names, a target with
            classes that the source has not (domain-shift), a single class (base-to-new).
    """
    check_protocol(protocol, targets)
    if not source.test:
        raise ShotfitError(f"{source.name} has no test images to compare on.")
    _check_targets(source, targets)
    if protocol == "base-to-new":
        return Plan((_base_to_new(source),), summaries=(HARMONIC,))
    if protocol == "open-set":
        return Plan((_open_set(source),))
    columns = _columns([source, *targets])
    own = Exam(columns[0], source.test)
    if not targets:
        return Plan((Lesson((source,), (own,)),))
    exam = _own_classes if protocol == "transfer" else _same_classes
    exams = [exam(source, target, column) for target, column in zip(targets, columns[1:], strict=True)]
    return Plan((Lesson((source,), (own, *exams)),), summaries=(Summary("average", columns[1:]),))


def plan_tasks(tasks: Sequence[Task], leave_out: Sequence[str] = (), protocol: str = "few-shot") -> Plan:
    """The plan of several tasks. leave_out: names of some that are fitted by none, and asked of those that can.

    Raises UsageError for another protocol than few-shot and base-to-new, two tasks of one name, a name to leave out
    that no task has, and where only one task is left; ShotfitError for a task without test images or, for base-to-new,
    with a single class.
    """
    if protocol not in ("few-shot", "base-to-new"):
        raise UsageError(
            f"Several tasks are compared by few-shot or base-to-new, not by {protocol}: name one folder for that."
        )
    check_names(tasks)
    names, leave_out = [task.name for task in tasks], [composed(name) for name in leave_out]
    unknown = [name for name in leave_out if name not in names]
    if unknown:
        raise UsageError(f"There is no task {unknown[0]!r} to leave out; the tasks: {', '.join(names)}.")
    if leave_out and protocol == "base-to-new":
        raise UsageError("base-to-new leaves classes out of every task, not tasks: use it without --leave-out.")
    fitted = tuple(task for task in tasks if task.name not in leave_out)
    if len(fitted) < 2:
        raise UsageError(f"{len(fitted)} of the tasks would be fitted; expected two or more.")
    for task in tasks:
        if not task.test:
            raise ShotfitError(f"{task.name} has no test images to compare on.")
    _check_names([task for task in tasks if task.name in leave_out])
    columns = _columns(tasks)
    if protocol == "base-to-new":
        return _bases_to_new(tasks, columns)
    lessons, exams = [], []
    for task, column in zip(tasks, columns, strict=True):
        if task.name not in leave_out:
            lessons.append(Lesson((task,), (Exam(column, task.test),)))
            exams.append(Exam(column, task.test, task=task.name))
    over = tuple(exam.column for exam in exams)
    exams += [
        Exam(f"{task.name} (left out)", task.test, classes=task.classes) for task in tasks if task.name in leave_out
    ]
    return Plan(tuple(lessons), Lesson(fitted, tuple(exams)), (Summary("average", over),))


def plan_data_sets(tasks: Sequence[Task], protocol: str = "few-shot") -> Plan:
    """The plan of several data sets, each fitted and judged on its own, and their mean, which counts each once.

    Raises UsageError for another protocol than few-shot and base-to-new and a data set that is named twice;
    ShotfitError as `plan_protocol` does.
    """
    if protocol not in ("few-shot", "base-to-new"):
        others = "." if protocol == "open-set" else ", and the others with --targets DIR..."
        raise UsageError(f"{protocol} is fitted to one data set: name one folder{others}")
    sources = [task.source for task in tasks if task.source != Path()]
    twins = [source for source in sources if sources.count(source) > 1]
    if twins:
        raise UsageError(f"{twins[0]} is named twice: name each data set once.")
    for task in tasks:
        if not task.test:
            raise ShotfitError(f"{task.name} has no test images to compare on.")
    columns = _columns(tasks, taken="mean")
    if protocol == "base-to-new":
        halves = _bases_to_new(tasks, columns)
        own = [Summary(f"{column} H", (f"{column} base", f"{column} new"), harmonic=True) for column in columns]
        return Plan(halves.lessons, summaries=(*own, *halves.summaries))
    lessons = [Lesson((task,), (Exam(column, task.test),)) for task, column in zip(tasks, columns, strict=True)]
    return Plan(tuple(lessons), summaries=(Summary("mean", columns),))


def check_protocol(protocol: str, targets: Sequence[object]) -> None:
    """Refuse an unknown protocol, and targets that are missing or not wanted.

    Raises UsageError.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"There is no protocol {protocol!r}: use {', '.join(PROTOCOLS[:-1])} or {PROTOCOLS[-1]}.")
    wants_targets = protocol in ("transfer", "domain-shift")
    if wants_targets and not targets:
        raise UsageError(f"{protocol} needs targets: name the folders to evaluate on with --targets DIR...")
    if targets and not wants_targets:
        raise UsageError(f"{protocol} has no targets: leave --targets out, or use --protocol transfer or domain-shift.")


def warn_of_shared_images(source: Task, targets: Sequence[Task]) -> None:
    """Warn of targets that hold images which a fit to the source may learn from."""
    learned = {item.digest for item in (*source.train, *source.val)} - {""}
    for target in targets:
        shared = sum(item.digest in learned for item in _all_images(target))
        if shared:
            warnings.warn(
                f"{shared:,} images of the target {target.name} are also among those that {source.name} is fitted to.",
                stacklevel=2,
            )


def _bases_to_new(tasks: Sequence[Task], columns: Sequence[str]) -> Plan:
    """Base to new of several tasks: the base halves fitted together by the methods that can, the means over tasks."""
    lessons = [_base_to_new(task, f"{column} ") for task, column in zip(tasks, columns, strict=True)]
    base, new = zip(*(lesson.exams for lesson in lessons), strict=True)
    together = Lesson(tuple(tasks), (*base, *new), tuple(labels for lesson in lessons for labels in lesson.kept))
    means = [Summary(half, tuple(exam.column for exam in exams)) for half, exams in (("base", base), ("new", new))]
    return Plan(tuple(lessons), together, (*means, HARMONIC))


def _base_to_new(source: Task, title: str = "") -> Lesson:
    """Labels of the train part in ascending order; the first half, rounded up, is base.

    Every class that has an image has one among the shots, so the split is that of the sampled part for any shots.
    """
    base, new = base_and_new(item.label for item in source.train)
    if not new:
        raise ShotfitError(f"{source.name} has a single class to learn; base-to-new needs two or more.")
    _check_names([source])
    exams = []
    for half, labels in (("base", base), ("new", new)):
        part = _restricted(source, labels)
        if not part.test:
            raise ShotfitError(f"{source.name} has no test images of its {half} classes to compare on.")
        other = part.classes if half == "new" else None
        exams.append(Exam(f"{title}{half}", part.test, task=source.name, classes=other))
    return Lesson((source,), tuple(exams), (tuple(base),))


def _open_set(source: Task) -> Lesson:
    """The lesson of base to new; images of the new classes are strangers to it."""
    lesson = _base_to_new(source)
    known, others = lesson.exams
    apart = Exam("AUROC", known.items, unknown=others.items, measure="auroc")
    alarms = replace(apart, column="FPR95", measure="fpr_at_95")
    return replace(lesson, exams=(Exam("known", known.items), apart, alarms))


def _own_classes(source: Task, target: Task, column: str) -> Exam:
    """All images of a target, among the target's classes in its own templates."""
    _check_names([target])
    return Exam(column, _all_images(target), classes=target.classes)


def _same_classes(source: Task, target: Task, column: str) -> Exam:
    """All images of a target whose classes are the source's or some of them, among those that it has."""
    _check_names([source, target])
    places = {plain_name(name): place for place, name in enumerate(source.classes.names)}
    unknown = [name for name in target.classes.readable if plain_name(name) not in places]
    if unknown:
        raise ShotfitError(
            f"The target {target.name} has classes that {source.name} has not: {first_few(unknown)}. domain-shift "
            "needs the source's classes; --protocol transfer takes others."
        )
    among = tuple(sorted(places[plain_name(name)] for name in target.classes.names))
    some = len(among) < len(places)
    return Exam(column, labelled_for(source.classes.names, target, everything=True), among=among if some else ())


def _restricted(task: Task, kept: Sequence[int]) -> Task:
    """The task with the classes of these labels alone, renumbered in ascending order."""

    def part(items: Sequence[Item]) -> tuple[Item, ...]:
        positions, labels = renumbered([item.label for item in items], kept)
        return tuple(replace(items[position], label=label) for position, label in zip(positions, labels, strict=True))

    names = tuple(task.classes.names[label] for label in sorted(kept))
    return replace(
        task,
        classes=replace(task.classes, names=names),
        train=part(task.train),
        val=part(task.val),
        held_out=None if task.held_out is None else part(task.held_out),
    )


def _all_images(task: Task) -> tuple[Item, ...]:
    return (*task.train, *task.val, *task.test)


def _check_targets(source: Task, targets: Sequence[Task]) -> None:
    """Refuse a target without images, and a folder that is named twice."""
    known = {source.source}
    for target in targets:
        if not _all_images(target):
            raise ShotfitError(f"The target {target.name} has no images to evaluate on.")
        if target.source in known - {Path()}:
            raise UsageError(
                f"The target {target.source} is the source itself, or named twice: name each folder once (the source's "
                "test part is evaluated anyway)."
            )
        known.add(target.source)


def _check_names(tasks: Sequence[Task]) -> None:
    """Where classes are told by their names, each name stands once."""
    for task in tasks:
        seen: dict[str, str] = {}
        for name in task.classes.readable:
            if plain_name(name) in seen:
                raise ShotfitError(
                    f"{task.name} has two classes that are called {seen[plain_name(name)]!r} and {name!r}: give each a "
                    "name of its own in its classes.toml."
                )
            seen[plain_name(name)] = name


def _columns(tasks: Sequence[Task], taken: str = "average") -> tuple[str, ...]:
    """A column's title for each task: its name, with that of the folder above where two are alike or it is taken."""
    names = [task.name for task in tasks]
    titles = [
        f"{task.source.parent.name}/{name}" if names.count(name) > 1 or name == taken else name
        for task, name in zip(tasks, names, strict=True)
    ]
    # folders that are alike in both names are told apart by their whole path
    return tuple(
        str(task.source) if titles.count(title) > 1 else title for task, title in zip(tasks, titles, strict=True)
    )
