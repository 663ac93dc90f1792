"""Protocols: what a method is fitted to and what it is judged on, as data.

    plan = plan_protocol("base-to-new", read_task(Path("photos")))
    plan.columns                            # ("base", "new", "H")

few-shot      fit on shots of all classes, judge on the test part.
base-to-new   fit on the first half of the classes; judge its test images among these, those of the other half among the
              others; H is the harmonic mean.
transfer      fit on all classes; judge on the test part, and on all images of each target among the target's classes.
domain-shift  the same for targets that have the source's classes or some of them.

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
from shotfit.data.tasks import ClassList, Item, Task
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluate import labelled_for, plain_name

__all__ = [
    "PROTOCOLS",
    "Exam",
    "Lesson",
    "Plan",
    "Protocol",
    "Summary",
    "check_protocol",
    "plan_protocol",
    "warn_of_shared_images",
]

Protocol = Literal["few-shot", "base-to-new", "transfer", "domain-shift"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)


@dataclass(frozen=True, eq=False)
class Exam:
    """Images that a fitted model is judged on, one column of the table.

    classes: the class list that the images' labels count, where it is not the fitted one. among: the fitted classes
    that are candidates, by position; all where it is empty.
    """

    column: str
    items: Sequence[Item]
    classes: ClassList | None = None
    among: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Lesson:
    """What one fit learns from, and the exams after it. kept: the labels whose classes it is fitted to."""

    task: Task
    exams: tuple[Exam, ...]
    kept: tuple[int, ...]

    def support(self, shots: int, seed: int) -> Task:
        """What the fit receives: shots are drawn from all classes first, then classes are left out. It is sealed."""
        return _restricted(self.task.sealed().shots(shots, seed), self.kept)


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


@dataclass(frozen=True, eq=False)
class Plan:
    """All that a protocol does with a method, for each number of shots and each seed."""

    lessons: tuple[Lesson, ...]
    summary: Summary | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table, in order."""
        exams = tuple(exam.column for lesson in self.lessons for exam in lesson.exams)
        return exams if self.summary is None else (*exams, self.summary.column)

    @property
    def notes(self) -> list[str]:
        """What the columns mean, for people."""
        exams = [exam for lesson in self.lessons for exam in lesson.exams]
        lines = [", ".join(f"{exam.column}: {len(exam.items):,} images" for exam in exams)]
        if self.summary is not None:
            kind = "harmonic mean of the means of" if self.summary.harmonic else "mean over"
            lines.append(f"{self.summary.column}: {kind} {' and '.join(self.summary.over)}")
        return lines


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
        return _base_to_new(source)
    columns = _columns([source, *targets])
    own = Exam(columns[0], source.test)
    if not targets:
        return Plan((Lesson(source, (own,), _everything(source)),))
    exam = _own_classes if protocol == "transfer" else _same_classes
    exams = [exam(source, target, column) for target, column in zip(targets, columns[1:], strict=True)]
    return Plan((Lesson(source, (own, *exams), _everything(source)),), Summary("average", columns[1:]))


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


def _base_to_new(source: Task) -> Plan:
    """Labels of the train part in ascending order; the first half, rounded up, is base.

    Every class that has an image has one among the shots, so the split is that of the sampled part for any shots.
    """
    base, new = base_and_new(item.label for item in source.train)
    if not new:
        raise ShotfitError(f"{source.name} has a single class to learn; base-to-new needs two or more.")
    _check_names([source])
    exams = []
    for column, labels in (("base", base), ("new", new)):
        part = _restricted(source, labels)
        if not part.test:
            raise ShotfitError(f"{source.name} has no test images of its {column} classes to compare on.")
        exams.append(Exam(column, part.test, part.classes if column == "new" else None))
    return Plan((Lesson(source, tuple(exams), tuple(base)),), Summary("H", ("base", "new"), harmonic=True))


def _own_classes(source: Task, target: Task, column: str) -> Exam:
    """All images of a target, among the target's classes in its own templates."""
    _check_names([target])
    return Exam(column, _all_images(target), target.classes)


def _same_classes(source: Task, target: Task, column: str) -> Exam:
    """All images of a target whose classes are the source's or some of them, among those that it has."""
    _check_names([source, target])
    places = {plain_name(name): place for place, name in enumerate(source.classes.names)}
    unknown = [name for name in target.classes.readable if plain_name(name) not in places]
    if unknown:
        shown = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
        raise ShotfitError(
            f"The target {target.name} has classes that {source.name} has not: {shown}. domain-shift needs the "
            "source's classes; --protocol transfer takes others."
        )
    among = tuple(sorted(places[plain_name(name)] for name in target.classes.names))
    some = len(among) < len(places)
    return Exam(column, labelled_for(source.classes.names, target, everything=True), among=among if some else ())


def _restricted(task: Task, kept: Sequence[int]) -> Task:
    """The task with the classes of these labels alone, renumbered in ascending order."""
    if len(kept) == len(task.classes.names):
        return task

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


def _everything(task: Task) -> tuple[int, ...]:
    return tuple(range(len(task.classes.names)))


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


def _columns(tasks: Sequence[Task]) -> tuple[str, ...]:
    """A column's title for each task: its name, with that of the folder above where two are called alike."""
    names = [task.name for task in tasks]
    titles = [
        f"{task.source.parent.name}/{name}" if names.count(name) > 1 or name == "average" else name
        for task, name in zip(tasks, names, strict=True)
    ]
    # folders that are alike in both names are told apart by their whole path
    return tuple(
        str(task.source) if titles.count(title) > 1 else title for task, title in zip(tasks, titles, strict=True)
    )
