"""What a request asks of its pictures, from the fields of its form.

>>> question({"top": ["3"], "classes": ["robin, wren"]}, most_classes=200)  # doctest: +ELLIPSIS
Question(top=3, asked=Asked(coverage=None, ...), task=None, classes=('robin', 'wren'))
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shotfit.errors import UsageError, first_few
from shotfit.fitting.asked import NOTHING_MORE, Asked
from shotfit.server.bodies import FILES
from shotfit.server.limits import RefusedError

__all__ = ["FIELDS", "Question", "as_field", "question"]

FIELDS = {
    "top": "How many classes of each picture, the most probable first; 1 without it, or of a model of several labels "
    "those above their thresholds.",
    "coverage": "Also a set of classes that holds the true one of this share of pictures, such as 0.95.",
    "unknown": "true: also whether the picture belongs to no class.",
    "classes": "Other class names, between commas, of a method that can predict them; quotes keep a comma.",
    "task": "Which of the model's tasks; with classes also a new one.",
}
"""The fields beside the pictures, and what each says."""

MOST_TOP = 10**6
NAME_LENGTH = 500  # characters of a class or a task

_FLAG = re.compile(r"--(?=[a-z])")


@dataclass(frozen=True)
class Question:
    """What is asked of each picture of a request. Pictures with equal questions, but for a `top`, run together."""

    top: int | None = None
    asked: Asked = NOTHING_MORE
    task: str | None = None
    classes: tuple[str, ...] = ()


def question(fields: Mapping[str, Sequence[str]], most_classes: int) -> Question:
    """The question of a form's fields.

    Raises RefusedError (400) for a field that is not known, is there twice, or has a value that cannot be used.
    """
    unknown = [name for name in fields if name not in FIELDS]
    if unknown:
        known = ", ".join([FILES, *FIELDS])
        raise RefusedError(400, f"There is no field {first_few([name[:100] for name in unknown])}; use {known}.")
    texts = {name: values[0] for name, values in fields.items()}
    twice = next((name for name, values in fields.items() if len(values) > 1), None)
    if twice is not None:
        raise RefusedError(400, f"The field {twice} is there {len(fields[twice])} times: give it once.")
    top = None if "top" not in texts else _number("top", texts["top"], "a whole number of 1 or more, such as 3")
    if top is not None and (top != int(top) or not 1 <= top <= MOST_TOP):
        raise RefusedError(400, f"The field top is {texts['top'][:100]!r}; expected a whole number of 1 or more.")
    coverage = None if "coverage" not in texts else _number("coverage", texts["coverage"], "a share such as 0.95")
    try:
        asked = Asked(coverage, unknown=_flag("unknown", texts.get("unknown", "false")))
    except UsageError as error:
        raise RefusedError(400, as_field(str(error))) from None
    task = texts.get("task")
    if task is not None and not 0 < len(task) <= NAME_LENGTH:
        raise RefusedError(400, f"The field task has {len(task):,} characters; expected 1 to {NAME_LENGTH}.")
    classes = _classes(texts["classes"], most_classes) if "classes" in texts else ()
    return Question(None if top is None else int(top), asked, task, classes)


def as_field(sentence: str) -> str:
    """A sentence of the library, which names flags, as one about fields.

    >>> as_field("--coverage is 2; expected a share.")
    'coverage is 2; expected a share.'
    """
    return _FLAG.sub("", sentence)


def _number(name: str, text: str, expected: str) -> float:
    try:
        value = float(text) if len(text) <= 30 else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RefusedError(400, f"The field {name} is {text[:100]!r}; expected {expected}.")
    return value


def _flag(name: str, text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    found = words.get(text.strip().lower())
    if found is None:
        raise RefusedError(400, f"The field {name} is {text[:100]!r}; expected true or false.")
    return found


def _classes(text: str, most: int) -> tuple[str, ...]:
    try:
        (row,) = csv.reader([text], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError):
        row = []
    names = tuple(name.strip() for name in row)
    if not names or not all(0 < len(name) <= NAME_LENGTH for name in names):
        raise RefusedError(
            400,
            f"The field classes is {text[:100]!r}; expected names of at most {NAME_LENGTH} characters with single "
            "commas between them, as in robin,wren (a name with a comma in double quotes).",
        )
    if len(names) > most:
        raise RefusedError(413, f"The field classes has {len(names):,} names; at most {most:,} are taken.")
    return names
