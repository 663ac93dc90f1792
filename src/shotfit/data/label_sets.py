"""Several labels a picture: how lists write them, and from a listing whose classes are such sets to one of the classes.

    path,label                  path,cat,dog
    a.jpg,cat|dog               a.jpg,1,1
    b.jpg,                      b.jpg,0,0

A label column holds names with | between them, or in JSON and Parquet a list; an empty cell or list is a picture of
none of the classes. Or each class has a column of 0 and 1. A file has one of these forms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from shotfit.data.listing import PARTS, Listing, Part, listed, without_picture
from shotfit.data.pictures import Picture
from shotfit.data.tasks import Task
from shotfit.errors import ShotfitError, UsageError, first_few

__all__ = [
    "BAR",
    "FLAG",
    "MARKS",
    "Forms",
    "check_alone",
    "check_one_label",
    "labels_in_columns",
    "labels_of",
    "refuse_format",
    "separated",
]

BAR = "|"
FLAG = "--several-labels (several_labels=True in Python)"
MARKS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


class Forms:
    """Which form the labels of one file have, by the first that shows it."""

    def __init__(self) -> None:
        self.seen: tuple[str, str] | None = None  # the form, and where it stands

    def add(self, form: str, where: str) -> None:
        """Refuse another form than those before. Raises ShotfitError."""
        if self.seen is None:
            self.seen = form, where
        elif self.seen[0] != form:
            raise ShotfitError(
                f"{where}: the labels are {form}, but {self.seen[0]} in {self.seen[1]}; write them in one way, as "
                "cat|dog or as lists."
            )


def labels_of(value: Any, where: str, forms: Forms) -> str:
    """The labels of a cell, with bars between them; "" for none. Raises ShotfitError for what is no labels.

    >>> labels_of(["cat", 3], "line 2", Forms()), labels_of(" cat | dog|cat", "line 2", Forms())
    ('cat|3', 'cat|dog')
    """
    if value is None or (isinstance(value, float) and value != value):  # a cell without a value, in tables NaN
        return ""
    if isinstance(value, (list, tuple)) or hasattr(value, "tolist"):
        values = value.tolist() if hasattr(value, "tolist") else list(value)
        if not isinstance(values, list) or not all(_is_label(one) for one in values):
            raise ShotfitError(f"{where}: the labels are {value!r:.80}; expected a list of texts or whole numbers.")
        names = [str(one).strip() for one in values]
        barred = next((name for name in names if BAR in name), None)
        if barred is not None:
            raise ShotfitError(f"{where}: the label {barred[:80]!r} of a list holds a |; give the class another name.")
        if names:
            forms.add("lists", where)
    elif _is_label(value):
        text = str(value).strip()
        if text.startswith("[") and text.endswith("]"):
            raise ShotfitError(
                f"{where}: the label {text[:80]!r} looks like a list in a text; write its names with | between them, "
                "as in cat|dog."
            )
        names = [name.strip() for name in text.split(BAR)] if text else []
        if names:
            forms.add("texts", where)
    else:
        raise ShotfitError(f"{where}: the label is {value!r:.80}; expected a text such as cat|dog, or a list of names.")
    if not all(names):
        raise ShotfitError(f"{where} has an empty name among its labels; leave the bar or entry out.")
    return BAR.join(dict.fromkeys(names))


def labels_in_columns(line: Mapping[str, Any], columns: Sequence[str], where: str) -> str:
    """The labels of a line whose columns are classes. Raises ShotfitError for a cell that is neither 0 nor 1."""
    held = []
    for name in columns:
        mark = MARKS.get(str(line.get(name)).strip().casefold())
        if mark is None:
            raise ShotfitError(
                f"{where}: the column {name!r} is {line.get(name)!r:.80}; the column of a class holds 0 or 1. Leave "
                "other columns out, or name the column of the labels with --label-column."
            )
        if mark:
            held.append(name)
    return BAR.join(held)


def check_one_label(labels: Iterable[str], where: str) -> None:
    """Refuse different labels some of which are sets of others, where nobody said that a picture has several.

    A name with a bar whose parts stand nowhere else is a name. Raises ShotfitError.
    """
    sets = {label: set(label.split(BAR)) for label in labels}
    counts = Counter(name for own in sets.values() for name in own)
    several = next((label for label, own in sets.items() if len(own) > 1 and all(counts[one] > 1 for one in own)), None)
    if several is not None:
        raise ShotfitError(
            f"{where} has the label {several[:80]!r}, which names several classes; say {FLAG} for pictures of several "
            "classes, or give each picture one label."
        )


def check_alone(tasks: Iterable[Task], what: str) -> None:
    """Refuse tasks of several labels a picture for what is about one. Raises UsageError."""
    several = next((task.name for task in tasks if task.classes.several_labels), None)
    if several is not None:
        raise UsageError(f"{what} is about one label a picture, and {several} may have several: leave it out.")


def separated(listing: Listing, known: Sequence[str] = ()) -> tuple[Listing, dict[Part, list[tuple[int, ...]]]]:
    """The listing of the classes in one whose classes are sets of them, and the labels of each picture of a part.

    known: classes that there are anyway, in front of others. The label of a picture in the listing is its first, or 0
    where it has none. Raises ShotfitError for no class.
    """
    sets = [tuple(name.split(BAR)) if name else () for name in listing.classes]
    used = [sets[label] for part in PARTS for _, label in listing.parts[part]]
    found = sorted({name for own in used for name in own}, key=_by_number)
    names = listed([], "", classes=[*known, *found]).classes
    if not names:
        raise ShotfitError(f"{listing.reader} labels no picture; expected some with a class.")
    place = {name: number for number, name in enumerate(names)}
    labels = {part: [tuple(place[name] for name in sets[label]) for _, label in listing.parts[part]] for part in PARTS}
    parts: dict[Part, list[tuple[Picture, int]]] = {
        part: [(picture, own[0] if own else 0) for (picture, _), own in zip(found, labels[part], strict=True)]
        for part, found in listing.parts.items()
    }
    notes = (*listing.notes, *without_picture(listing.known, names))
    return replace(listing, classes=names, parts=parts, notes=notes), labels


def refuse_format(read_as: str, known: Sequence[str]) -> UsageError:
    """Why a format gives no several labels."""
    return UsageError(
        f"{FLAG} goes with a list of pictures ({first_few(known, 9)}), and this is read as {read_as}: write a manifest "
        "with a label column such as cat|dog."
    )


def _is_label(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _by_number(name: str) -> tuple[int, int, str]:
    """Names that are numbers in their order, in front of others."""
    return (0, int(name), name) if name.isdecimal() and len(name) < 100 else (1, 0, name)
