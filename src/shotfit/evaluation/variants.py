"""Variants of methods, as a comparison names them: `coop`, `coop+length=4`, `my_method.py:Offset+start=0.1+lr=0.01`.

Behind the method stand its recipe (`mma@paper`), its options, and `lr`, `epochs` or `steps` in place of the recipe's.
The whole text is the variant's name in tables. `auto` is the race of `fit --method auto`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import cast, get_args

from shotfit.errors import UsageError
from shotfit.fitting.fit import RecipeName
from shotfit.fitting.race import AUTO, shortlist
from shotfit.methods import find
from shotfit.methods.base import Method

__all__ = ["Variant", "read_variant"]

_OPTION = re.compile(r"\+(?=[A-Za-z_]\w*=)")  # a plus inside a value or a file's name begins no option


@dataclass(frozen=True, eq=False)
class Variant:
    """A method with its options and recipe, and its rate, epochs and steps where they are fixed (else None).

    prototype: None is `auto`.
    """

    name: str
    prototype: Method | None
    lr: float | None = None
    epochs: int | None = None
    steps: int | None = None
    recipe: RecipeName = "auto"

    @property
    def method(self) -> str:
        """The method's name."""
        return AUTO if self.prototype is None else self.prototype.name

    @property
    def several_tasks(self) -> bool:
        """Whether it fits several tasks at once."""
        return self.prototype is not None and self.prototype.several_tasks

    def entrants(self, new_classes: bool) -> list[Method]:
        """The method, or those that `auto` races; new_classes: it is asked for classes that are not fitted."""
        return [self.prototype] if self.prototype is not None else shortlist(new_classes)


def read_variant(text: str, lr: float | None = None, epochs: int | None = None, recipe: RecipeName = "auto") -> Variant:
    """The variant that a text means: method, @recipe, and +option=value as often as wanted.

    lr, epochs, recipe: what holds where the text does not say; rate and length of methods that take gradient steps.

    Raises UsageError for an unknown method, an unknown or doubled option, an impossible value, and for `lr` or `epochs`
    of a method that takes no gradient steps.

        >>> read_variant("coop+length=4+lr=0.01").entrants(False)[0].options()["length"]
        4
        >>> read_variant("mma@paper+lr=0.006").recipe
        'paper'
    """
    name, *parts = _OPTION.split(text)
    if "+" in name and ".py:" not in name:
        raise UsageError(f"{text!r} is no method with options; write name+option=value, as in coop+length=4.")
    name, at, asked = name.rpartition("@") if re.search(r"@(\w*)$", name) else (name, "", "")
    if at and asked not in get_args(RecipeName):
        raise UsageError(f"{text!r} asks for the recipe {asked!r}: use @auto or @paper.")
    recipe = cast(RecipeName, asked) if at else recipe
    given: dict[str, str] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if value.endswith(("@auto", "@paper")):
            end = value[value.rindex("@") :]
            raise UsageError(f"{text!r} names its recipe last: put it behind the method, as in {name}{end}+{key}=...")
        if key in given:
            raise UsageError(f"{text!r} gives {key} twice; give it once.")
        given[key] = value
    if name == AUTO:
        given |= {key: "" for key, value in (("lr", lr), ("epochs", epochs)) if value is not None}
        if given:
            raise UsageError(f"auto tries several methods, but {next(iter(given))} is given: name the one it is of.")
        return Variant(text, None, recipe=recipe)
    steps = {key: given.pop(key) for key in ("lr", "epochs", "steps") if key in given}
    prototype = find(name).with_options(given)
    if prototype.training_recipe() is None:
        for key in steps:
            raise UsageError(f"{text!r} sets {key}, but {prototype.name} takes no gradient steps: leave it out.")
        return Variant(text, prototype, recipe=recipe)
    if "epochs" in steps and "steps" in steps:
        raise UsageError(f"{text!r} gives both epochs and steps: leave one of them out.")
    length = {key: _count(text, key, steps[key]) for key in ("epochs", "steps") if key in steps}
    if not length and epochs is not None:
        length = {"epochs": epochs}
    return Variant(text, prototype, _rate(text, steps["lr"]) if "lr" in steps else lr, **length, recipe=recipe)


def _rate(text: str, value: str) -> float:
    try:
        rate = float(value)
    except ValueError:
        rate = 0.0
    if not 0 < rate < math.inf:
        raise UsageError(f"{text!r}: lr must be a number above 0, but is {value!r}.")
    return rate


def _count(text: str, key: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10 and int(value) > 0):
        raise UsageError(f"{text!r}: {key} must be a whole number from 1, of at most nine digits, but is {value!r}.")
    return int(value)
