"""Data from Python: lists of images and labels, tables of pandas or polars, data sets of `datasets`.

    (task,) = tasks_of(images, labels)                  # paths, bytes, PIL images, arrays
    (task,) = tasks_of(frame, how=How(label_column="species"))
    (task,) = tasks_of("photos/")                       # and whatever `read_task` reads

Images stay where they are: paths are read when they are needed, what is in memory stays in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from shotfit.data.formats.lines import MaybeSplits, Places, columns_of
from shotfit.data.label_sets import Forms, check_one_label, labels_in_columns, labels_of
from shotfit.data.listing import AS_IT_IS, How, Part, Row, listed, part_named, parts_named, without_picture
from shotfit.data.pictures import Picture, PictureLike, pictures_of
from shotfit.data.readers import task_of
from shotfit.data.reading import Reading
from shotfit.data.tasklist import check_names
from shotfit.data.tasks import Task
from shotfit.errors import UsageError

__all__ = ["Data", "Labels", "all_count", "from_images", "from_table", "holds_tasks", "is_task_list", "tasks_of"]

Data: TypeAlias = Task | Sequence[Task] | str | os.PathLike[str] | Iterable[PictureLike] | Any
"""A task or tasks, a path that `read_task` or `read_tasks` reads, images (with labels), a table or data set."""

Labels: TypeAlias = Sequence[str] | Sequence[int] | Any
"""A label for each image: texts or whole numbers, in a list, array or column."""


def tasks_of(
    data: Data,
    labels: Labels | None = None,
    how: How = AS_IT_IS,
    templates: Sequence[str] = (),
    *,
    cache: Path | None = None,
    shots: int | None = None,
    skip_broken: bool = False,
    lenient: bool = False,
    to_fit: bool = True,
    found: Callable[[Task], None] = lambda _: None,
    warned: Callable[[str], None] = lambda _: None,
) -> list[Task]:
    """The tasks that are meant; the doctor sees all but those that are tasks already.

    how, templates: as in `read_task`. shots, skip_broken, lenient, to_fit, found, warned: as in `Reading`.

    Raises:
        UsageError: data of another type, labels where there are none or of another number, templates or columns of a
            task.
        ShotfitError: what the readers or the doctor refuse.
    """
    if isinstance(templates, str):
        raise UsageError(f"templates is the text {templates!r}; expected a list of templates: [{templates!r}].")
    if isinstance(data, (list, tuple)) and not data:
        raise UsageError("data is an empty list; expected images with a label for each, or tasks.")
    of_tasks, is_path = holds_tasks(data), isinstance(data, (str, os.PathLike))
    if labels is not None and (of_tasks or is_path or _is_table(data)):
        raise UsageError(
            "labels go with a list of images; a path, a task and a table have their own (path_column and label_column "
            "name a table's columns)."
        )
    is_read = of_tasks or is_task_list(data)
    if templates and is_read:
        raise UsageError("Templates go with a path to a task's images; a task, and a task list, have their own.")
    if how.has_columns and is_read:
        raise UsageError(
            "path_column, label_column and group_column say how one task is read: give them to read_task, and take "
            "what that gives."
        )
    if of_tasks:
        tasks = [data] if isinstance(data, Task) else list(cast("Sequence[Task]", data))
        if not all(isinstance(task, Task) for task in tasks):
            raise UsageError("The list holds tasks and other things: give tasks alone, or images with labels.")
        if how.several_labels and not all(task.classes.several_labels for task in tasks):
            raise UsageError(
                "several_labels is said of how data are read; a task is read already: say it there, as in "
                "read_task(..., several_labels=True)."
            )
        check_names(tasks)
        return tasks
    reading = Reading(how, None, templates, shots, skip_broken, to_fit, lenient)
    if is_path:
        return reading.tasks(Path(cast("str", data)), cache, found, warned)
    if _is_table(data):
        task = from_table(data, how, templates=templates, cache=cache)
    elif labels is None:
        raise UsageError(
            f"data is a {type(data).__name__} without labels; expected a path, a task, a table with columns, or images "
            "with a label for each."
        )
    else:
        task = from_images(cast("Iterable[PictureLike]", data), labels, templates=templates, cache=cache, how=how)
    return [reading.examined(task, cache, found, warned)]


def holds_tasks(data: Data) -> bool:
    """Whether any of it is a task, which was read already."""
    return any(isinstance(one, Task) for one in (data if isinstance(data, (list, tuple)) else [data]))


def is_task_list(data: Data) -> bool:
    """Whether it is the path of a list of tasks, each of which says how it is read."""
    return isinstance(data, (str, os.PathLike)) and Path(data).suffix == ".toml"


def all_count(data: Data, labels: Labels | None) -> bool:
    """Whether a model is judged on all that is given, images or a table, and not on the test part of a path or task."""
    if labels is not None:
        return True
    return not holds_tasks(data) and not isinstance(data, (str, os.PathLike))


def from_images(
    images: Iterable[PictureLike],
    labels: Labels,
    *,
    parts: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    name: str = "images",
    templates: Sequence[str] = (),
    classes: Sequence[str] = (),
    cache: Path | None = None,
    how: How = AS_IT_IS,
    known: Sequence[str] = (),
) -> Task:
    """The task of images, each with its label.

    labels: texts or whole numbers; of numbers, `classes` gives the names in order. With `several_labels` of `how` a
    list of texts or numbers for each image, or a text such as cat|dog, and an empty one for an image of no class.
    parts: "train", "val" or "test" for each (None: a fifth of each class becomes the test part). groups: images of one
    group stay together. how: its frames, fps, window, bands and several_labels. known: of several labels, classes that
    there are beside those of the images.

    Raises UsageError for lists of different lengths, labels of another type, and what is no image.
    """
    pictures = pictures_of(images)
    several = how.several_labels
    names = _sets(labels, classes) if several else _texts(labels, "labels", classes)
    named = tuple(classes) if several else ()
    for what, given in (("labels", names), ("parts", parts), ("groups", groups)):
        if given is not None and len(given) != len(pictures):
            raise UsageError(f"there are {len(pictures):,} images and {len(given):,} {what}; expected one for each.")
    part_of = ["train"] * len(pictures) if parts is None else list(parts)
    group_of = [""] * len(pictures) if groups is None else _texts(groups, "groups")
    rows = [
        Row(picture, label, _part(part), group, named)
        for picture, label, part, group in zip(pictures, names, part_of, group_of, strict=True)
    ]
    listing = listed(rows, "a list of images", "the images with the part test", classes=() if several else classes)
    how = replace(how, group_column="groups" if groups is not None else None)
    return task_of(listing, Path(), how, templates=templates, name=name, cache=cache, known=known)


def from_table(
    table: Any, how: How = AS_IT_IS, *, name: str = "images", templates: Sequence[str] = (), cache: Path | None = None
) -> Task:
    """The task of a table: a DataFrame of pandas or polars, or a Dataset or DatasetDict of `datasets`.

    The columns hold paths, bytes or images, and labels; their usual names are found, else `how` names them.

    Raises ShotfitError for missing columns; UsageError for cells that are no image or label.
    """
    rows: list[Row] = []
    classes: tuple[str, ...] = ()
    forms = Forms()
    for part, one in _parts(table):
        columns = columns_of("the table", [str(column) for column in _columns(one)], how)
        classes = _class_names(one, columns.label)
        several = how.several_labels
        maybe, first = MaybeSplits(() if part else columns.maybe_split), len(rows)
        places = Places(how.images or Path.cwd())
        for number, row in enumerate(_rows(one)):
            source = row[columns.path]
            picture = places.picture(source) if isinstance(source, str) else Picture.of(source, f"row {number}")
            if columns.classes:
                label = labels_in_columns(row, columns.classes, f"row {number}")
            elif several:
                label = labels_of(_known(row[columns.label], classes, f"row {number}"), f"row {number}", forms)
            else:
                label = _text(row[columns.label], f"the label of row {number}", classes)
            split, group = (None if name is None else row[name] for name in (columns.split, columns.group))
            said = part or ("" if _is_missing(split) else str(split))
            group = "" if _is_missing(group) else _text(group, f"the group of row {number}")
            known = columns.classes or (classes if several else ())
            rows.append(Row(picture, label, _part(said or "train"), group, known))
            maybe.add(row)
        if (splits := maybe.splits()) is not None:
            parts = parts_named(splits)
            rows[first:] = [replace(row, part=parts[said]) for row, said in zip(rows[first:], splits, strict=True)]
    if not rows:
        raise UsageError("the table has no row; expected one for each image.")
    named, notes = list[str](), list[str]()
    if not how.several_labels:
        used = {row.label for row in rows}
        check_one_label(used, "the table")
        named, notes = [name for name in classes if name in used], without_picture(classes, used)
    listing = listed(rows, "a table", "the rows with the part test", classes=named, notes=notes)
    return task_of(listing, Path(), how, templates=templates, name=name, cache=cache)


def _is_table(data: object) -> bool:
    """Whether it has columns, or is a mapping of parts that have."""
    if isinstance(data, Mapping):
        return bool(data) and all(map(_is_table, data.values()))
    return not isinstance(data, (str, bytes)) and (hasattr(data, "columns") or hasattr(data, "column_names"))


def _parts(table: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(table, Mapping):
        yield from table.items()
    else:
        yield "", table


def _columns(table: Any) -> Sequence[Any]:
    found = table.column_names if hasattr(table, "column_names") else table.columns
    return list(found)


def _rows(table: Any) -> Iterator[Mapping[str, Any]]:
    if hasattr(table, "to_dict") and hasattr(table, "iloc"):  # pandas
        names = [str(column) for column in table.columns]
        for values in table.itertuples(index=False, name=None):
            yield dict(zip(names, values, strict=True))
    elif hasattr(table, "iter_rows"):  # polars
        yield from table.iter_rows(named=True)
    else:
        yield from _undecoded(table)


def _undecoded(table: Any) -> Any:
    """A data set whose images stay encoded, which takes a fraction of the memory and keeps their digests."""
    for column, feature in (getattr(table, "features", None) or {}).items():
        if type(feature).__name__ == "Image" and getattr(feature, "decode", False):
            table = table.cast_column(column, type(feature)(decode=False))
    return table


def _class_names(table: Any, column: str) -> tuple[str, ...]:
    """The names behind a data set's numbers."""
    feature = (getattr(table, "features", None) or {}).get(column)
    feature = getattr(feature, "feature", feature)  # of a list of labels: of each
    return tuple(getattr(feature, "names", None) or ())


def _texts(values: Any, what: str, classes: Sequence[str] = ()) -> list[str]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise UsageError(f"{what} is {values!r}; expected a list with one for each image.")
    return [_text(value, f"{what}[{number}]", classes) for number, value in enumerate(values)]


def _sets(values: Any, classes: Sequence[str]) -> list[str]:
    """The labels of each image, with bars between them."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise UsageError(f"labels is {values!r:.80}; expected a list with the labels of each image.")
    forms = Forms()
    return [
        labels_of(_known(value, classes, f"labels[{number}]"), f"labels[{number}]", forms)
        for number, value in enumerate(values)
    ]


def _known(value: Any, classes: Sequence[str], where: str) -> Any:
    """A list of numbers by the names of their classes; anything else as it is."""
    if not classes or isinstance(value, str) or not isinstance(value, Iterable):
        return value
    return [_text(one, where, classes) for one in value]


def _text(value: Any, what: str, classes: Sequence[str] = ()) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_)):
        if classes and not 0 <= value < len(classes):
            raise UsageError(f"{what} is {value}, but there are {len(classes)} classes, which count from 0.")
        return classes[int(value)] if classes else str(int(value))
    hint = ""
    if _is_missing(value):
        hint = " Leave images without one out, in pandas by table.dropna(subset=[COLUMN])."
    elif isinstance(value, (list, tuple, set)):
        hint = " For pictures of several classes, or of none, say several_labels=True."
    raise UsageError(f"{what} is {value!r:.80}; expected a text or a whole number.{hint}")


def _is_missing(value: Any) -> bool:
    """Whether a cell has no value: None, NaN, or the NA and NaT of pandas."""
    return value is None or (isinstance(value, float) and value != value) or str(value) in ("<NA>", "NaT")


def _part(said: str) -> Part:
    part = part_named(said)
    if part is None:
        raise UsageError(f"a part is {said!r}; expected train, val or test.")
    return part
