"""Several tasks in one file, `tasks.toml`: what each is called, where its images lie, and how its prompts read.

    [[task]]
    name = "flower species"                 # by default the folder's name
    description = "Common British flowers"  # for people; nothing computes with it
    data = "flowers17"                      # a folder, manifest or split file; relative to this file
    template = "a photo of a {}, a type of flower."     # or templates = [...]; by default the data's own

    [[task]]
    name = "texture"
    data = "dtd/labels.csv"
    images = "dtd/images"                   # where a manifest's paths begin
    class_names = "dtd/names.toml"          # by default the classes.toml beside the data
    group_column = "source"                 # of a table: images of one group stay together
    # path_column, label_column, read_as     as `read_task` takes them
    padding = 0.1                           # around each box, where images are boxes
    frames = 16                             # of each clip, or fps = 2
    window = [-160, 240]                    # levels that become black and white; bands = [4, 3, 2]
    parent = "surface"                      # what it is a kind of: another task, or a name that needs no task

    tasks = read_tasks(Path("tasks.toml"))

A parent may have one too, as a task of the list, or as the next of several: parent = ["roses", "flowers"]. One name has
one parent, wherever it is named. Methods may use the path (softcpt with `hierarchy`); nothing else does.

The order of the tasks is that of the file; it decides in which order their images and classes are numbered.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from shotfit.calls import checked
from shotfit.data.images import shown
from shotfit.data.readers import read_task
from shotfit.data.tasks import Task, composed
from shotfit.data.toml import read_toml
from shotfit.errors import ShotfitError, UsageError

__all__ = ["check_names", "paths_above", "read_tasks"]

_WAYS = ("path_column", "label_column", "group_column", "read_as")  # as `read_task` takes them
_NUMBERS = ("padding", "frames", "fps")
_LISTS = ("window", "bands")  # of numbers
KEYS = (
    "name", "description", "data", "template", "templates", "images", "class_names", "parent", *_NUMBERS, *_LISTS,
    *_WAYS,
)  # fmt: skip
DEEPEST = 32  # names above a task


@checked
def read_tasks(path: str | Path, *, cache: Path | None = None) -> list[Task]:
    """The tasks of a task list, in its order.

    cache: a folder in which the files' digests are kept, as for `read_task`.

    Raises ShotfitError, with the file and the task in the sentence: no such file, no TOML, no task, an unknown key, a
    value of another type, two tasks of one name, and whatever `read_task` finds wrong with a task's data.
    """
    path = Path(path)
    entries = _entries(path)
    labels = [str(entry.get("name") or f"number {number}") for number, entry in enumerate(entries, start=1)]
    for entry, label in zip(entries, labels, strict=True):
        _check(entry, f"in {shown(path)}, task {label}")
    _check_no_twins([entry["name"] for entry in entries if "name" in entry], path)
    tasks = [
        _read(entry, path, f"in {shown(path)}, task {label}", cache)
        for entry, label in zip(entries, labels, strict=True)
    ]
    _check_no_twins([task.name for task in tasks], path)
    given = [own if isinstance(own := entry.get("parent", []), list) else [own] for entry in entries]
    if not any(given):
        return tasks
    try:
        paths = paths_above({task.name: own for task, own in zip(tasks, given, strict=True)})
    except UsageError as error:
        raise ShotfitError(f"in {shown(path)}, {error}") from None
    return [replace(task, classes=replace(task.classes, parents=paths[task.name])) for task in tasks]


def paths_above(parents: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The names above each task, the nearest first, of the parents that are given for it, the nearest first.

    Where one of them has a parent of its own elsewhere, the path goes on there.

    Raises UsageError for a name with two parents, one that is above itself, and more than DEEPEST names.

    >>> paths_above({"red roses": ["roses"], "roses": ["flowers", "plants"], "trees": ["plants"]})["red roses"]
    ('roses', 'flowers', 'plants')
    """
    above: dict[str, str] = {}
    for task, names in parents.items():
        chain = [task, *map(composed, names)]
        for name, parent in pairwise(chain):
            if above.setdefault(name, parent) != parent:
                raise UsageError(
                    f"{name!r} has two parents, {above[name]!r} and {parent!r}: give every name one and the same."
                )
    paths = {}
    for task in parents:
        path = [task]
        while path[-1] in above:
            parent = above[path[-1]]
            if parent in path:
                circle = " -> ".join(map(repr, [*path[path.index(parent) :], parent]))
                raise UsageError(f"the parents lead in a circle ({circle}): remove one of them.")
            path.append(parent)
            if len(path) > DEEPEST + 1:
                raise UsageError(f"more than {DEEPEST} names are above {task!r}: shorten its path.")
        paths[task] = tuple(path[1:])
    return paths


def check_names(tasks: Sequence[Task]) -> None:
    """Refuse a list without a task, and two tasks of one name: a task is asked for by its name.

    Raises UsageError.
    """
    if not tasks:
        raise UsageError("The list of tasks is empty: give at least one task.")
    twins = _twins([task.name for task in tasks])
    if twins:
        raise UsageError(f"Two tasks are called {twins[0]!r}: give each a name of its own.")


def _entries(path: Path) -> list[dict[str, Any]]:
    found = read_toml(path, "a table [[task]] for each task")
    unknown = found.keys() - {"task"}
    if unknown:
        raise ShotfitError(f"{shown(path)} has the unknown key {min(unknown)!r}; expected tables [[task]] alone.")
    entries = found.get("task", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ShotfitError(f"{shown(path)} has a single `task`; write [[task]] in double brackets for each task.")
    if not entries:
        raise ShotfitError(f"{shown(path)} holds no task; expected a table [[task]] for each, with `name` and `data`.")
    return entries


def _check(entry: Mapping[str, Any], where: str) -> None:
    for unknown in sorted(entry.keys() - set(KEYS)):
        close = difflib.get_close_matches(unknown, KEYS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"expected {', '.join(KEYS)}."
        raise ShotfitError(f"{where} has the unknown key {unknown!r}; {hint}")
    if "data" not in entry:
        raise ShotfitError(f"{where} has no `data`; name the folder, manifest or split file of its images.")
    if "template" in entry and "templates" in entry:
        raise ShotfitError(f"{where} has both `template` and `templates`; keep one of them.")
    parents = entry.get("parent", "")
    if isinstance(parents, list) and not (parents and all(isinstance(one, str) and one.strip() for one in parents)):
        raise ShotfitError(f"{where}: `parent` must be a name, or a list of names, but is {parents!r}.")
    for key in entry.keys() & {*_NUMBERS}:
        if not _is_number(entry[key]) or (key == "frames" and not isinstance(entry[key], int)):
            kind = "whole number" if key == "frames" else "number"
            raise ShotfitError(f"{where}: `{key}` must be a {kind}, but is {entry[key]!r}.")
    for key in entry.keys() & {*_LISTS}:
        numbers = entry[key]
        if not isinstance(numbers, list) or not all(map(_is_number, numbers)):
            raise ShotfitError(f"{where}: `{key}` must be a list of numbers, but is {numbers!r}.")
    for key in entry.keys() - {"templates", *_NUMBERS, *_LISTS} - ({"parent"} if isinstance(parents, list) else set()):
        if not isinstance(entry[key], str) or not (entry[key].strip() or key == "description"):
            raise ShotfitError(f"{where}: `{key}` must be a text, but is {entry[key]!r}.")
    templates = entry.get("templates", [])
    if not isinstance(templates, list) or not all(isinstance(template, str) for template in templates):
        raise ShotfitError(f"{where}: `templates` must be a list of texts, but is {templates!r}.")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _read(entry: Mapping[str, Any], path: Path, where: str, cache: Path | None) -> Task:
    places = {key: path.parent / entry[key] for key in ("images", "class_names") if key in entry}
    templates = entry.get("templates", [entry["template"]] if "template" in entry else [])
    try:
        task = read_task(
            path.parent / entry["data"],
            templates=templates,
            name=entry.get("name"),
            cache=cache,
            **places,
            **{key: entry[key] for key in (*_WAYS, *_NUMBERS, *_LISTS) if key in entry},
        )
    except ShotfitError as error:
        raise type(error)(f"{where}: {error}") from error
    return replace(task, description=entry.get("description", ""))


def _check_no_twins(names: Sequence[str], path: Path) -> None:
    twins = _twins(names)
    if twins:
        raise ShotfitError(f"{shown(path)} has two tasks called {twins[0]!r}; give each a name of its own.")


def _twins(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
